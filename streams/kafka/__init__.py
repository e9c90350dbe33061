"""What makes Faust fast and exactly-once. The only place that knows Faust's and aiokafka's inner names.

Read in this order:

- ``batches``       what a Faust event is here: a batch of records of one partition
- ``application``   the Faust app: it serves a stage by handing batches to lanes
- ``transport``     the consumer that yields batches, and ticks
- ``lanes``         one task per owned partition: the order of a batch, state by state
- ``producer``      aiokafka's, with a compression that is chosen for each batch by its size
- ``transactions``  one Kafka transaction a batch, and what aiokafka demands for it to be safe
- ``publishing``    batches without a transaction, for the stages that may repeat themselves
- ``closing``       ends of aiokafka's clients that come whatever the broker does
- ``offsets``       what a group committed, and no answer taken for nothing
- ``positions``     how far all lanes are, told to the group together, late but never early
- ``partitioner``   Kafka's own: one delivery, one partition, whoever wrote it
- ``store``         RocksDB: a copy of the changelog, never ahead of it
- ``restore``       from a new assignment to running lanes: fence, restore, seek
- ``poison``        when bad records stop a partition; and its position, which remembers that
- ``control``       the command that lets it go on
- ``dead_letters``  where bad records go, with their origin and the reason
- ``progress``      what time it is for a tick, and how far behind each partition is
- ``watchdog``      a worker that makes no progress ends itself

``tests/contracts`` names every inner name that these files rely on.
"""

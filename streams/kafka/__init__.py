"""What makes Faust fast and exactly-once. The only place that knows Faust's and aiokafka's internal names.

Read in this order:

- ``batches``       what a Faust event is here: a batch of records of one partition
- ``application``   the Faust app: it serves a stage by handing batches to lanes
- ``assignor``      Faust's, for members that come back under their name from another host, too
- ``transport``     the consumer that yields batches, and ticks
- ``lanes``         one task per owned partition: the steps of a batch, in order
- ``producer``      aiokafka's, with a compression chosen for each batch by its size
- ``session``       the requests that write, one after the other: a transaction is three, rows alone are one
- ``transactions``  one Kafka transaction per batch; after any doubt the process ends
- ``publishing``    batches without a transaction, for stages that may repeat a batch; those of many lanes go together
- ``closing``       stops aiokafka's clients, whatever the broker does
- ``offsets``       what a group committed; a missing answer is an error
- ``positions``     how far a partition is; those of all lanes are committed together: late, never early
- ``partitioner``   Kafka's own: every client sends a delivery to the same partition
- ``store``         RocksDB: a copy of the changelog, never ahead of it
- ``stores``        the stores of the owned partitions, brought up to the end of their changelogs
- ``restore``       from a new assignment to running lanes: fence, restore, seek
- ``poison``        when bad records stop a partition, and how it is resumed
- ``control``       the command that resumes a stopped partition
- ``dead_letters``  where bad records go, with their origin and the reason
- ``progress``      the time for a tick, and the lag of each partition
- ``walk``          which of what is due a tick looks at, while some of it has to wait
- ``watchdog``      a worker that makes no progress ends itself

``tests/contracts`` lists every internal name that these files rely on.
"""

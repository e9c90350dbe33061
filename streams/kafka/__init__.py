"""What makes Faust fast and exactly-once. The only place that knows Faust's and aiokafka's inner names.

Read in this order:

- ``batches``       what a Faust event is here: a batch of records of one partition
- ``transport``     the consumer that yields batches, and ticks
- ``lanes``         one task per owned partition: the order of a batch, state by state
- ``transactions``  one Kafka transaction a batch, and what aiokafka demands for it to be safe
- ``publishing``    batches without a transaction, for the stage that may repeat itself
- ``store``         RocksDB: a copy of the changelog, never ahead of it
- ``restore``       from a new assignment to running lanes: fence, restore, seek
- ``poison``        when bad records stop a partition, and how it is resumed
- ``clock``         what time it is for a tick
- ``watchdog``      a worker that makes no progress ends itself

``tests/contracts`` names every inner name that these files rely on.
"""

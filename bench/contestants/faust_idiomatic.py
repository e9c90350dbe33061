"""Faust as in its documentation: an agent, a table in RocksDB, one ``send`` per event. At least once, at best.

It does the thin job only, in Faust's own way: Faust decodes and encodes the values.
"""

import sys
from typing import Any

import faust
import uvloop
from faust.types import StreamT

from bench.contestants import Task
from bench.jobs.thin import STATUS


def app_of(task: Task) -> faust.App:
    """Return the app."""
    app = faust.App(
        task.group,
        broker=f"kafka://{task.bootstrap}",
        store="rocksdb://",
        datadir=str(task.folder),
        topic_partitions=task.partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        producer_compression_type=None if task.compression == "none" else task.compression,
        web_enabled=False,
        autodiscover=False,
    )
    source = app.topic(task.source, key_type=str, key_serializer="raw", value_serializer="json")
    changed = app.topic(task.outputs["changed"], key_serializer="raw", value_serializer="json")
    rows = app.Table("rows", partitions=task.partitions, options={"driver": "rocksdict"})

    @app.agent(source)
    async def track(stream: StreamT[Any]) -> None:
        async for key, event in stream.items():
            row = rows.get(key)
            before = None if row is None else row["status"]
            status = STATUS[event["event"]]
            rows[key] = {"status": status, "at": event["timestamp"], "email": event["email"]}
            if status != before:
                await changed.send(key=key, value={"id": key, "from": before, "to": status})

    return app


if __name__ == "__main__":
    uvloop.install()
    task = Task.of_this_process()
    sys.argv = [sys.argv[0], "worker", "-l", "warn", "--without-web"]
    app_of(task).main()

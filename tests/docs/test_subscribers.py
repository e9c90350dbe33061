"""The subscribers that the documentation shows, run as they stand there: only broker, topic and group are replaced."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import Any, Self

import pytest
from aiokafka import AIOKafkaProducer

from deploy.local import ROOT
from deploy.local.broker import Broker
from streams import codecs
from tests.contracts.clients import new_topic, settled, unique
from tests.docs import pages

EXAMPLES = ROOT / "schemas" / "examples" / "status.v1"
_Producer: Any = AIOKafkaProducer


def status(name: str, **changed: object) -> dict[str, Any]:
    record: dict[str, Any] = codecs.decode((EXAMPLES / f"{name}.json").read_bytes())
    return record | changed


async def write(broker: Broker, topic: str, rows: Sequence[dict[str, Any] | bytes], *, commit: bool = True) -> None:
    """Write records, or tombstones for the delivery ids given as bytes, in one transaction."""
    name = unique("docs")
    producer = _Producer(bootstrap_servers=broker.bootstrap, transactional_id=name)
    await producer.start()
    try:
        await producer.begin_transaction()
        for row in rows:
            key, value = (row, None) if isinstance(row, bytes) else (row["delivery_id"].encode(), codecs.encode(row))
            await producer.send_and_wait(topic, key=key, value=value)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()
        await settled(broker.bootstrap, name)


class Subscriber:
    """A program of the documentation, running."""

    def __init__(self, page: str, tmp_path: Path, **replaced: str) -> None:
        (code,) = [block for block in pages.read(page).blocks("python") if "asyncio.run(main())" in block]
        for old, new in replaced.items():
            assert code.count(old) == 1, f"{old} in {page}"
            code = code.replace(old, new)
        self._file = tmp_path / "subscriber.py"
        self._file.write_text(code)
        self._lines: Queue[str] = Queue()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, self._file], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())

    async def next_lines(self, count: int, timeout_s: float = 30) -> list[str]:
        return [await asyncio.to_thread(self._lines.get, timeout=timeout_s) for _ in range(count)]

    async def says_no_more(self, quiet_s: float = 1.5) -> bool:
        try:
            await asyncio.to_thread(self._lines.get, timeout=quiet_s)
        except Empty:
            return self._process.poll() is None
        return False


def line(record: dict[str, Any]) -> str:
    return f"{record['reference']} {record['status']} {record['advice']['what_to_do']}"


@pytest.mark.timeout(120)
async def test_the_readmes_subscriber_tells_each_change_once_and_forgets_what_expired(
    broker: Broker, tmp_path: Path
) -> None:
    topic = await new_topic(broker, "mail.status")
    sent, deferred, delivered = status("sent", revision=1), status("deferred"), status("delivered", revision=3)
    one = sent["delivery_id"]
    deferred |= {"delivery_id": one}
    delivered |= {"delivery_id": one}
    await write(broker, topic, [sent, deferred])
    replaced = {"127.0.0.1:19092": broker.bootstrap, '"mail.status"': f'"{topic}"'}
    with Subscriber("README.md", tmp_path, **replaced) as subscriber:
        assert await subscriber.next_lines(2) == [line(sent), line(deferred)]

        await write(broker, topic, [deferred | {"attempts": 3}])  # rewritten between changes
        await write(broker, topic, [delivered], commit=False)  # given up
        assert await subscriber.says_no_more()

        await write(broker, topic, [delivered])
        assert await subscriber.next_lines(1) == [line(delivered)]

        await write(broker, topic, [one.encode(), sent])  # expired; begun anew
        assert await subscriber.next_lines(1) == [line(sent)]
        assert await subscriber.says_no_more()


@pytest.mark.timeout(120)
async def test_the_subscribers_page_shows_one_that_tells_nothing_twice_after_a_restart(
    broker: Broker, tmp_path: Path
) -> None:
    topic, group = await new_topic(broker, "mail.status-changed"), unique("reminders")
    sent, bounced = status("sent"), status("bounced-hard")
    await write(broker, topic, [sent, bounced])
    replaced = {
        "127.0.0.1:19092": broker.bootstrap,
        '"mail.status-changed"': f'"{topic}"',
        '"reminders"': f'"{group}"',
    }
    with Subscriber("docs/subscribing.md", tmp_path, **replaced) as subscriber:
        assert await subscriber.next_lines(2) == [line(sent), line(bounced)]
        assert await subscriber.says_no_more()
    with Subscriber("docs/subscribing.md", tmp_path, **replaced) as subscriber:
        await write(broker, topic, [sent | {"revision": 9, "reference": "the next"}])
        assert await subscriber.next_lines(1) == [line(sent | {"reference": "the next"})]


def test_the_readmes_subscriber_is_short() -> None:
    (code,) = pages.read("README.md").blocks("python")
    assert len([each for each in code.splitlines() if each.strip()]) <= 18

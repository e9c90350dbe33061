"""The made-up world through a real worker: every message ends as its story says, and sends tell what providers do not."""

import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streams import records, topics
from streams.domain.events import BounceKind
from streams.domain.status import Status
from streams.simulate.story import PROFILES, PROVIDERS, Ending, life
from tests.broker import harness
from tests.broker.conftest import Make, World


async def test_sends_and_webhooks_become_statuses_and_nothing_a_dead_letter(make_world: Make, tmp_path: Path) -> None:
    world = await make_world()
    world.worker.start()
    world.worker.wait_ready()

    options = ("--profile", "load", "--rate", "60", "--messages", "240", "--quiet", "--secrets", tmp_path / "secrets")
    played = subprocess.run(
        [sys.executable, "-m", "streams", "simulate", "--kafka", *options],
        env=dict(world.worker.environment) | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert played.returncode == 0, played.stderr
    sources = (*map(topics.raw_topic, PROVIDERS), topics.SENDS, topics.EVENTS)
    await harness.caught_up(world.broker, world.settings, sources, 60)

    assert world.worker.stop() == 0
    newest = [records.decode_status(one.value) for one in await last_of_each_key(world)]
    ended = {int(one["reference"].rpartition("-")[2]) - 1: ending_of(one) for one in newest}
    assert ended == {number: said(number) for number in range(240)}
    changes = [records.decode_status(one.value) for one in await world.read(topics.STATUS_CHANGED)]
    begun = Counter((one["provider"], one["status"]) for one in changes if one["previous"] is None)
    assert begun["postmark", "sent"] > 20
    assert await world.read(topics.DEAD_LETTERS) == []
    assert await world.verify()


def said(number: int) -> Ending:
    """Return the end that the story tells; only the ids depend on the time."""
    return life(seed=1, number=number, sent_at=datetime.now(UTC), profile=PROFILES["load"], account="demo").ending


def ending_of(shown: dict[str, Any]) -> Ending:
    kind = shown["bounce_kind"] and BounceKind(shown["bounce_kind"])
    return Ending(Status(shown["status"]), kind, shown["complained"], shown["unsubscribed"])


async def last_of_each_key(world: World) -> list[harness.Record]:
    return list({one.key: one for one in await world.read(topics.STATUS)}.values())

"""The witness waits for every stage, and a pulse names where it came through."""

from itertools import islice

import pytest

from streams import codecs
from streams.settings import Settings, load
from tests.faults.traffic import Subscriber, pulses

PARTITIONS = 4
STAGES = ("raw", "sends", "told", "watched")


@pytest.fixture
def settings() -> Settings:
    return load(environment={"MAILSTREAMS_TOPICS__PARTITIONS": str(PARTITIONS)})


@pytest.mark.parametrize("standing", STAGES)
async def test_one_partition_of_one_stage_that_stands_is_no_recovery(standing: str, settings: Settings) -> None:
    subscriber = Subscriber("127.0.0.1:1", settings)
    subscriber.processed_ms = {(stage, p): 1000 for stage in STAGES for p in range(PARTITIONS)}
    await subscriber.recovered(1000, 1)

    subscriber.processed_ms[standing, 2] = 999

    with pytest.raises(TimeoutError):
        await subscriber.recovered(1000, 0.1)


def test_a_reference_names_the_partition_through_which_it_came() -> None:
    found = list(islice(pulses(7, PARTITIONS), 200))

    for pulse in found:
        references = {event.get("invoice", "none-") for event in codecs.decode(pulse.body)}
        assert {one.partition("-")[0] for one in references} <= {f"R{pulse.partition}", "none"}
        own, _ = pulse.sends
        assert own[1].reference is not None
        assert own[1].reference.startswith(f"S{own[0]}-")
    assert {partition for pulse in found for partition, _ in pulse.sends} == set(range(PARTITIONS))

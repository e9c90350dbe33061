"""Dead letters are listed, shown and replayed."""

import secrets
import time
from dataclasses import replace
from typing import Any

import pytest

from streams import codecs, records, topics
from streams.domain.events import EventType
from streams.domain.status import Delivery, fold
from tests.cli.conftest import Cluster, Invoke
from tests.domain.deliveries import event
from tests.test_texts import HOSTILE

TOPIC = "mail.raw.postmark"
NOW_MS = round(time.time() * 1000)


def write(cluster: Cluster, value: bytes | None, *, limit: int = 1000, **changes: Any) -> records.DeadLetter:
    """Write a dead letter of an origin that no other test has."""
    origin: dict[str, Any] = {
        "topic": TOPIC,
        "partition": 1,
        "offset": secrets.randbelow(10**12),
        "timestamp_ms": 1_795_341_603_000,
        "stage": "normalise",
        "reason": "no RecordType",
        "headers": [("account", b"billing"), ("received-at", b"2026-11-22T10:00:00Z")],
    }
    written_at = {"timestamp_ms": at} if (at := changes.pop("written_at", None)) else {}
    letter = records.dead_letter(value, **(origin | changes))
    kept, headers = records.encode_dead_letter(letter, limit=limit)
    cluster.produce(topics.DEAD_LETTERS, {"value": kept, "headers": headers, **written_at})
    return letter


def name_of(letter: records.DeadLetter) -> str:
    element = "" if letter.element is None else f"#{letter.element}"
    return f"{letter.topic}/{letter.partition}/{letter.offset}{element}"


def test_the_list_names_origin_size_and_reason(invoke: Invoke, cluster: Cluster) -> None:
    whole = write(cluster, b"{}")
    element = write(cluster, b'{"a": 1}', element=3)
    cut = write(cluster, b"x" * 50, limit=10)

    lines = invoke("dead-letters", "list").stdout.splitlines()

    assert f"2026-11-22 10:00:03  {name_of(whole)}  2 bytes  no RecordType" in lines
    assert f"2026-11-22 10:00:03  {name_of(element)}  8 bytes  no RecordType" in lines
    assert f"2026-11-22 10:00:03  {name_of(cut)}  50 bytes, truncated  no RecordType" in lines


def test_the_list_can_be_read_by_a_program_and_narrowed_to_a_topic(invoke: Invoke, cluster: Cluster) -> None:
    letter = write(cluster, b"{}", topic="mail.raw.mailgun")
    write(cluster, b"{}")

    lines = invoke("dead-letters", "list", "--topic", "mail.raw.mailgun", "--json").stdout.splitlines()

    found = [codecs.decode(line) for line in lines]
    assert name_of(letter) in [one["id"] for one in found]
    assert {one["topic"] for one in found} == {"mail.raw.mailgun"}


def test_an_empty_list_is_exit_code_1(invoke: Invoke, cluster: Cluster) -> None:
    result = invoke("dead-letters", "list", "--topic", "mail.raw.never")

    assert (result.exit_code, result.stderr) == (1, "mailstreams: no dead letters from mail.raw.never\n")
    assert cluster.settings


def test_a_dead_letter_is_shown_with_its_headers_and_its_exact_bytes(invoke: Invoke, cluster: Cluster) -> None:
    letter = write(cluster, b"\xff\x00{}")

    text = invoke("dead-letters", "show", name_of(letter)).stdout
    as_json = codecs.decode(invoke("dead-letters", "show", name_of(letter), "--json").stdout)
    body = invoke("dead-letters", "show", name_of(letter), "--body").stdout_bytes

    assert "reason: no RecordType\n" in text
    assert "header account: billing\n" in text
    assert (as_json["sha256"], as_json["headers"]["account"]) == (letter.sha256, "billing")
    assert body == b"\xff\x00{}"


def test_one_that_is_not_there_is_exit_code_1_and_no_id_is_wrong_use(invoke: Invoke, cluster: Cluster) -> None:
    assert invoke("dead-letters", "show", f"{TOPIC}/0/999999999999999").exit_code == 1
    assert invoke("dead-letters", "replay", f"{TOPIC}/0/999999999999999").exit_code == 1
    assert invoke("dead-letters", "show", "nonsense").exit_code == 2
    assert cluster.settings


def replayed(cluster: Cluster, value: bytes) -> list[Any]:
    return [record for record in cluster.consume(TOPIC) if record.value == value]


def test_a_replayed_one_is_the_original_record_again(invoke: Invoke, cluster: Cluster) -> None:
    value = secrets.token_bytes(16)
    letter = write(cluster, value, key=b"its-key")
    write(cluster, value + b" not this one")

    result = invoke("dead-letters", "replay", name_of(letter))

    assert (result.exit_code, result.stderr) == (0, "1 dead letter replayed, 0 refused\n")
    (record,) = replayed(cluster, value)
    assert (record.key, list(record.headers)) == (b"its-key", list(letter.headers))
    assert replayed(cluster, value + b" not this one") == []


def test_a_topic_that_is_missing_is_said_with_the_command_that_creates_it(
    invoke: Invoke, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the producer asks for it, which creates it with one partition where a broker does so, or waits for half a minute."""
    gone = "mail.raw.gone"
    monkeypatch.setattr(topics, "SENDS", gone)  # one of ours
    letter = write(cluster, b"{}", topic=gone)

    result = invoke("dead-letters", "replay", name_of(letter))

    assert (result.exit_code, result.stderr) == (
        3,
        f"mailstreams: topic {gone} is missing; create it: mailstreams topics create\n",
    )


def test_one_element_can_be_replayed_without_the_others_of_its_body(invoke: Invoke, cluster: Cluster) -> None:
    one, two = secrets.token_bytes(16), secrets.token_bytes(16)
    letter = write(cluster, one, element=0)
    write(cluster, two, element=1, offset=letter.offset)

    invoke("dead-letters", "replay", name_of(letter))
    assert (len(replayed(cluster, one)), len(replayed(cluster, two))) == (1, 0)

    invoke("dead-letters", "replay", name_of(letter).partition("#")[0])
    assert (len(replayed(cluster, one)), len(replayed(cluster, two))) == (2, 1)


def test_a_letter_of_a_topic_that_was_created_again_does_not_hide_an_older_one(
    invoke: Invoke, cluster: Cluster
) -> None:
    old, new = secrets.token_bytes(16), secrets.token_bytes(16)
    letter = write(cluster, old)
    write(cluster, new, offset=letter.offset)
    cut = write(cluster, old * 2, offset=letter.offset, limit=10)
    write(cluster, old, offset=letter.offset)  # a copy

    listed = [line for line in invoke("dead-letters", "list").stdout.splitlines() if name_of(letter) in line]
    shown = invoke("dead-letters", "show", name_of(letter), "--body").stdout_bytes
    result = invoke("dead-letters", "replay", name_of(letter), "--json")

    assert len(listed) == 3
    assert sorted(shown) == sorted(old + new + (old * 2)[:10])
    answers = {line["sha256"]: line["replayed"] for line in map(codecs.decode, result.stdout.splitlines())}
    assert [answers.pop(cut.sha256), *answers.values()] == [False, True, True]
    assert (len(replayed(cluster, old)), len(replayed(cluster, new))) == (1, 1)


def test_a_dry_run_replays_nothing(invoke: Invoke, cluster: Cluster) -> None:
    value = secrets.token_bytes(16)
    letter = write(cluster, value)

    result = invoke("dead-letters", "replay", name_of(letter), "--dry-run")

    assert result.stdout == f"would replay {name_of(letter)}\n"
    assert replayed(cluster, value) == []


def test_a_truncated_one_is_refused(invoke: Invoke, cluster: Cluster) -> None:
    value = secrets.token_bytes(50)
    letter = write(cluster, value, limit=10)

    result = invoke("dead-letters", "replay", name_of(letter))

    assert result.exit_code == 1
    assert f"refused {name_of(letter)}: truncated, 10 of 50 bytes are kept" in result.stderr
    assert replayed(cluster, value[:10]) == []


def test_bytes_that_do_not_fit_their_hash_are_refused(invoke: Invoke, cluster: Cluster) -> None:
    letter = records.dead_letter(
        b"original", topic=TOPIC, partition=0, offset=77, timestamp_ms=1, stage="normalise", reason="r"
    )
    _, headers = records.encode_dead_letter(letter, limit=100)
    cluster.produce(topics.DEAD_LETTERS, {"value": b"tampered", "headers": headers})

    result = invoke("dead-letters", "replay", name_of(letter), "--json")

    assert result.exit_code == 1
    assert codecs.decode(result.stdout)["refused"] == "its bytes do not fit its hash"


def test_nothing_is_sent_to_a_topic_that_is_not_ours(invoke: Invoke, cluster: Cluster) -> None:
    letter = write(cluster, b"{}", topic="somebody.elses")

    result = invoke("dead-letters", "replay", name_of(letter))

    assert result.exit_code == 1
    assert "somebody.elses is no topic of ours" in result.stderr


def test_all_of_a_topic_are_replayed_and_the_refused_are_counted(invoke: Invoke, cluster: Cluster) -> None:
    topic = "mail.raw.amazon_ses"
    write(cluster, b"good", topic=topic)
    write(cluster, b"x" * 50, topic=topic, limit=10)
    kept = [
        codecs.decode(line) for line in invoke("dead-letters", "list", "--topic", topic, "--json").stdout.splitlines()
    ]
    before = len(cluster.consume(topic))

    result = invoke("dead-letters", "replay", "--topic", topic)

    cut = sum(one["truncated"] for one in kept)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"{len(kept) - cut} dead letter")
    assert result.stderr.rstrip().endswith(f"{cut} refused")
    assert len(cluster.consume(topic)) - before == len(kept) - cut


def test_they_are_sent_in_the_order_of_their_offsets(invoke: Invoke, cluster: Cluster) -> None:
    topic, value = "mail.raw.azure_communication", secrets.token_bytes(8)
    letters = [
        write(
            cluster,
            value + b"%d" % n,
            topic=topic,
            partition=0,
            offset=offset,
            element=element,
            key=b"one",
            written_at=NOW_MS,
        )
        for n, (offset, element) in enumerate([(10, None), (9, 11), (9, 2), (100, None), (9, None)])
    ]
    in_order = [letters[n] for n in (4, 2, 1, 0, 3)]

    listed = invoke("dead-letters", "list", "--topic", topic, "--json").stdout.splitlines()
    invoke("dead-letters", "replay", "--topic", topic)

    assert [codecs.decode(line)["id"] for line in listed] == [name_of(letter) for letter in in_order]
    sent = [record.value for record in cluster.consume(topic) if record.value.startswith(value)]
    assert sent == [letter.value for letter in in_order]


class Word:
    """A delivery of which ``track`` said several things; a dead letter of each."""

    def __init__(self, cluster: Cluster, *types: EventType) -> None:
        self.cluster = cluster
        self.message_id = secrets.token_hex(8)
        self.deliveries: list[Delivery] = []
        delivery: Delivery | None = None
        for n, type_ in enumerate(types):
            delivery = fold(delivery, replace(event(type_, n * 600), message_id=self.message_id)).delivery
            assert delivery is not None
            self.deliveries.append(delivery)
            value = records.encode_status(delivery, support_contact=None, warn_after_us=1)
            cluster.produce(topics.STATUS, {"key": self.key, "value": value})

    @property
    def key(self) -> bytes:
        return self.deliveries[0].delivery_id.encode()

    def letter(self, n: int) -> records.DeadLetter:
        value = records.encode_deferral(self.deliveries[n], attempt=self.deliveries[n].status == "deferred")
        return self._write(value)

    def forgotten(self, n: int) -> records.DeadLetter:
        self.cluster.produce(topics.STATUS, {"key": self.key, "value": None})
        return self._write(records.encode_forgotten(self.deliveries[n], 1))

    def _write(self, value: bytes) -> records.DeadLetter:
        return write(self.cluster, value, topic=topics.DEFERRALS, key=self.key, headers=[])

    def sent(self) -> list[bytes]:
        return [record.value for record in self.cluster.consume(topics.DEFERRALS) if record.key == self.key]


DEFERRED, DELIVERED = EventType.DEFERRED, EventType.DELIVERED


def test_a_deferral_is_not_said_again_after_the_delivery_has_ended(invoke: Invoke, cluster: Cluster) -> None:
    """The monitor would open an episode that nothing ends."""
    word = Word(cluster, DEFERRED, DEFERRED, DELIVERED)
    first, second, last = (word.letter(n) for n in range(3))

    result = invoke("dead-letters", "replay", name_of(first), name_of(second), name_of(last))

    assert result.exit_code == 1
    why = "something newer was said of its delivery, which has revision 2 and 2 attempts"
    assert f"refused {name_of(first)}: {why}" in result.stderr
    assert f"refused {name_of(second)}: {why}" in result.stderr
    assert "1 dead letter replayed, 2 refused" in result.stderr
    assert word.sent() == [last.value]


def test_the_end_of_a_deferral_is_said_again_whatever_came_after_it(invoke: Invoke, cluster: Cluster) -> None:
    """What ``track`` says of a delivery after its end, it does not say to the monitor."""
    word = Word(cluster, DEFERRED, DELIVERED, EventType.OPEN)
    first, end = word.letter(0), word.letter(1)

    result = invoke("dead-letters", "replay", name_of(first), name_of(end))

    assert f"refused {name_of(first)}: something newer was said of its delivery, which has revision 3" in result.stderr
    assert word.sent() == [end.value]


def test_the_end_of_a_deferral_is_not_said_again_of_one_that_is_deferred_anew(invoke: Invoke, cluster: Cluster) -> None:
    word = Word(cluster, DEFERRED, EventType.DROPPED, DEFERRED)
    end = word.letter(1)

    result = invoke("dead-letters", "replay", name_of(end))

    assert f"refused {name_of(end)}: something newer was said of its delivery, which has revision 3" in result.stderr
    assert word.sent() == []


def test_of_the_deferrals_of_one_that_waits_only_the_last_is_said_again(invoke: Invoke, cluster: Cluster) -> None:
    word = Word(cluster, DEFERRED, DEFERRED)
    first, last = word.letter(0), word.letter(1)

    result = invoke("dead-letters", "replay", name_of(first), name_of(last), "--dry-run")

    assert result.stdout == f"would replay {name_of(last)}\n"
    assert "something newer was said of its delivery, which has revision 1 and 2 attempts" in result.stderr
    assert word.sent() == []


def test_of_a_delivery_that_is_gone_only_that_it_was_forgotten_is_said_again(invoke: Invoke, cluster: Cluster) -> None:
    word = Word(cluster, DEFERRED)
    waiting, forgotten = word.letter(0), word.forgotten(0)

    result = invoke("dead-letters", "replay", name_of(waiting), name_of(forgotten))

    assert f"refused {name_of(waiting)}: its delivery is gone" in result.stderr
    assert word.sent() == [forgotten.value]


def test_that_a_delivery_was_forgotten_is_not_said_of_one_that_began_anew(invoke: Invoke, cluster: Cluster) -> None:
    word = Word(cluster, DEFERRED)
    forgotten = word.forgotten(0)
    anew = records.encode_status(word.deliveries[0], support_contact=None, warn_after_us=1)
    cluster.produce(topics.STATUS, {"key": word.key, "value": anew})

    result = invoke("dead-letters", "replay", name_of(forgotten))

    assert f"refused {name_of(forgotten)}: its delivery was forgotten, and has begun again since" in result.stderr
    assert word.sent() == []


def test_a_word_about_a_delivery_that_is_still_not_understood_is_refused(invoke: Invoke, cluster: Cluster) -> None:
    letter = write(cluster, b"{}", topic=topics.DEFERRALS, key=b"its-key")

    result = invoke("dead-letters", "replay", name_of(letter))

    assert result.exit_code == 1
    assert f"refused {name_of(letter)}: it is not understood by this version either: " in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--all", f"{TOPIC}/0/1"]])
def test_what_to_replay_must_be_said_in_one_way(invoke: Invoke, arguments: list[str]) -> None:
    assert invoke("dead-letters", "replay", *arguments).exit_code == 2


def test_hostile_bytes_reach_no_terminal(invoke: Invoke, cluster: Cluster) -> None:
    letter = write(cluster, HOSTILE.encode(), reason=HOSTILE, headers=[(HOSTILE, HOSTILE.encode())])

    texts = [
        invoke("dead-letters", "list").stdout,
        invoke("dead-letters", "show", name_of(letter)).stdout,
        invoke("dead-letters", "show", name_of(letter), "--json").stdout,
    ]

    for text in texts:
        assert all(line.isprintable() for line in text.splitlines())
    assert not any(line.startswith("forged") for text in texts for line in text.splitlines())


def test_a_record_that_is_no_dead_letter_is_noted(invoke: Invoke, cluster: Cluster) -> None:
    write(cluster, b"{}")
    cluster.produce(topics.DEAD_LETTERS, {"value": b"nonsense"})

    result = invoke("dead-letters", "list")

    assert result.exit_code == 0
    assert "cannot be read" in result.stderr

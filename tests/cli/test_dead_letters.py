"""Dead letters are listed, shown and replayed."""

import secrets
from typing import Any

import pytest

from streams import codecs, records, topics
from tests.cli.conftest import Cluster, Invoke
from tests.test_texts import HOSTILE

TOPIC = "mail.raw.postmark"


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
    letter = records.dead_letter(value, **(origin | changes))
    kept, headers = records.encode_dead_letter(letter, limit=limit)
    cluster.produce(topics.DEAD_LETTERS, {"value": kept, "headers": headers})
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

    assert (result.exit_code, result.stderr) == (1, "mailstreams: no dead letters\n")
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


def test_one_element_can_be_replayed_without_the_others_of_its_body(invoke: Invoke, cluster: Cluster) -> None:
    one, two = secrets.token_bytes(16), secrets.token_bytes(16)
    letter = write(cluster, one, element=0)
    write(cluster, two, element=1, offset=letter.offset)

    invoke("dead-letters", "replay", name_of(letter))
    assert (len(replayed(cluster, one)), len(replayed(cluster, two))) == (1, 0)

    invoke("dead-letters", "replay", name_of(letter).partition("#")[0])
    assert (len(replayed(cluster, one)), len(replayed(cluster, two))) == (2, 1)


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

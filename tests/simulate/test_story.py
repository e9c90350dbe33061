"""The made-up world: a pure function, whose every life ends as it says, in whatever order its webhooks come."""

import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.domain.events import DeliveryEvent, EventType
from streams.domain.status import Delivery, fold
from streams.providers import PROVIDERS, WebhookRequest
from streams.settings import Settings
from streams.simulate import signing, story
from streams.simulate.shapes import MESSAGE_IDS, payload, send
from streams.simulate.story import BATCHING, PROFILES, SENDS, Ending, Happening, Life, Plot, arrivals, life

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
REFERENCE_KEYS = Settings().delivery.reference_keys
SIGNERS = signing.signers(signing.draw())

lives = st.builds(
    life,
    seed=st.integers(0, 2**64),
    number=st.integers(0, 10_000_000),
    sent_at=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds are naive
    profile=st.sampled_from(list(PROFILES.values())),
    account=st.just("demo"),
    providers=st.sampled_from([(name,) for name in story.PROVIDERS]),
)


def events_of(one: Life) -> list[DeliveryEvent]:
    """Return what the real normalisers make of the life's webhooks, in their order."""
    found = []
    for happening in one.happenings:
        if happening.by_application:
            continue
        provider = happening.message.provider
        signed = SIGNERS[provider](payload(provider, [happening]), at=happening.arrives_at)
        headers = {name.lower(): value for name, value in signed.headers.items()}
        (event,) = PROVIDERS[provider].normalise(
            WebhookRequest(signed.body, headers, "", one.message.account, happening.arrives_at, REFERENCE_KEYS)
        )
        found.append(event)
    return found


def folded(events: list[DeliveryEvent]) -> Delivery:
    delivery: Delivery | None = None
    for event in events:
        delivery = fold(delivery, event).delivery
    assert delivery is not None
    return delivery


def ending_of(delivery: Delivery) -> Ending:
    return Ending(
        delivery.status, delivery.change.bounce_kind, delivery.change.complained, delivery.change.unsubscribed
    )


def test_the_providers_are_those_that_we_read() -> None:
    assert set(story.PROVIDERS) == set(PROVIDERS)


@given(lives)
def test_every_webhook_is_understood_as_what_happened(one: Life) -> None:
    told = [happening for happening in one.happenings if not happening.by_application]
    events = events_of(one)

    for happening, event in zip(told, events, strict=True):
        assert (event.type, event.bounce_kind) == (happening.type, happening.bounce_kind)
        assert event.suppression_list == happening.suppression_list
        told_to_azure = one.message.provider == "azure_communication"  # nothing of the application's own comes back
        assert event.recipient == one.message.recipient
        assert event.reference == (None if told_to_azure else one.message.reference)
        assert event.message_id == MESSAGE_IDS[one.message.provider](one.message.token)
        assert event.occurred_at is not None
        assert abs(event.occurred_at - happening.occurred_at) < timedelta(seconds=1)
        if event.type is EventType.DEFERRED:
            mute = one.message.provider == "resend"  # says that a message is late, and not why
            assert event.smtp_code == (None if mute else int(happening.answer[:3]))
    assert len({event.delivery_id for event in events}) == 1


def _key(happening: Happening) -> object:
    """Return what tells a happening apart from others: Mailjet has no event ids, and a clock of whole seconds."""
    if happening.message.provider == "mailjet":
        return happening.type, int(happening.occurred_at.timestamp())
    return happening.event_key


@given(lives)
def test_a_repetition_is_the_same_event_and_another_happening_is_another(one: Life) -> None:
    told = [happening for happening in one.happenings if not happening.by_application]
    keys = [_key(happening) for happening in told]
    ids = [event.event_id for event in events_of(one)]

    assert len(set(zip(keys, ids, strict=True))) == len(set(keys)) == len(set(ids))


@given(lives, st.randoms(use_true_random=False))
def test_the_status_at_the_end_is_what_the_story_says_in_whatever_order_the_webhooks_come(
    one: Life, chance: Random
) -> None:
    events = events_of(one)
    assert ending_of(folded(events)) == one.ending

    chance.shuffle(events)
    assert ending_of(folded(events)) == one.ending


@given(lives)
def test_a_webhook_never_comes_before_what_it_tells(one: Life) -> None:
    assert all(one.message.sent_at <= happening.occurred_at <= happening.arrives_at for happening in one.happenings)
    true_order = sorted({happening.number: happening for happening in one.happenings}.items())
    assert all(a.occurred_at <= b.occurred_at for (_, a), (_, b) in pairwise(true_order))


@given(lives)
def test_a_deferral_ends_before_the_provider_would_give_up(one: Life) -> None:
    for happening in one.happenings:
        if happening.gives_up_at is not None:
            assert happening.gives_up_at > max(
                each.occurred_at for each in one.happenings if each.attempt > 1 or each is happening
            )


@given(lives)
def test_the_application_tells_of_the_same_delivery(one: Life) -> None:
    for happening in one.happenings:
        if happening.by_application:
            assert one.message.provider in {"postmark", "azure_communication", "mailjet"}
            events = events_of(one)
            assert not events or send(happening).delivery_id == events[0].delivery_id


@pytest.mark.parametrize("profile", PROFILES)
def test_every_plot_comes_and_the_usual_ones_most(profile: str) -> None:
    found = Counter(
        life(seed=1, number=number, sent_at=NOON, profile=PROFILES[profile], account="demo").plot
        for number in range(8000)
    )

    assert set(found) == set(Plot)
    assert found[Plot.DELIVERED] + found[Plot.OPENED] > 0.35 * 8000


def test_a_newcomer_sees_a_deferral_resolve_within_a_minute_or_two() -> None:
    seen = [
        happening.arrives_at - NOON
        for arrival in arrivals(
            seed=1, start=NOON, rate=2, profile=PROFILES["demo"], account="demo", until=NOON + timedelta(seconds=90)
        )
        for happening in arrival.happenings
        if happening.plot in {Plot.DEFERRED_DELIVERED, Plot.DEFERRED_OPENED} and happening.type is EventType.DELIVERED
    ]

    assert min(seen) < timedelta(seconds=60)


def test_the_schedule_is_in_order_complete_and_does_not_depend_on_the_end() -> None:
    def schedule(messages: int) -> list[story.Arrival]:
        return list(arrivals(seed=7, start=NOON, rate=50, profile=PROFILES["load"], account="demo", messages=messages))

    found = schedule(400)

    assert [one.due for one in found] == sorted(one.due for one in found)
    told = Counter(happening for one in found for happening in one.happenings)
    wanted = Counter(
        happening
        for number in range(400)
        for happening in life(
            seed=7,
            number=number,
            sent_at=NOON + timedelta(seconds=number / 50),
            profile=PROFILES["load"],
            account="demo",
        ).happenings
    )
    assert told == wanted
    assert all(one.due >= max(happening.arrives_at for happening in one.happenings) for one in found)
    early = [one for one in schedule(500) if one.due < NOON + timedelta(seconds=8)]
    assert early == [one for one in found if one.due < NOON + timedelta(seconds=8)]


def test_sendgrid_and_mailjet_batch_and_the_others_do_not() -> None:
    found = list(arrivals(seed=7, start=NOON, rate=200, profile=PROFILES["load"], account="demo", messages=600))

    for provider in BATCHING:
        assert max(len(one.happenings) for one in found if one.target == provider) > 5
    assert {len(one.happenings) for one in found if one.target not in BATCHING} == {1}
    assert {happening.message.provider for one in found if one.target == SENDS for happening in one.happenings} == {
        "postmark",
        "azure_communication",
        "mailjet",
    }


def test_without_an_end_it_goes_on_for_ever() -> None:
    forever = arrivals(seed=7, start=NOON, rate=1000, profile=PROFILES["load"], account="demo")

    assert len(list(islice(forever, 5000))) == 5000


def test_webhooks_come_in_disorder_and_some_come_again() -> None:
    lives_of_day = [life(seed=3, number=n, sent_at=NOON, profile=PROFILES["demo"], account="demo") for n in range(2000)]
    happenings = sum(len(one.happenings) for one in lives_of_day)
    repeated = happenings - sum(len({each.number for each in one.happenings}) for one in lives_of_day)
    disordered = sum(any(b.number < a.number for a, b in pairwise(one.happenings)) for one in lives_of_day)

    assert 0.03 < repeated / happenings < 0.1
    assert disordered > 60


def test_another_process_tells_the_same_story() -> None:
    program = (
        "from datetime import UTC, datetime\n"
        "from streams.simulate.story import PROFILES, life\n"
        "noon = datetime(2026, 11, 23, 12, tzinfo=UTC)\n"
        "print([repr(life(seed=5, number=n, sent_at=noon, profile=PROFILES['demo'], account='a')) for n in range(50)])"
    )

    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert len(told) == 1


def test_two_runs_at_different_times_are_about_different_messages() -> None:
    one = life(seed=5, number=0, sent_at=NOON, profile=PROFILES["demo"], account="demo")
    other = life(seed=5, number=0, sent_at=NOON + timedelta(seconds=1), profile=PROFILES["demo"], account="demo")

    assert (one.message.token != other.message.token, one.plot) == (True, other.plot)

"""What happens to each message, and how it ends: a pure function of (seed, number, time).

No clock, no I/O, no global randomness: the same arguments give the same lives in
every process. So the end of each message is known beforehand, and a test can check
the whole system against it.

A life is drawn from a *plot* (delivered and opened; deferred, then bounced; ...).
The happenings of a plot occur in their true order; their webhooks come later, some
of them very late and some twice, as with real providers. Every plot ends the same,
in whatever order its webhooks come.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count
from random import Random
from typing import Final

from streams.domain.events import BounceKind, EventType, SuppressionList
from streams.domain.status import Status

PROVIDERS: Final = (
    "sendgrid",
    "amazon_ses",
    "mailgun",
    "postmark",
    "azure_communication",
    "brevo",
    "mailjet",
    "resend",
)
SENDS: Final = "sends"
"""The target of an arrival that the application reports, not a provider."""
MOST_IN_BATCH: Final = 500
"""Events in one request, of a provider that sends several."""
BATCHING: Final = frozenset({"sendgrid", "mailjet"})
"""Providers that send several events in one request."""
_REPORT_NO_SENT: Final = frozenset({"postmark", "azure_communication", "mailjet"})


class Plot(StrEnum):
    """The kind of life that a message has."""

    DELIVERED = "delivered"
    OPENED = "opened"
    MACHINE_OPENED = "machine_opened"  # a privacy proxy loaded the image, nobody read it
    CLICKED = "clicked"
    DEFERRED_DELIVERED = "deferred_delivered"  # greylisting, a rate limit: it passes
    DEFERRED_OPENED = "deferred_opened"
    DEFERRED_BOUNCED = "deferred_bounced"  # tried until the provider gave up
    NO_SUCH_ADDRESS = "no_such_address"
    MAILBOX_FULL = "mailbox_full"
    BLOCKED = "blocked"  # for the sender's reputation
    BOUNCED_LATER = "bounced_later"  # accepted, and returned afterwards
    DROPPED = "dropped"  # on a list of the account
    OUT_OF_OFFICE = "out_of_office"  # delivered, and a machine answered
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A length of time, drawn uniformly between two bounds in seconds."""

    least: float
    most: float

    def draw(self, chance: Random) -> timedelta:
        """Return a length of time between the bounds."""
        return timedelta(seconds=chance.uniform(self.least, self.most))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How fast and how often things happen."""

    weights: Mapping[Plot, float]
    """How often each plot is, relative to the others."""
    first_answer: Span
    """From the send to the receiving server's first answer."""
    retry: Span
    """Between two attempts of a deferred message."""
    retries: tuple[int, int]
    """The fewest and the most deferrals of an episode."""
    reading: Span
    """From the delivery to what the recipient does."""
    afterwards: Span
    """From the delivery to a late bounce or complaint."""
    telling: Span
    """From a happening to its webhook, usually."""
    telling_late: Span
    """The same for the share that comes late, after webhooks of later happenings."""
    late_share: float
    """Webhooks that come late, 0-1: the disorder."""
    repeat_share: float
    """Webhooks that come again, 0-1."""
    repeat: Span
    """From a webhook to its repetition."""
    batch_s: float
    """Providers that send several events in a request collect them for this long, in seconds."""


_USUAL: Final[dict[Plot, float]] = {
    Plot.DELIVERED: 36,
    Plot.OPENED: 28,
    Plot.MACHINE_OPENED: 8,
    Plot.CLICKED: 6,
    Plot.DEFERRED_DELIVERED: 7,
    Plot.DEFERRED_OPENED: 3,
    Plot.DEFERRED_BOUNCED: 1,
    Plot.NO_SUCH_ADDRESS: 2,
    Plot.MAILBOX_FULL: 1,
    Plot.BLOCKED: 0.8,
    Plot.BOUNCED_LATER: 0.3,
    Plot.DROPPED: 2,
    Plot.OUT_OF_OFFICE: 4,
    Plot.COMPLAINED: 0.1,
    Plot.UNSUBSCRIBED: 0.3,
}
_EVENTFUL: Final[dict[Plot, float]] = {
    **_USUAL,
    Plot.DEFERRED_DELIVERED: 14,
    Plot.DEFERRED_OPENED: 6,
    Plot.DEFERRED_BOUNCED: 5,
    Plot.NO_SUCH_ADDRESS: 6,
    Plot.MAILBOX_FULL: 3,
    Plot.BLOCKED: 3,
    Plot.BOUNCED_LATER: 2,
    Plot.DROPPED: 6,
    Plot.COMPLAINED: 1,
    Plot.UNSUBSCRIBED: 1,
}

PROFILES: Final[dict[str, Profile]] = {
    # A newcomer sees every kind of life within a minute or two.
    "demo": Profile(
        weights=_EVENTFUL,
        first_answer=Span(least=0.5, most=4),
        retry=Span(least=20, most=40),
        retries=(1, 2),
        reading=Span(least=3, most=25),
        afterwards=Span(least=15, most=45),
        telling=Span(least=0.1, most=1),
        telling_late=Span(least=5, most=15),
        late_share=0.08,
        repeat_share=0.06,
        repeat=Span(least=3, most=20),
        batch_s=0.5,
    ),
    # As in the real world; let it run for days.
    "real": Profile(
        weights=_USUAL,
        first_answer=Span(least=0.8, most=20),
        retry=Span(least=300, most=5400),
        retries=(1, 6),
        reading=Span(least=60, most=2 * 86_400),
        afterwards=Span(least=600, most=86_400),
        telling=Span(least=0.2, most=30),
        telling_late=Span(least=60, most=1800),
        late_share=0.05,
        repeat_share=0.03,
        repeat=Span(least=30, most=6 * 3600),
        batch_s=10,
    ),
    # The whole life within some seconds: for load tests, where the rate of requests should soon be constant.
    "load": Profile(
        weights=_USUAL,
        first_answer=Span(least=0.05, most=0.5),
        retry=Span(least=0.2, most=0.8),
        retries=(1, 4),
        reading=Span(least=0.2, most=2),
        afterwards=Span(least=0.5, most=2),
        telling=Span(least=0.01, most=0.2),
        telling_late=Span(least=0.5, most=2),
        late_share=0.05,
        repeat_share=0.05,
        repeat=Span(least=0.1, most=2),
        batch_s=0.1,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One invoice to one recipient."""

    provider: str
    account: str
    token: str
    """32 hexadecimal digits that no other message has; the provider's ids are made of it."""
    recipient: str
    reference: str
    sent_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One thing that happens to a message, and when its webhook comes."""

    message: Message
    number: int
    """Counts the message's happenings from 0; a repetition has the number of what it repeats."""
    type: EventType
    occurred_at: datetime
    arrives_at: datetime
    """When the webhook is sent to us."""
    plot: Plot
    bounce_kind: BounceKind | None = None
    """Set exactly when the type is bounce."""
    answer: str = ""
    """The receiving server's answer, with its codes."""
    attempt: int = 1
    gives_up_at: datetime | None = None
    """For a deferral: when the provider will stop trying."""
    suppression_list: SuppressionList | None = None
    """For a drop."""
    by_application: bool = False
    """The application reports it (``mail.sends``), the provider does not."""

    @property
    def event_key(self) -> str:
        """A name of the happening: a repetition has the same."""
        return f"{self.message.token}-{self.number}"


@dataclass(frozen=True, slots=True)
class Ending:
    """What the system must know of the message once every webhook has come, in whatever order."""

    status: Status
    bounce_kind: BounceKind | None = None
    complained: bool = False
    unsubscribed: bool = False


@dataclass(frozen=True, slots=True)
class Life:
    """A message, what happens to it in order of arrival, and how it ends."""

    message: Message
    plot: Plot
    happenings: tuple[Happening, ...]
    ending: Ending


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that is due."""

    due: datetime
    target: str
    """The provider's name, or ``SENDS``."""
    happenings: tuple[Happening, ...]


def arrivals(
    *,
    seed: int,
    start: datetime,
    rate: float,
    profile: Profile,
    account: str,
    providers: Sequence[str] = PROVIDERS,
    messages: int | None = None,
    until: datetime | None = None,
) -> Iterator[Arrival]:
    """Yield every request in the order in which it is due: a schedule that is fixed before the first one is sent.

    Args:
        seed: Another seed is another world.
        start: When the first message is sent.
        rate: Messages a second; each brings about three events.
        profile: How fast and how often things happen.
        account: Our name for the account at every provider.
        providers: Which of them send; each message is from one of them, chosen at random.
        messages: How many are sent; without it and ``until`` there is no end.
        until: Nothing that is due later is yielded.
    """
    waiting: list[tuple[datetime, int, str, Happening]] = []
    order = count()
    for number in count() if messages is None else range(messages):
        sent_at = start + timedelta(seconds=number / rate)
        if until is not None and sent_at > until:
            break
        yield from _due(waiting, sent_at)
        for happening in life(
            seed=seed, number=number, sent_at=sent_at, profile=profile, account=account, providers=providers
        ).happenings:
            provider = happening.message.provider
            due = happening.arrives_at
            if provider in BATCHING and not happening.by_application:
                due = _next_batch(due, start, profile.batch_s)
            if until is None or due <= until:
                target = SENDS if happening.by_application else provider
                heapq.heappush(waiting, (due, next(order), target, happening))
    yield from _due(waiting, None)


def _due(waiting: list[tuple[datetime, int, str, Happening]], before: datetime | None) -> Iterator[Arrival]:
    """Take what is due before a time, or all; events of one batch become one request."""
    while waiting and (before is None or waiting[0][0] < before):
        due, _, target, happening = heapq.heappop(waiting)
        batch = [happening]
        others = []
        while target in BATCHING and waiting and waiting[0][0] == due and len(batch) < MOST_IN_BATCH:
            entry = heapq.heappop(waiting)
            if entry[2] == target:
                batch.append(entry[3])
            else:
                others.append(entry)
        for entry in others:
            heapq.heappush(waiting, entry)
        yield Arrival(due, target, tuple(batch))


def _next_batch(moment: datetime, start: datetime, batch_s: float) -> datetime:
    """Return the first end of a batch that is not before a time."""
    batch = timedelta(seconds=batch_s)
    return start - (start - moment) // batch * batch


def life(
    *, seed: int, number: int, sent_at: datetime, profile: Profile, account: str, providers: Sequence[str] = PROVIDERS
) -> Life:
    """Return the life of one message."""
    chance = Random(f"{seed}/{number}")  # noqa: S311 - a made-up world, no secret
    provider = chance.choice(providers)
    weights = {plot: profile.weights[plot] for plot in _TOLD_BY[provider] if profile.weights.get(plot, 0) > 0}
    (plot,) = chance.choices(list(weights), list(weights.values()))
    identity = f"{seed}/{number}/{sent_at.isoformat()}/{account}/{provider}"
    message = Message(
        provider=provider,
        account=account,
        token=hashlib.blake2b(identity.encode(), digest_size=16).hexdigest(),
        recipient=f"{chance.choice(_FIRST)}.{chance.choice(_LAST)}{number}@{chance.choice(_DOMAINS)}",
        reference=f"INV-{sent_at:%y%m%d}-{number + 1:05d}",
        sent_at=sent_at,
    )
    teller = _Teller(message, plot, profile, chance)
    ending = _PLOTS[plot](teller)
    return Life(message, plot, tuple(sorted(teller.told, key=lambda one: (one.arrives_at, one.number))), ending)


_FIRST: Final = ("ann", "bob", "carla", "dev", "emil", "fatima", "george", "hana", "ivan", "julia", "kofi", "lena")
_LAST: Final = ("berg", "costa", "dubois", "eriksen", "fischer", "garcia", "haddad", "ito", "jansen", "kaya", "lopez")
_DOMAINS: Final = ("bakery.example", "plumbing.example", "bigcorp.example", "school.example", "clinic.example")


class _Teller:
    """Records each thing that happens, with the webhooks that report it."""

    def __init__(self, message: Message, plot: Plot, profile: Profile, chance: Random) -> None:
        self.message = message
        self.plot = plot
        self.profile = profile
        self.chance = chance
        self.told: list[Happening] = []
        self._number = 0
        self._last = message.sent_at

    def after(self, span: Span) -> datetime:
        """Return a time after the last happening."""
        return self._last + span.draw(self.chance)

    def happens(self, event_type: EventType, at: datetime, **facts: object) -> None:
        """Record one thing that happens, at a time after the previous one."""
        profile, chance = self.profile, self.chance
        delay = (profile.telling_late if chance.random() < profile.late_share else profile.telling).draw(chance)
        happening = Happening(
            message=self.message,
            number=self._number,
            type=event_type,
            occurred_at=at,
            arrives_at=at + delay,
            plot=self.plot,
            **facts,  # type: ignore[arg-type] # the plots below pass fields of Happening by name
        )
        self.told.append(happening)
        if chance.random() < profile.repeat_share:
            self.told.append(replace(happening, arrives_at=happening.arrives_at + profile.repeat.draw(chance)))
        self._number += 1
        self._last = at

    def is_sent(self) -> None:
        """Begin: the provider took it."""
        at = self.message.sent_at
        self.happens(EventType.SENT, at, by_application=self.message.provider in _REPORT_NO_SENT)

    def is_deferred(self) -> int:
        """Go through an episode of deferrals; return how many."""
        times = self.chance.randint(*self.profile.retries)
        answer = self.chance.choice(_DEFERRALS[:1] if self.message.provider == "mailjet" else _DEFERRALS)
        # far enough away that it never falls within the episode
        gives_up_at = self._last + timedelta(seconds=max(self.profile.retry.most * (times + 2), 50_400))
        for attempt in range(1, times + 1):
            at = self.after(self.profile.first_answer if attempt == 1 else self.profile.retry)
            self.happens(EventType.DEFERRED, at, answer=answer, attempt=attempt, gives_up_at=gives_up_at)
        return times

    def is_delivered(self, attempt: int = 1) -> None:
        """The receiving server takes it."""
        span = self.profile.first_answer if attempt == 1 else self.profile.retry
        self.happens(EventType.DELIVERED, self.after(span), answer="250 2.0.0 OK: queued", attempt=attempt)

    def is_bounced(self, kind: BounceKind, answer: str, *, span: Span | None = None, attempt: int = 1) -> Ending:
        """The receiving server refuses it, or the provider gives up."""
        at = self.after(span or self.profile.first_answer)
        self.happens(EventType.BOUNCE, at, bounce_kind=kind, answer=answer, attempt=attempt)
        return Ending(Status.BOUNCED, kind)

    def does(self, event_type: EventType) -> None:
        """The recipient, or a machine of theirs, does something with it."""
        self.happens(event_type, self.after(self.profile.reading))


_DEFERRALS: Final = (
    "451 4.7.1 Greylisting in action, please come back later",  # the only deferral that Mailjet reports
    "421 4.7.0 Too many connections from your IP address, try again later",
    "450 4.2.1 The mailbox is busy, try again later",
    "421 4.4.1 Connection timed out",
)
_NO_SUCH_ADDRESS: Final = "550 5.1.1 The e-mail account that you tried to reach does not exist"
_MAILBOX_FULL: Final = "552 5.2.2 The recipient's mailbox is full"
_BLOCKED: Final = "554 5.7.1 Service unavailable; client host [192.0.2.10] is on a block list"
_GAVE_UP: Final = "4.4.7 Delivery time expired"


def _delivered(tell: _Teller) -> Ending:
    tell.is_sent()
    tell.is_delivered()
    return Ending(Status.DELIVERED)


def _opened(tell: _Teller) -> Ending:
    _delivered(tell)
    for _ in range(tell.chance.choice((1, 1, 1, 2, 3))):
        tell.does(EventType.OPEN)
    return Ending(Status.OPENED)


def _machine_opened(tell: _Teller) -> Ending:
    _delivered(tell)
    tell.does(EventType.MACHINE_OPEN)
    return Ending(Status.DELIVERED)


def _clicked(tell: _Teller) -> Ending:
    _opened(tell)
    tell.does(EventType.CLICK)
    return Ending(Status.OPENED)


def _deferred_delivered(tell: _Teller) -> Ending:
    tell.is_sent()
    tell.is_delivered(attempt=tell.is_deferred() + 1)
    return Ending(Status.DELIVERED)


def _deferred_opened(tell: _Teller) -> Ending:
    _deferred_delivered(tell)
    tell.does(EventType.OPEN)
    return Ending(Status.OPENED)


def _deferred_bounced(tell: _Teller) -> Ending:
    tell.is_sent()
    attempt = tell.is_deferred() + 1
    return tell.is_bounced(BounceKind.SOFT, _GAVE_UP, span=tell.profile.retry, attempt=attempt)


def _no_such_address(tell: _Teller) -> Ending:
    tell.is_sent()
    return tell.is_bounced(BounceKind.HARD, _NO_SUCH_ADDRESS)


def _mailbox_full(tell: _Teller) -> Ending:
    tell.is_sent()
    return tell.is_bounced(BounceKind.SOFT, _MAILBOX_FULL)


def _blocked(tell: _Teller) -> Ending:
    tell.is_sent()
    return tell.is_bounced(BounceKind.BLOCK, _BLOCKED)


def _bounced_later(tell: _Teller) -> Ending:
    _delivered(tell)
    return tell.is_bounced(BounceKind.HARD, _NO_SUCH_ADDRESS, span=tell.profile.afterwards)


_TAKE_WHAT_THEY_DROP: Final = frozenset({"amazon_ses", "mailgun", "azure_communication", "brevo", "mailjet", "resend"})
"""Providers that accept a message which they drop a moment later."""


def _dropped(tell: _Teller) -> Ending:
    if tell.message.provider in _TAKE_WHAT_THEY_DROP:
        tell.is_sent()
    lists = _LISTS[tell.message.provider]
    tell.happens(EventType.DROPPED, tell.after(tell.profile.first_answer), suppression_list=tell.chance.choice(lists))
    return Ending(Status.DROPPED)


_LISTS: Final[dict[str, tuple[SuppressionList | None, ...]]] = {
    "sendgrid": (
        SuppressionList.BOUNCE,
        SuppressionList.SPAM,
        SuppressionList.UNSUBSCRIBE,
        SuppressionList.INVALID,
    ),
    "amazon_ses": (SuppressionList.BOUNCE,),
    "mailgun": (SuppressionList.BOUNCE, SuppressionList.SPAM, SuppressionList.UNSUBSCRIBE),
    "postmark": (SuppressionList.INVALID, None),
    "azure_communication": (SuppressionList.BOUNCE,),
    "brevo": (SuppressionList.INVALID, None),
    "mailjet": (SuppressionList.BOUNCE, SuppressionList.SPAM, SuppressionList.INVALID, None),
    "resend": (SuppressionList.BOUNCE,),
}


def _out_of_office(tell: _Teller) -> Ending:
    _delivered(tell)
    # Amazon SES cannot tell a reply from a bounce, and so neither can Resend; Postmark can.
    cannot_tell = tell.message.provider in {"amazon_ses", "resend"}
    word = EventType.BOUNCE_OR_AUTO_REPLY if cannot_tell else EventType.AUTO_REPLY
    tell.happens(word, tell.after(tell.profile.first_answer))
    return Ending(Status.DELIVERED)


def _complained(tell: _Teller) -> Ending:
    _opened(tell)
    tell.happens(EventType.COMPLAINT, tell.after(tell.profile.afterwards))
    return Ending(Status.OPENED, complained=True)


def _unsubscribed(tell: _Teller) -> Ending:
    _opened(tell)
    tell.does(EventType.UNSUBSCRIBE)
    return Ending(Status.OPENED, unsubscribed=True)


_PLOTS: Final[dict[Plot, Callable[[_Teller], Ending]]] = {
    Plot.DELIVERED: _delivered,
    Plot.OPENED: _opened,
    Plot.MACHINE_OPENED: _machine_opened,
    Plot.CLICKED: _clicked,
    Plot.DEFERRED_DELIVERED: _deferred_delivered,
    Plot.DEFERRED_OPENED: _deferred_opened,
    Plot.DEFERRED_BOUNCED: _deferred_bounced,
    Plot.NO_SUCH_ADDRESS: _no_such_address,
    Plot.MAILBOX_FULL: _mailbox_full,
    Plot.BLOCKED: _blocked,
    Plot.BOUNCED_LATER: _bounced_later,
    Plot.DROPPED: _dropped,
    Plot.OUT_OF_OFFICE: _out_of_office,
    Plot.COMPLAINED: _complained,
    Plot.UNSUBSCRIBED: _unsubscribed,
}

_TOLD_BY: Final[dict[str, tuple[Plot, ...]]] = {  # in the order of Plot: sets have none
    provider: tuple(plot for plot in Plot if plot not in untold)
    for provider, untold in {
        "sendgrid": {Plot.OUT_OF_OFFICE},  # replies go to the sender's own address
        "amazon_ses": {Plot.MACHINE_OPENED, Plot.BLOCKED},  # has no word for either
        "mailgun": {Plot.OUT_OF_OFFICE},
        "postmark": {Plot.MACHINE_OPENED},
        "azure_communication": {  # reports how a delivery ended, and what a person did with it
            Plot.MACHINE_OPENED,
            Plot.DEFERRED_DELIVERED,
            Plot.DEFERRED_OPENED,
            Plot.DEFERRED_BOUNCED,
            Plot.BOUNCED_LATER,
            Plot.OUT_OF_OFFICE,
            Plot.COMPLAINED,
            Plot.UNSUBSCRIBED,
        },
        "brevo": {Plot.OUT_OF_OFFICE},
        "mailjet": {Plot.MACHINE_OPENED, Plot.OUT_OF_OFFICE},  # knows no machines; replies go to the sender
        "resend": {Plot.MACHINE_OPENED, Plot.UNSUBSCRIBED},  # has no word for the one, tells the other of a contact
    }.items()
}

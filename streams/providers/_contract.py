"""What every provider is given and returns.

The contract in two sentences: ``normalise`` returns every event of the request,
or raises only ``PoisonError``, which carries the events that it understood and
each element that it did not. ``verify`` returns which of our secrets the sender
proved to know, or raises only ``VerificationError``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from streams.domain.events import DeliveryEvent


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A webhook request as received: the raw bytes, because signatures cover them."""

    body: bytes
    headers: Mapping[str, str]
    """Names in lower case."""
    url: str
    """The full URL that the provider called."""
    account: str
    """Our name for the account at the provider, from the path of the URL."""
    received_at: datetime
    """Aware UTC."""
    reference_keys: Sequence[str] = ()
    """Names of the custom argument, metadata key or tag that holds the invoice's reference; the first found wins.

    Only ``normalise`` looks for them; ``verify`` needs none.
    """


MOST_BAD = 20
"""Bad elements of one body that are reported one by one; with more of them the whole body counts as bad.

Each becomes a dead letter with all headers of the request, which may be a hundred times as large as the element.
"""


@dataclass(frozen=True, slots=True)
class BadElement:
    """One element of a body that could not be understood."""

    index: int
    """Position in the body's list of events, from 0."""
    data: bytes
    """The element's own bytes, as JSON."""
    reason: str
    """Why, without personal data."""


class PoisonError(ValueError):
    """This request, or some of its elements, can never be understood.

    ``events`` are those of the other elements, ``bad`` the elements that cannot
    be understood. With an empty ``bad`` the whole body is bad, or more than
    ``MOST_BAD`` of its elements are: then the body is kept once, whole, beside its
    ``events``. The message never carries an address or a part of the body.
    """

    def __init__(
        self,
        reason: str,
        *,
        events: Sequence[DeliveryEvent] = (),
        bad: Sequence[BadElement] = (),
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.events = tuple(events)
        self.bad = tuple(bad)


Normalise = Callable[[WebhookRequest], list[DeliveryEvent]]


class Refusal(StrEnum):
    """Why a request was not accepted as the provider's: a closed set, fit for a metric's label."""

    MISSING = "missing"
    """No signature and no credential."""
    MALFORMED = "malformed"
    """A signature, stamp or body that does not have the form that the scheme requires."""
    MISMATCH = "mismatch"
    """Well formed, but made with none of our secrets, or for another body."""
    STALE = "stale"
    """Properly signed, but by our clock too long ago or too far ahead: it, or our clock, is wrong."""
    UNTRUSTED = "untrusted"
    """A certificate from elsewhere or out of date, or a topic that is not ours."""
    UNCONFIGURED = "unconfigured"
    """We have no usable secret, so nothing can be verified."""


class VerificationError(Exception):
    """The sender did not prove that it is the provider.

    The text is ours and fixed: no secret, no part of the request.
    """

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The sender proved to know one of our secrets."""

    key_id: str
    """Our name for the secret that matched: shows when a rotated one is no longer used."""
    replay_token: str | None = None
    """A token that must not be accepted again, unless with the same body: Mailgun's, ASCII, <= 100 characters.

    Only a request that was answered 2xx uses it up; a retry may carry the same token.
    """
    ahead_s: float = 0.0
    """How far its stamp is ahead of our clock, in seconds: a sign that our clock is slow."""


STAMP_AHEAD_S = 86_400.0
"""How far ahead of our clock a stamp may be, where there is a window at all: a day, because a slow clock must lose nothing.

A provider signs by its own clock, so nobody can get a stamp from the future. All that this gives away is that a request
can be repeated for longer, by as much as our clock is slow.
"""


class Verify(Protocol):
    """Tells whether a request came from the provider. Pure: the clock and the certificate are arguments."""

    def __call__(
        self,
        request: WebhookRequest,
        secrets: Mapping[str, str],
        *,
        now: datetime,
        replay_window_s: float | None,
        certificate: bytes | None = None,
    ) -> Verification:
        """Return which of our secrets the sender proved to know.

        Args:
            request: as received; its body has been decompressed, if it came compressed, and is otherwise untouched.
            secrets: our name for each live secret -> the secret, in the form that the provider's file describes.
            now: aware; stamps and certificates are compared with it.
            replay_window_s: how many seconds old a stamp may be, or ``STAMP_AHEAD_S`` ahead; ``None`` for any.
            certificate: the file at ``Provider.certificate_url(request)``, in PEM, if that returned an address.

        Raises:
            VerificationError: the sender proved nothing; nothing else is raised, whatever the bytes.
        """
        ...


class ReadHeaders(Protocol):
    """Says what a request's headers alone prove, before a byte of its body is read. Pure, like ``Verify``."""

    def __call__(self, headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:
        """Return whether the headers already prove the sender; if not, its body has to.

        The limits of a body are narrower while its sender is unproven: see ``web.limits.UNPROVEN_BYTES``.

        Args:
            headers: HTTP headers, their names in lower case.
            secrets: as for ``Verify``.

        Raises:
            VerificationError: ``verify`` would refuse this request whatever its body; nothing else is raised.
        """
        ...


def _the_body_has_to(headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:  # noqa: ARG001 the contract's
    """For a provider whose proof is in the body."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """A provider asks whether we want its webhooks, or says that it has ended them.

    We agree, or restore them, by GET of ``confirm_url``, not of its own address.
    """

    topic_arn: str
    """The SNS topic that it is about."""
    confirm_url: str = field(repr=False)
    """Built from the topic's ARN and the token; whoever has it can confirm, so it stays out of logs."""
    ended: bool = False
    """The subscription was ended. Never restore it unasked: whoever ended it may have meant to."""


JSON_OR_FORM = frozenset({"application/json", "application/x-www-form-urlencoded", "multipart/form-data"})
RETRY_WINDOW_S = 72 * 3_600.0
"""For a provider that documents none, or is not built in: the longest that any provider documents."""


def bare_message_id(given: str) -> str:
    """Return a message id without blanks and angle brackets around it."""
    return given.strip().strip("<>").strip()


def _none(_request: WebhookRequest) -> None:
    """For a provider without certificates, without a handshake, or that accepts any 2xx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider as the rest of the system sees it."""

    name: str
    normalise: Normalise
    verify: Verify
    secret_fault: Callable[[str], str | None]
    """Why a secret of the settings cannot be used, without quoting it; ``None`` if it can. Called at the start."""
    message_id: Callable[[str], str] = bare_message_id
    """The id of a message in its webhooks, from any form in which a sender may hold it. Its own result stays as it is."""
    replay_window_s: float | None = None
    """The replay window if the settings name none: wide enough for the provider's own retries."""
    retry_window_s: float = RETRY_WINDOW_S
    """How long it tries to deliver a message before it gives up, if the settings name nothing else."""
    content_types: frozenset[str] = JSON_OR_FORM
    """Those of its webhooks; any other is answered with 415."""
    kept_headers: frozenset[str] = frozenset()
    """HTTP headers, in lower case, that are worth keeping with the record. Never a cookie, never a credential."""
    instead_of: Mapping[int, int] = field(default_factory=dict)
    """The status that replaces another one, which this provider would take for "never send this again".

    Otherwise a wrong secret in our settings would lose events.
    """
    read_headers: ReadHeaders = _the_body_has_to
    """What the headers alone prove: called first, so that a stranger's body is not even read."""
    certificate_url: Callable[[WebhookRequest], str | None] = _none
    """The strictly checked address of the certificate that ``verify`` needs; ``None`` if it needs none.

    Raises only ``VerificationError``. The request is not verified yet: fetch nothing else that it names.
    """
    handshake: Callable[[WebhookRequest], Handshake | None] = _none
    """What a verified request asks us to confirm, or says that it has ended; ``None`` if it is no handshake.

    Raises only ``VerificationError``. Call it only after ``verify``, which has checked the topic.
    """
    consent: Callable[[WebhookRequest], bytes | None] = _none
    """The JSON that answers a provider's question whether we want its webhooks; ``None`` if the request does not ask.

    Call it only after ``verify``: a sender that proved nothing must not get our consent, even if ``insecure`` is set.
    """
    answer: Callable[[WebhookRequest], bytes | None] = _none
    """The JSON that the 2xx answer must hold for this provider to accept it; ``None`` if it accepts any 2xx."""

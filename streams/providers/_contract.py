"""What every provider is given and gives back.

The contract in two sentences: ``normalise`` returns every event it understood,
or raises ``PoisonError`` and nothing else, which carries the events it did
understand and each element that it did not. ``verify`` returns which of our
secrets the sender proved to know, or raises ``VerificationError`` and nothing
else.
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

    ``normalise`` looks for them; who only verifies needs none.
    """


MOST_BAD = 20
"""Bad elements of one body that are told one by one; with more of them it is the body that is bad.

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

    ``events`` are the neighbours that could be, ``bad`` the elements that could
    not. With an empty ``bad`` the whole body is bad, or more than ``MOST_BAD`` of
    its elements are: then it is kept once, whole, beside its ``events``. The
    message never carries an address or a part of the body.
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
    """A signature, stamp or body that cannot be read as the scheme wants it."""
    MISMATCH = "mismatch"
    """Well formed, and made with none of our secrets, or for another body."""
    STALE = "stale"
    """Properly signed, but stamped outside the replay window."""
    UNTRUSTED = "untrusted"
    """A certificate from elsewhere or out of date, or a topic that is not ours."""
    UNCONFIGURED = "unconfigured"
    """We have no usable secret, so nothing can be told."""


class VerificationError(Exception):
    """The sender did not prove to be the provider.

    The text is ours and fixed: no secret, no part of the request.
    """

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The sender proved to know one of our secrets."""

    key_id: str
    """Our name for the secret that matched: tells when a rotated one is no longer used."""
    replay_token: str | None = None
    """What must not be accepted again, unless with the same body: Mailgun's token, ASCII, <= 100 characters.

    Only a request that was answered 2xx uses it up; a retry may carry the same.
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
            now: aware; against it stamps and certificates are held.
            replay_window_s: how many seconds a stamp may be old (and, by a skewed clock, 300 ahead); ``None`` for any.
            certificate: what lies behind ``Provider.certificate_url(request)``, in PEM, if that gave an address.

        Raises:
            VerificationError: it proved nothing; and nothing else, whatever the bytes.
        """
        ...


class ReadHeaders(Protocol):
    """Says what a request's headers alone tell, before a byte of its body is read. Pure, as ``Verify``."""

    def __call__(self, headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:
        """Return whether the headers prove the sender already; if not, its body has to.

        A body that has yet to prove its sender may use less of us: see ``web.limits.UNPROVEN_BYTES``.

        Args:
            headers: HTTP headers, their names in lower case.
            secrets: as for ``Verify``.

        Raises:
            VerificationError: ``verify`` would refuse this request whatever its body; and nothing else.
        """
        ...


def _the_body_has_to(headers: Mapping[str, str], secrets: Mapping[str, str]) -> bool:  # noqa: ARG001 the contract's
    """For a provider whose proof is in the body."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """A provider asks whether we want its webhooks. Answered by GET of ``confirm_url``, never of an address it sent."""

    topic_arn: str
    """The SNS topic that asks."""
    confirm_url: str = field(repr=False)
    """Built from the topic's ARN and the token; whoever has it can confirm, so it stays out of logs."""


JSON_OR_FORM = frozenset({"application/json", "application/x-www-form-urlencoded", "multipart/form-data"})
RETRY_WINDOW_S = 72 * 3_600.0
"""Of a provider that documents none, and of one that is not built in: the longest that any documents."""


def _none(_request: WebhookRequest) -> None:
    """For a provider without certificates, without a handshake, or content with any 2xx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider as the rest of the system sees it."""

    name: str
    normalise: Normalise
    verify: Verify
    secret_fault: Callable[[str], str | None]
    """Why a secret of the settings cannot be used, without quoting it; ``None`` if it can. To be asked at the start."""
    replay_window_s: float | None = None
    """The replay window if the settings name none: wide enough for the provider's own retries."""
    retry_window_s: float = RETRY_WINDOW_S
    """How long it tries to deliver a message before it gives up, if the settings name nothing else."""
    content_types: frozenset[str] = JSON_OR_FORM
    """Those of its webhooks; any other is answered with 415."""
    kept_headers: frozenset[str] = frozenset()
    """HTTP headers, in lower case, that are worth keeping with the record. Never a cookie, never a credential."""
    instead_of: Mapping[int, int] = field(default_factory=dict)
    """What a refused request is answered in place of a code that to this provider means "never send this again".

    Else a wrong secret in our settings would lose events.
    """
    read_headers: ReadHeaders = _the_body_has_to
    """What the headers alone tell of the sender: asked first, so that a stranger's body is not even read."""
    certificate_url: Callable[[WebhookRequest], str | None] = _none
    """Where the certificate lies that ``verify`` needs, strictly checked; ``None`` if it needs none.

    Raises ``VerificationError`` and nothing else. Not yet verified: fetch nothing else that the request names.
    """
    handshake: Callable[[WebhookRequest], Handshake | None] = _none
    """What a verified request asks to confirm; ``None`` for all that is no handshake.

    Raises ``VerificationError`` and nothing else. Call it after ``verify`` only, which has checked the topic.
    """
    consent: Callable[[WebhookRequest], bytes | None] = _none
    """The JSON that answers a provider's question whether we want its webhooks; ``None`` for all that is no question.

    Call it after ``verify`` only: who proved nothing must not get our consent, also where proof is not asked for.
    """
    answer: Callable[[WebhookRequest], bytes | None] = _none
    """The JSON that the 2xx answer must hold for this provider to believe it; ``None`` if any 2xx will do."""

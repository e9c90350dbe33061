"""What every provider is given and gives back.

The contract in one sentence: ``normalise`` returns every event it understood,
or raises ``PoisonError`` and nothing else, which carries the events it did
understand and each element that it did not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

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
    reference_keys: Sequence[str] = ("reference", "invoice", "invoice_id", "invoice_number")
    """Names of the custom argument, metadata key or tag that holds the invoice's reference; the first found wins."""


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
    not. With an empty ``bad`` the whole body is bad. The message never carries
    an address or a part of the body.
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


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as the rest of the system sees it."""

    name: str
    normalise: Normalise

"""The providers: one file each, which ends in its ``PROVIDER``, listed here by hand.

A provider's ``verify(request, secrets, ...)`` tells whether a webhook request came from it; ``normalise(request)``
turns the request into the delivery events that it reports. They have no clock, no I/O and no configuration beyond
their arguments, so the same request always gives the same result. How to add one: docs/adding-a-provider.md.
"""

from streams.providers import amazon_ses, azure_communication, brevo, mailgun, mailjet, postmark, resend, sendgrid
from streams.providers._contract import (
    RETRY_WINDOW_S,
    STAMP_AHEAD_S,
    BadElement,
    Handshake,
    PoisonError,
    Provider,
    Refusal,
    Verification,
    VerificationError,
    WebhookRequest,
)

__all__ = [
    "PROVIDERS",
    "RETRY_WINDOW_S",
    "STAMP_AHEAD_S",
    "UNKNOWN",
    "BadElement",
    "Handshake",
    "PoisonError",
    "Provider",
    "Refusal",
    "Verification",
    "VerificationError",
    "WebhookRequest",
    "label_of",
]

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        sendgrid.PROVIDER,
        amazon_ses.PROVIDER,
        mailgun.PROVIDER,
        postmark.PROVIDER,
        azure_communication.PROVIDER,
        brevo.PROVIDER,
        mailjet.PROVIDER,
        resend.PROVIDER,
    )
}
"""Every provider by the name that URLs, topics and settings use; the names never change."""

UNKNOWN = "unknown"
"""Replaces every other name where there must be few names, as in the labels of metrics."""


def label_of(provider: str) -> str:
    """Return a provider's name if it is built in, else ``UNKNOWN``: the writer of an event may put any name in it."""
    return provider if provider in PROVIDERS else UNKNOWN

"""The providers: one file each, two pure functions ``normalise`` and ``verify`` each, listed here by hand.

A provider's ``verify(request, secrets, ...)`` tells whether a webhook request came from it; ``normalise(request)``
turns the request into the delivery events that it reports. They have no clock, no I/O and no configuration beyond
their arguments, so the same request always gives the same result. How to add one: docs/adding-a-provider.md.
"""

from streams.providers import amazon_ses, azure_communication, mailgun, postmark, sendgrid
from streams.providers._contract import (
    BadElement,
    Handshake,
    Normalise,
    PoisonError,
    Provider,
    ReadHeaders,
    Refusal,
    Verification,
    VerificationError,
    Verify,
    WebhookRequest,
)

__all__ = [
    "PROVIDERS",
    "UNKNOWN",
    "BadElement",
    "Handshake",
    "Normalise",
    "PoisonError",
    "Provider",
    "ReadHeaders",
    "Refusal",
    "Verification",
    "VerificationError",
    "Verify",
    "WebhookRequest",
    "label_of",
]

PROVIDERS: dict[str, Provider] = {
    "sendgrid": Provider(
        "sendgrid",
        sendgrid.normalise,
        sendgrid.verify,
        sendgrid.secret_fault,
        read_headers=sendgrid.read_headers,
    ),
    "amazon_ses": Provider(
        "amazon_ses",
        amazon_ses.normalise,
        amazon_ses.verify,
        amazon_ses.secret_fault,
        replay_window_s=amazon_ses.REPLAY_WINDOW_S,
        read_headers=amazon_ses.read_headers,
        certificate_url=amazon_ses.certificate_url,
        handshake=amazon_ses.handshake,
        answer=amazon_ses.answer,
    ),
    "mailgun": Provider(
        "mailgun",
        mailgun.normalise,
        mailgun.verify,
        mailgun.secret_fault,
        replay_window_s=mailgun.REPLAY_WINDOW_S,
    ),
    "postmark": Provider(
        "postmark",
        postmark.normalise,
        postmark.verify,
        postmark.secret_fault,
        read_headers=postmark.read_headers,
    ),
    "azure_communication": Provider(
        "azure_communication",
        azure_communication.normalise,
        azure_communication.verify,
        azure_communication.secret_fault,
        read_headers=azure_communication.read_headers,
        consent=azure_communication.consent,
    ),
}
"""Every provider by the name that URLs, topics and settings use; the names never change."""

UNKNOWN = "unknown"
"""Stands for every other name where names must be few, as in the labels of metrics."""


def label_of(provider: str) -> str:
    """Return a provider's name if it is built in, else ``UNKNOWN``: an event's provider is what its writer put there."""
    return provider if provider in PROVIDERS else UNKNOWN

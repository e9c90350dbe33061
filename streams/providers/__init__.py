"""The providers: one file each, one pure function ``normalise`` each, listed here by hand.

A provider's ``normalise(request)`` turns one webhook request into the delivery
events it reports. It has no clock, no I/O and no configuration beyond its
argument, so the same request always gives the same events. How to add one:
docs/adding-a-provider.md.
"""

from streams.providers import amazon_ses, mailgun, postmark, sendgrid
from streams.providers._contract import (
    BadElement,
    Normalise,
    PoisonError,
    Provider,
    WebhookRequest,
)

__all__ = ["PROVIDERS", "BadElement", "Normalise", "PoisonError", "Provider", "WebhookRequest"]

PROVIDERS: dict[str, Provider] = {
    "sendgrid": Provider("sendgrid", sendgrid.normalise),
    "amazon_ses": Provider("amazon_ses", amazon_ses.normalise),
    "mailgun": Provider("mailgun", mailgun.normalise),
    "postmark": Provider("postmark", postmark.normalise),
}
"""Every provider by the name that URLs, topics and settings use; the names never change."""

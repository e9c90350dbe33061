"""``mailstreams webhook``: what a person has to do about webhooks by hand."""

from datetime import datetime
from typing import Final

import click

from streams import records, topics
from streams.cli import WRONG_USE, Failure, Invocation, pass_invocation
from streams.cli._kafka import read_to_end, run
from streams.cli._output import clean, note
from streams.cli._webhook_test import test
from streams.providers import PROVIDERS, Handshake, VerificationError
from streams.records import RecordError
from streams.settings import Settings

_SNS: Final = "amazon_ses"
_TYPES: Final = (b"SubscriptionConfirmation", b"UnsubscribeConfirmation")
"""What a message of SNS with a token holds: any other record need not be decoded."""


@click.group("webhook")
def command() -> None:
    """Try a webhook, or confirm a subscription."""


command.add_command(test)


@command.command("confirm")
@click.argument("topic_arn")
@click.option("--account", required=True, help="The account in the path of the webhook's URL.")
@click.option("--restore", is_flag=True, help="Restore the subscription that was ended last.")
@pass_invocation
def confirm(invocation: Invocation, topic_arn: str, account: str, *, restore: bool) -> None:
    """Confirm that Amazon SNS may send a topic's messages to an account.

    SNS asks once, when the subscription is made; the ingress verified the question and keeps it in mail.raw.amazon_ses.
    It also says when a subscription was ended: --restore takes that back, and confirms no new one.
    The answer is sent to an address built from the topic's ARN and SNS's token, never to one that came with them. SNS
    forgets its token after three days: then request a new one there (RequestConfirmation).
    """
    settings = invocation.settings()
    known = settings.accounts.get(account)
    webhook = known.webhooks.get(_SNS) if known is not None else None
    if webhook is None or topic_arn not in {secret.get_secret_value() for secret in webhook.secrets.values()}:
        message = (
            f"{clean(topic_arn)} is not allowed: it must be one of accounts.{clean(account)}.webhooks.{_SNS}.secrets"
        )
        raise Failure(message, exit_code=WRONG_USE)
    run(_confirm(settings, topic_arn, account, restore=restore))
    note(f"{clean(topic_arn)}: subscribed for account {clean(account)}")


async def _confirm(settings: Settings, topic_arn: str, account: str, *, restore: bool) -> None:
    from streams.web.outbound import FetchError, GuardedClient  # noqa: PLC0415 - aiohttp's client: for this command only

    asked = await _last_handshake(settings, topic_arn, account, ended=restore)
    if asked is None:
        what = "said that it ended the subscription of" if restore else "asked to confirm"
        message = (
            f"SNS has not {what} {clean(topic_arn)} for account {clean(account)}, or so long ago that it is deleted"
        )
        raise Failure(message)
    client = GuardedClient()
    try:
        await client.get(asked.confirm_url)
    except FetchError as error:
        message = f"Amazon SNS did not take it: {error}; its token lives for three days, ask for a new one there"
        raise Failure(message) from None
    finally:
        await client.close()


async def _last_handshake(settings: Settings, topic_arn: str, account: str, *, ended: bool) -> Handshake | None:
    """Return the newest verified request to confirm this topic's subscription, or word that it was ended.

    Never one for the other: when a webhook moves to a new URL, word of the old subscription's end comes last.
    """
    newest: tuple[datetime, Handshake] | None = None
    async for found in read_to_end(settings, topics.raw_topic(_SNS)):
        for record in found:
            headers = dict(record.headers)
            value = record.value or b""
            if not any(name in value for name in _TYPES) or headers.get(records.RAW_VERIFIED) != b"true":
                continue
            try:
                request = records.decode_raw(record.value, record.headers, reference_keys=())
                handshake = PROVIDERS[_SNS].handshake(request)
            except (RecordError, VerificationError):
                continue
            if handshake is None or handshake.ended is not ended:
                continue
            if handshake.topic_arn != topic_arn or request.account != account:
                continue
            if newest is None or request.received_at >= newest[0]:
                newest = (request.received_at, handshake)
    return newest[1] if newest is not None else None

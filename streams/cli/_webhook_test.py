"""``mailstreams webhook test PROVIDER``: one signed event to the ingress, what came back, and what to do about it.

The secrets are those of the settings, so it tests what is configured. Two providers
cannot be tested fully from here: only SendGrid has SendGrid's private key, and only
Amazon has Amazon's. For them a forged request is sent, which must be refused; the
rest is tested at the provider.

The request is marked (``web.trial``): it must not end the alert that somebody looks into with it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Final

import click

from streams.cli import NOTHING_FOUND, Failure, Invocation, json_option, pass_invocation
from streams.cli._ingress import SECRETS, TIMEOUT_S, URL, ingress_url
from streams.cli._output import clean, json_line, shortened
from streams.domain.events import EventType
from streams.providers import Refusal
from streams.settings import Settings
from streams.simulate import signing
from streams.simulate.shapes import MESSAGE_IDS, payload
from streams.simulate.signing import Sign
from streams.simulate.story import PROVIDERS, Happening, Message, Plot
from streams.web import trial

_OK: Final = range(200, 300)
_ANSWER_CHARACTERS: Final = 200

_TRY_THERE: Final[Mapping[str, str]] = {
    "sendgrid": "click Test Your Integration in SendGrid's Event Webhook settings, with signing switched on",
    "amazon_ses": "send to success@simulator.amazonses.com with your configuration set",
}

_SIGN_WITH_KEY: Final[Mapping[str, Callable[[str], Sign]]] = {
    "mailgun": signing.SignMailgun,
    "resend": signing.SignResend,
}
_SEND_CREDENTIAL: Final[Mapping[str, Callable[[Mapping[str, str]], Sign]]] = {
    "postmark": signing.SignPostmark,
    "azure_communication": signing.SignEventGrid,
    "brevo": signing.SignBrevo,
    "mailjet": signing.SignMailjet,
}
_SHOWS_THE_CHECK: Final[Mapping[str, frozenset[str]]] = {
    "sendgrid": frozenset({Refusal.MISMATCH}),
    "amazon_ses": frozenset({Refusal.MISMATCH, Refusal.UNTRUSTED}),
}
"""The reasons by which a forged request is refused if the account's secrets are there and its proof was read."""

_OTHER_SECRETS: Final = (
    "It was refused ({answer}). The ingress runs with other secrets than {place}: restart it with these settings, or "
    "look at its log; a proxy before it must leave headers and body as they are."
)
_NOT_NOW: Final = "It cannot take it now ({answer}): no broker, or too much at once. Most providers try again."
_CHANGED: Final = "It was refused ({answer}): a proxy before the ingress changes the request, or holds it back."
_ADVICE: Final[Mapping[str, str]] = {
    "missing": _OTHER_SECRETS,
    "malformed": _OTHER_SECRETS,
    "mismatch": _OTHER_SECRETS,
    "untrusted": _OTHER_SECRETS,
    "unconfigured": "The ingress runs without a secret for {place}: restart it with these settings.",
    "stale": "It was refused (stale): the proof is right, and the clocks of the ingress and of this machine differ. Set them.",
    "replayed": "It was refused (replayed): its token had come to the ingress before, perhaps through a proxy that sends twice.",
    "internal": "That is a fault of the ingress: its log says where it is.",
    "certificate": (
        "The ingress has no certificate for this signature: it is not at Amazon, only where the simulator wrote it, and "
        "ingress.certificates_dir of the running ingress has to name that folder."
    ),
    "confirmation": "The ingress could not confirm a subscription at Amazon: its log says why.",
    "broker": _NOT_NOW,
    "busy": _NOT_NOW,
    "rate": _NOT_NOW,
    "not_found": (
        "The ingress does not know this account or provider: it runs without {place}, its topics.providers leaves "
        "{provider} out, or a proxy changes the path."
    ),
    "too_large": "The ingress takes only smaller bodies: raise ingress.max_body_bytes, as batches reach 1 MiB and more.",
    "broken": _CHANGED,
    "method": _CHANGED,
    "content_type": _CHANGED,
    "content_encoding": _CHANGED,
    "too_slow": _CHANGED,
    "head_too_large": _CHANGED,
}
"""The word that an ingress answers -> what to do."""
_ADVICE_BY_STATUS: Final[Mapping[int, str]] = {
    404: _ADVICE["not_found"],
    413: "A proxy before the ingress takes only small bodies: batches reach 1 MiB and more.",
    429: _NOT_NOW,
    503: _NOT_NOW,
}
"""The same for an answer without such a word."""

_NO_REFERENCE: Final = frozenset({"azure_communication"})


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How the request is signed, and what the result must be."""

    sign: Sign
    forged: bool
    """The proof is made with no secret of ours, so it has to be refused."""
    proof: str
    """The proof in words."""


@click.command("test", epilog=f"PROVIDER: {', '.join(PROVIDERS)}.")
@click.argument("provider", type=click.Choice(PROVIDERS), metavar="PROVIDER")
@click.option("--account", default="default", show_default=True, help="The account in the path of the webhook's URL.")
@click.option(
    "--url",
    type=URL,
    metavar="URL",
    help="The ingress, up to the path, or what the provider calls; try the public one. Default: that of the settings.",
)
@click.option(
    "--secrets",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=SECRETS,
    show_default=True,
    metavar="DIR",
    help="What mailstreams simulate signs with, if the account is one for simulation.",
)
@json_option
@pass_invocation
def test(invocation: Invocation, provider: str, *, account: str, url: str | None, folder: Path, as_json: bool) -> None:
    """Send one test event of a PROVIDER to the ingress, and say what came back and what to do.

    It is signed with the secret that the settings hold for the account. What only the provider can sign (SendGrid,
    Amazon SES) is forged instead, and must be refused. An accepted event is a delivery to an address under .example;
    find it with mailstreams lookup.
    """
    settings = invocation.settings()
    attempt = _attempt(settings, provider, account, folder)
    happening = _happening(provider, account)
    path = f"/webhooks/{provider}/{account}"
    base = (url or settings.ingress.public_url or ingress_url(settings)).removesuffix(path)
    signed = attempt.sign(payload(provider, [happening]), at=datetime.now(UTC))
    status, answer = asyncio.run(_post(f"{base}{path}", signed))
    good, said = _verdict(status, answer, attempt, happening.message)
    if as_json:
        json_line({"url": base, "status": status or None, "answer": answer, "good": good, "said": said})
    else:
        click.echo(f"POST {clean(base)}{clean(path)}, {attempt.proof}")
        click.echo(f"  -> {status or 'no answer'}{f' {answer}' if answer else ''}")
        for line in said:
            click.echo(line)
    if not good:
        raise SystemExit(NOTHING_FOUND)


def _attempt(settings: Settings, provider: str, account: str, folder: Path) -> _Attempt:
    """Return how to sign with what is configured.

    Raises:
        Failure: nothing is configured.
    """
    found = settings.accounts.get(account)
    webhook = found.webhooks.get(provider) if found is not None else None
    place = f"accounts.{clean(account)}.webhooks.{provider}"
    if webhook is None or not (webhook.secrets or webhook.insecure):
        message = (
            f"these settings have no secret for {place}: run it with the settings of the ingress (its file and its "
            f"variables); if that has none either, see docs/providers/{provider}.md"
        )
        raise Failure(message)
    secrets = [secret.get_secret_value() for secret in webhook.secrets.values()]
    if webhook.insecure:
        return _Attempt(signing.signers(signing.draw())[provider], False, f"any proof would do: {place}.insecure")
    if provider in _SIGN_WITH_KEY:
        return _Attempt(_SIGN_WITH_KEY[provider](secrets[0].strip()), False, "signed with the account's signing key")
    credentials = [secret for secret in secrets if secret.startswith(("basic:", "header:"))]
    if provider in _SEND_CREDENTIAL:
        sign = _SEND_CREDENTIAL[provider](signing.credential(credentials[0]))
        return _Attempt(sign, False, "with the account's credential")
    if credentials:
        sign = signing.SignRawDelivery(signing.credential(credentials[0]))
        return _Attempt(sign, False, "as SNS raw message delivery, with the account's credential")
    return _simulated(provider, secrets, folder, settings) or _Attempt(
        signing.signers(signing.draw())[provider], True, "with a forged signature"
    )


def _simulated(provider: str, secrets: list[str], folder: Path, settings: Settings) -> _Attempt | None:
    """Return how the simulator signs, if the account knows its secrets."""
    trusted = settings.ingress.certificates_dir
    try:
        if not (folder / signing.SECRETS_FILE).exists():
            return None
        own = signing.load(folder)
        if provider == "amazon_ses" and (trusted is None or not (trusted / signing.CERTIFICATE_FILE).exists()):
            return None
    except (OSError, ValueError):
        return None
    if own.for_ingress()[provider] not in {"".join(secret.split()) for secret in secrets}:
        return None
    return _Attempt(signing.signers(own)[provider], False, "signed by the simulator")


def _happening(provider: str, account: str) -> Happening:
    now = datetime.now(UTC)
    token = token_hex(16)
    message = Message(
        provider=provider,
        account=account,
        token=token,
        recipient="webhook-test@mailstreams.example",
        reference=f"WEBHOOK-TEST-{token[:8]}",
        sent_at=now,
    )
    return Happening(
        message=message,
        number=0,
        type=EventType.DELIVERED,
        occurred_at=now,
        arrives_at=now,
        plot=Plot.DELIVERED,
        answer="250 2.0.0 OK: this is a test",
    )


async def _post(url: str, signed: signing.Signed) -> tuple[int, str]:
    """Return the status and the beginning of the answer; without an answer 0 and why."""
    import aiohttp  # noqa: PLC0415 - takes a while to import: not for --help

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    headers = dict(signed.headers) | {trial.HEADER: "webhook test"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=signed.body, headers=headers, allow_redirects=False) as answer,
        ):
            text = (await answer.content.read(_ANSWER_CHARACTERS * 4)).decode("utf-8", "replace")
            return answer.status, shortened(clean(text).strip(), _ANSWER_CHARACTERS)
    except aiohttp.InvalidURL:
        return 0, "that is no URL"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return 0, clean(str(error) or type(error).__name__)


def _verdict(status: int, answer: str, attempt: _Attempt, message: Message) -> tuple[bool, list[str]]:
    """Return whether the answer is the right one, and what to do."""
    provider = message.provider
    if status in _OK and attempt.forged:
        return False, [
            "A forged request was taken: whatever answers there does not verify. Is it the ingress of these settings?"
        ]
    if status in _OK:
        lines = ["Good: it was verified, and the broker has it. With a worker running, see what became of it:"]
        lines.append(f"  mailstreams lookup {_known_by(message)}")
        if provider in _TRY_THERE and not attempt.forged:
            lines.append(f"That the provider reaches you, it alone can show: {_TRY_THERE[provider]}.")
        return True, lines
    if attempt.forged and answer in _SHOWS_THE_CHECK[provider]:
        return True, [
            "Good: the ingress is there, and refuses what the provider did not sign. Nobody but the provider can",
            f"show the rest: {_TRY_THERE[provider]}.",
        ]
    return False, [_advice(status, answer, f"accounts.{clean(message.account)}.webhooks.{provider}", provider)]


def _known_by(message: Message) -> str:
    """Return the option that finds the event: by its reference, if the provider's events have one."""
    if message.provider in _NO_REFERENCE:
        return f"--message-id {MESSAGE_IDS[message.provider](message.token)}"
    return f"--reference {message.reference}"


def _advice(status: int, answer: str, place: str, provider: str) -> str:
    if status == 0:
        return f"Nothing answers there ({answer}). Is the ingress running (mailstreams ingress), and the port open?"
    if 300 <= status < 400:  # noqa: PLR2004 - redirects
        return "That is a redirect, which providers do not follow: give them the URL that it leads to."
    # The word first: a refusal is 503 for Event Grid, 429 for Brevo.
    advice = _ADVICE.get(answer) or _ADVICE_BY_STATUS.get(status)
    if advice is not None:
        return advice.format(answer=answer, place=place, provider=provider)
    if status in {401, 403}:
        return (
            "It was refused, not by the ingress but by something before it, such as a proxy or a firewall: that must let "
            "providers through."
        )
    return f"That is no answer of an ingress; see docs/providers/{provider}.md for what the URL must be."

"""The ingress for commands: where it is, the settings with which it accepts simulated webhooks, and sending to it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import click

from streams import codecs
from streams.cli import WRONG_USE, Failure
from streams.cli._output import clean
from streams.settings import Settings
from streams.simulate import signing
from streams.simulate.driving import NO_ANSWER, Answer, Deliver, Outgoing
from streams.simulate.story import SENDS

SECRETS: Final = Path("var/simulate")
"""Where the simulated providers' secrets are unless another folder is named."""
TIMEOUT_S: Final = 15.0
"""The longest time that an answer may take."""
NOBODY: Final = "no answer from {}: is the ingress running there? (mailstreams ingress)"
_CONNECTIONS: Final = 200
_SENDS_PATH: Final = "/sends"


class _Url(click.ParamType):
    """Where an ingress is: what is no such URL would be taken for one at which nothing answers."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # not said back: it may hold a password
        if re.fullmatch(r"(?i:https?)://[^\s/?#@]+(/[^\s?#]*)?", str(value)) is None:
            self.fail("no URL such as https://hooks.example.net, without user, password and query", param, ctx)
        return str(value).rstrip("/")


URL: Final = _Url()


def ingress_url(settings: Settings) -> str:
    """Return where the ingress of these settings listens, seen from this machine."""
    own = settings.ingress
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(own.host, own.host)  # noqa: S104 - the name of "everywhere" is looked for
    scheme = "http" if own.tls_certfile is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host and '[' not in host else host}:{own.port}"


def settings_text(secrets: signing.Secrets, folder: Path, account: str) -> str:
    """Return the settings, in TOML, with which an ingress accepts simulated webhooks."""
    quoted = codecs.encode(str((folder / signing.CERTIFICATES).absolute())).decode()
    lines = [
        "# For simulation only: whoever has these secrets can forge what this account reports, and no other account.",
        "[ingress]",
        f"certificates_dir = {quoted}",
        "",
        f"[accounts.{codecs.encode(account).decode()}]",
        f'api_keys = ["{sha256(secrets.send_key.encode()).hexdigest()}"]',
    ]
    for provider, secret in secrets.for_ingress().items():
        lines += [
            "",
            f"[accounts.{codecs.encode(account).decode()}.webhooks.{provider}.secrets]",
            f"{signing.KEY_ID} = {codecs.encode(secret).decode()}",
        ]
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def to_ingress(url: str, *, send_key: str | None) -> AsyncIterator[Deliver]:
    """Yield a function that sends requests to an ingress."""
    import aiohttp  # noqa: PLC0415 - for this way only

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        try:  # is anything there? reported at once, and not after all attempts
            async with session.head(url + "/", allow_redirects=False):
                pass
        except aiohttp.InvalidURL:
            message = f"{clean(url)} is no URL"
            raise Failure(message, exit_code=WRONG_USE) from None
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise Failure(NOBODY.format(clean(url))) from None

        async def deliver(request: Outgoing) -> Answer:
            path, headers = f"/webhooks/{request.target}/{request.account}", dict(request.headers)
            if request.target == SENDS:
                path = _SENDS_PATH
                headers["Authorization"] = f"Bearer {send_key}"
            try:
                # as providers do: a redirect is not followed, it is no success
                async with session.post(
                    url + path, data=request.body, headers=headers, allow_redirects=False
                ) as answer:
                    await answer.read()
                    return Answer(answer.status, _seconds(answer.headers.get("Retry-After")))
            except (aiohttp.ClientError, TimeoutError, OSError):
                return Answer(NO_ANSWER)

        yield deliver


def _seconds(header: str | None) -> float | None:
    """Return a Retry-After in seconds; none for a date, which no ingress of ours sends."""
    with suppress(TypeError, ValueError):
        return min(max(float(header or ""), 0.0), 60.0)
    return None

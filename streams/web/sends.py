"""``POST /sends``: an application reports what it handed to a provider; the report goes to ``mail.sends``.

- One JSON object (``schemas/send.v1.schema.json``), or an array of at most 1,000.
- ``Authorization: Bearer KEY``. A key belongs to an account, and reports sends of that account only. Only the SHA-256
  of a key is known here.
- All or nothing: with one bad element nothing is taken, and the answer names the first 20 bad ones.
- 202 is answered after all in-sync replicas have all of them; after anything else, send all of it again. A send that
  is reported twice counts once.

Errors are ``application/problem+json`` (RFC 9457). They name fields, never values.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web
from aiokafka.errors import KafkaError

from streams import codecs, records
from streams.domain.events import Send
from streams.web.keys import Keys, credential
from streams.web.limits import Handler, NoRoomError, ReadBody, TokenBucket, TooLargeError, coding_of
from streams.web.problems import problem

PATH: Final = "/sends"
MOST_SENDS: Final = 1000
"""Elements of one request."""
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one request: room for 1,000 with 4 KiB each."""
RETRY_AFTER_S: Final = 10
_MOST_ERRORS: Final = 20
"""Bad elements that an answer names."""


class Outcome(StrEnum):
    """What became of a request: a closed set, fit for a metric's label."""

    ACCEPTED = "accepted"
    UNAUTHENTICATED = "unauthenticated"  # no key, or an unknown one
    FORBIDDEN = "forbidden"  # a key of another account
    UNSUPPORTED = "unsupported"  # not JSON by its header, or compressed
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"  # the body did not come in time
    MALFORMED = "malformed"  # not JSON
    INVALID = "invalid"  # JSON, but some element is no send
    RATE = "rate"  # more requests of one account than ``ingress.rate_per_s``
    BUSY = "busy"  # too many requests or bytes are in work
    UNAVAILABLE = "unavailable"  # the brokers do not take it now


Publish = Callable[[Sequence[tuple[bytes, bytes]]], Awaitable[None]]
"""Write (key, value) records to ``mail.sends``, partitioned by Kafka's own partitioner (murmur2 of the key), and return
when all in-sync replicas have all of them. Raises KafkaError, OSError or TimeoutError when they do not; a part may have
been written then."""

OnOutcome = Callable[[Outcome, int], None]
"""Called once a request with what became of it and how many sends were accepted."""


class _RefusedError(Exception):
    """The request is answered with a problem."""

    def __init__(
        self,
        outcome: Outcome,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.status = status
        self.errors = errors
        self.headers = headers or {}


def handler(
    *,
    keys: Mapping[str, Sequence[str]],
    publish: Publish,
    buckets: Mapping[str, TokenBucket] = MappingProxyType({}),
    on_outcome: OnOutcome = lambda _outcome, _count: None,
) -> Handler:
    """Return the handler of ``POST /sends``. It raises only what a broken connection raises.

    Args:
        keys: Account -> the SHA-256 of each of its API keys, in hexadecimal.
        publish: Writes to ``mail.sends``; see ``Publish``.
        buckets: Account -> what bounds the rate of its requests, if anything does.
        on_outcome: Called with what became of each request, for metrics.
    """
    return _Sends(keys=Keys(keys), publish=publish, buckets=buckets, on_outcome=on_outcome).post


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sends:
    keys: Keys
    publish: Publish
    buckets: Mapping[str, TokenBucket]
    on_outcome: OnOutcome

    async def post(self, request: web.BaseRequest, read_body: ReadBody) -> web.StreamResponse:
        """Take the sends of one request."""
        try:
            accounts = self._accounts(request)
            self._hold_to_rate(accounts)
            sends = _sends(await self._body(request, read_body), accounts)
            await self._publish(sends)
        except _RefusedError as refused:
            self.on_outcome(refused.outcome, 0)
            return _problem(refused)
        self.on_outcome(Outcome.ACCEPTED, len(sends))
        answer = {"accepted": len(sends), "delivery_ids": [send.delivery_id for send in sends]}
        return web.Response(status=HTTPStatus.ACCEPTED, body=codecs.encode(answer), content_type="application/json")

    def _accounts(self, request: web.BaseRequest) -> frozenset[str]:
        """Return the accounts whose sends the request's key may report."""
        scheme, key = credential(request)
        accounts = self.keys.accounts_of(key)
        if scheme != "bearer" or not accounts:
            raise _RefusedError(
                Outcome.UNAUTHENTICATED,
                HTTPStatus.UNAUTHORIZED,
                "an API key of an account is needed: Authorization: Bearer KEY",
                headers={"WWW-Authenticate": 'Bearer realm="mailstreams"'},
            )
        return accounts

    def _hold_to_rate(self, accounts: frozenset[str]) -> None:
        """Count a request once its key is checked, so that nobody else can use up an account's rate."""
        now = time.monotonic()
        waits_s = [bucket.take(now) for account in accounts if (bucket := self.buckets.get(account)) is not None]
        if wait_s := max(waits_s, default=0.0):
            raise _RefusedError(
                Outcome.RATE,
                HTTPStatus.TOO_MANY_REQUESTS,
                f"too many requests; one may carry {MOST_SENDS} sends",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )

    @staticmethod
    async def _body(request: web.BaseRequest, read_body: ReadBody) -> bytes:
        if not (request.content_type == "application/json" or request.content_type.endswith("+json")):
            raise _RefusedError(
                Outcome.UNSUPPORTED, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json"
            )
        if coding_of(request) not in {"", "identity"}:
            raise _RefusedError(
                Outcome.UNSUPPORTED, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed"
            )
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise _too_large()
        try:
            return await read_body(MAX_BODY_BYTES)
        except TooLargeError:
            raise _too_large() from None
        except NoRoomError:
            raise _RefusedError(
                Outcome.BUSY,
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too much is in work; send all of it again",
                headers={"Retry-After": "1"},
            ) from None
        except TimeoutError:
            raise _RefusedError(Outcome.TOO_SLOW, HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time") from None

    async def _publish(self, sends: Sequence[Send]) -> None:
        try:
            await self.publish([(send.delivery_id.encode(), records.encode_send(send)) for send in sends])
        except (KafkaError, OSError, TimeoutError):
            raise _RefusedError(
                Outcome.UNAVAILABLE,
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the broker does not take it now; send all of it again",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            ) from None


def _sends(body: bytes, accounts: frozenset[str]) -> list[Send]:
    """Return the sends in the body, all of them valid and about accounts of the key."""
    try:
        value = codecs.decode(body)
    except codecs.DecodeError as error:
        raise _RefusedError(Outcome.MALFORMED, HTTPStatus.BAD_REQUEST, str(error)) from None
    elements = value if isinstance(value, list) else [value]
    if not 0 < len(elements) <= MOST_SENDS:
        raise _RefusedError(
            Outcome.INVALID, HTTPStatus.UNPROCESSABLE_ENTITY, f"an array must have 1 to {MOST_SENDS} elements"
        )
    sends: list[Send] = []
    errors: list[dict[str, Any]] = []
    foreign = False
    for index, element in enumerate(elements):
        try:
            send = _send(element, accounts)
        except records.RecordError as error:
            errors.append({"index": index, "detail": str(error)})
            continue
        if send.account not in accounts:
            foreign = True
            errors.append({"index": index, "detail": "account is not that of the API key"})
        sends.append(send)
    if foreign:
        raise _RefusedError(
            Outcome.FORBIDDEN, HTTPStatus.FORBIDDEN, _bad(errors, elements), errors=errors[:_MOST_ERRORS]
        )
    if errors:
        raise _RefusedError(
            Outcome.INVALID, HTTPStatus.UNPROCESSABLE_ENTITY, _bad(errors, elements), errors=errors[:_MOST_ERRORS]
        )
    return sends


def _send(element: Any, accounts: frozenset[str]) -> Send:
    if not isinstance(element, dict):
        message = "not an object"
        raise records.RecordError(message)
    if "account" not in element and len(accounts) == 1:  # the key says which
        element = {**element, "account": next(iter(accounts))}
    return records.send_of(element)


def _bad(errors: Sequence[object], elements: Sequence[object]) -> str:
    return f"{len(errors)} of {len(elements)} elements cannot be taken, so none was"


def _too_large() -> _RefusedError:
    return _RefusedError(
        Outcome.TOO_LARGE,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"a request may have {MAX_BODY_BYTES} bytes and {MOST_SENDS} elements; send several",
    )


def _problem(refused: _RefusedError) -> web.Response:
    answer = problem(refused.status, str(refused), errors=refused.errors, headers=refused.headers)
    if refused.outcome in {Outcome.TOO_LARGE, Outcome.TOO_SLOW}:
        answer.force_close()  # the rest of the body is not read
    return answer

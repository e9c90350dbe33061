"""The ingress: takes the providers' webhooks, lets only the true provider in, and answers 200 when Kafka has it.

The rule, in the order of a request:

1. path, method, content type, length and what the headers prove (a missing signature, a wrong password) are checked
   before a byte of the body is read;
2. the body is read within its limits of bytes, memory and time, and decompressed within limits that are narrower for
   a sender that has yet to prove anything;
3. ``Provider.verify`` checks the body with the account's own secrets; a sender that proves nothing costs us no more;
4. the record is written; **200 is answered only after all in-sync replicas have it**, and any earlier failure is
   answered so that the provider retries, if it ever does (docs/ingress.md).

A signature covers the body as the provider made it. No provider documents that it signs a compressed body, and
proxies in between may compress: so the body is verified and kept decompressed, and the kept header
``content-encoding`` says how it arrived.

Nothing of a request is ever logged or answered: no body, no header, no address. Only the names of our own settings
and reasons from closed sets are logged.
"""

import contextlib
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import Counter

from streams import records
from streams.metrics import IngressMetrics
from streams.providers import UNKNOWN, Provider, Refusal, Verification, VerificationError, WebhookRequest
from streams.web.certificates import Certificates
from streams.web.connections import SERVER, described
from streams.web.limits import (
    BrokenBodyError,
    Handler,
    NoRoomError,
    Place,
    Room,
    TokenBucket,
    TooLargeError,
    UnknownEncodingError,
    coding_of,
    read_body,
)
from streams.web.outbound import FetchError, GuardedClient
from streams.web.proxies import trusts
from streams.web.replay import TokenMemory, Use
from streams.web.trial import is_trial
from streams.web.writer import NotWrittenError, RecordWriter

logger = logging.getLogger(__name__)

PREFIX: Final = "/webhooks/"
RETRY_AFTER_S: Final = 10
"""Retry-After of a 503, unless it is busy: enough for a broker to restart, and short for the most impatient provider."""
COMPLAIN_S: Final = 60.0
"""The same complaint is logged at most once in this time."""
AHEAD_S: Final = 300.0
"""A genuine stamp that is further ahead of our clock is complained about."""

HEAD_TOO_LARGE: Final = 431
_UNAUTHORIZED, _FORBIDDEN, _UNAVAILABLE = 401, 403, 503


class Reason(StrEnum):
    """Why a request is refused, apart from doubts about its sender (``Refusal``): a closed set, for a metric's label."""

    BROKEN = "broken"
    """Not HTTP, not compressed as its header says, or its connection was lost."""
    REPLAYED = "replayed"
    """Its token was already used for another webhook."""
    NOT_FOUND = "not_found"
    METHOD = "method"
    TOO_SLOW = "too_slow"
    TOO_LARGE = "too_large"
    CONTENT_TYPE = "content_type"
    CONTENT_ENCODING = "content_encoding"
    RATE = "rate"
    HEAD_TOO_LARGE = "head_too_large"
    INTERNAL = "internal"
    """A mistake of ours."""
    BROKER = "broker"
    """Not acknowledged in time."""
    BUSY = "busy"
    """Too many requests are in work, or their bodies use too many bytes."""
    CERTIFICATE = "certificate"
    """The signing certificate cannot be fetched."""
    CONFIRMATION = "confirmation"
    """A subscription could not be confirmed."""


_CODES: Final[Mapping[Refusal | Reason, int]] = {
    Reason.BROKEN: 400,
    Refusal.MISSING: _UNAUTHORIZED,
    Refusal.MALFORMED: _UNAUTHORIZED,
    Refusal.MISMATCH: _FORBIDDEN,
    Refusal.STALE: _UNAVAILABLE,  # it is genuine, so our clock may be wrong: it has to come again when that is right
    Refusal.UNTRUSTED: _FORBIDDEN,
    Refusal.UNCONFIGURED: _FORBIDDEN,
    Reason.REPLAYED: _FORBIDDEN,
    Reason.NOT_FOUND: 404,
    Reason.METHOD: 405,
    Reason.TOO_SLOW: 408,
    Reason.TOO_LARGE: 413,
    Reason.CONTENT_TYPE: 415,
    Reason.CONTENT_ENCODING: 415,
    Reason.RATE: 429,
    Reason.HEAD_TOO_LARGE: HEAD_TOO_LARGE,
    Reason.INTERNAL: 500,
    Reason.BROKER: _UNAVAILABLE,
    Reason.BUSY: _UNAVAILABLE,
    Reason.CERTIFICATE: _UNAVAILABLE,
    Reason.CONFIRMATION: _UNAVAILABLE,
}
_OF_NOBODY: Final = frozenset({Reason.BROKEN, Reason.NOT_FOUND, Reason.HEAD_TOO_LARGE})
"""Reasons that can be found before the provider is known."""
_OF_PROVIDERS: Final = frozenset(_CODES) - {Reason.NOT_FOUND, Reason.HEAD_TOO_LARGE}
_OF_THE_REQUEST: Final = (web.HTTPException, ConnectionError, web.RequestPayloadError, HttpProcessingError)
_OF_A_LOST_CONNECTION: Final = (OSError, RuntimeError)
"""What aiohttp, the event loop and TLS raise if a connection ends in the middle of a request."""
_UNREAD: Final = frozenset({Reason.BROKEN, Reason.TOO_SLOW, Reason.TOO_LARGE})
"""Reasons after which the rest of the body is not read."""
_PINGS: Final = frozenset({b"", b"[]", b"{}", b"null"})
"""Bodies without an event: a provider's web page tests with them whether the URL answers."""
_PING_BYTES: Final = 16

_KEPT_HEADERS: Final = frozenset({"content-encoding", "user-agent"})
"""HTTP headers that are kept with the record for every provider, beside the provider's own."""
_MAX_KEPT: Final = 1024
"""Characters of a header that are kept: together they fit into a record beside the largest body."""
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_MAX_URL: Final = 4096


class _RefusedError(Exception):
    """The request is answered with a status other than 200."""

    def __init__(
        self,
        reason: Refusal | Reason,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.headers = headers or {}


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """One provider's webhooks for one account."""

    provider: Provider
    account: str
    topic: str
    secrets: Mapping[str, str]
    replay_window_s: float | None
    insecure: bool
    auto_confirm: bool
    bucket: TokenBucket
    tokens: TokenMemory
    kept_headers: frozenset[str] = field(init=False)

    @property
    def path(self) -> str:
        """The path of its URL."""
        return f"{PREFIX}{self.provider.name}/{self.account}"

    def __post_init__(self) -> None:
        # a header that holds a credential is never kept, whatever its name
        credentials = {
            secret.split(":", 2)[1].lower() for secret in self.secrets.values() if secret.startswith("header:")
        }
        self.kept_headers = (_KEPT_HEADERS | self.provider.kept_headers) - credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may use."""

    max_body_bytes: int
    read_timeout_s: float
    """For a body to arrive; and for the client to read its answer, else the connection is cut."""
    max_requests: int
    """Requests whose bodies are complete and that are not yet answered."""
    max_memory_bytes: int


class Ingress:
    """Answers the requests of the public port.

    Args:
        endpoints: all there are.
        others: handlers of other paths, such as ``POST /sends``, by (method, path).
        limits: what a request may use.
        writer: writes records.
        certificates: fetches signing certificates.
        client: confirms subscriptions.
        metrics: count everything.
        public_url: the beginning of the URL that providers call; None: taken from the request.
        trusted_proxies: addresses and networks whose X-Forwarded headers are believed.
    """

    def __init__(
        self,
        *,
        endpoints: Sequence[Endpoint],
        others: Mapping[tuple[str, str], Handler],
        limits: Limits,
        writer: RecordWriter,
        certificates: Certificates,
        client: GuardedClient,
        metrics: IngressMetrics,
        public_url: str | None = None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        self._endpoints = {one.path: one for one in endpoints}
        self._others = dict(others)
        self.limits = limits
        self._writer = writer
        self._certificates = certificates
        self._client = client
        self._metrics = metrics
        self._public_url = public_url
        self._is_proxy = trusts(trusted_proxies)
        self._complaints: dict[tuple[str, str], tuple[float, int]] = {}
        names = {UNKNOWN, *(one.provider.name for one in endpoints)}
        self._seconds = {name: metrics.request_seconds.labels(name) for name in names}
        self._accepted = {name: metrics.last_request.labels(name) for name in names - {UNKNOWN}}
        self._written: dict[str, tuple[Counter, Counter]] = {}
        """By path: the counters of webhooks and of tests."""
        for one in endpoints:  # a series that first appears at 3 hides that rise, and with few webhooks each one counts
            whose = (one.provider.name, one.account)
            self._written[one.path] = (metrics.accepted.labels(*whose), metrics.tests.labels(*whose))
            metrics.produced.labels(one.topic)
            metrics.produce_failures.labels(one.topic)
            for reason in _OF_PROVIDERS:
                metrics.rejected.labels(*whose, reason.value)
        for reason in _OF_NOBODY:
            metrics.rejected.labels(UNKNOWN, "", reason.value)
        self._counters: dict[tuple[str, int], Counter] = {}
        self.room = Room(limits.max_requests, limits.max_memory_bytes)
        self.draining = False
        metrics.in_flight.set_function(lambda: self.room.working)
        metrics.in_flight_bytes.set_function(lambda: self.room.bytes)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; of a failure the client learns only the status code and one word."""
        begun = time.perf_counter()
        path = request.raw_path.partition("?")[0]
        other = self._others.get((request.method, path))
        if other is not None:
            return await self._handle_other(path, other, request)
        endpoint = self._endpoints.get(path)
        name = endpoint.provider.name if endpoint is not None else UNKNOWN
        answer, reason = await self._answer(endpoint, request)
        self._count(name, answer.status)
        if reason is not None:
            self._metrics.rejected.labels(name, endpoint.account if endpoint else "", reason.value).inc()
            if endpoint is not None:
                self._say(endpoint.path, reason.value, "refused: %s", reason.value)
        self._seconds[name].observe(time.perf_counter() - begun)
        return answer

    def _count(self, name: str, code: int) -> None:
        counter = self._counters.get((name, code))
        if counter is None:  # looking it up by its labels each time would cost as much as all the rest of the counting
            counter = self._counters[name, code] = self._metrics.requests.labels(name, str(code))
        counter.inc()

    async def _answer(
        self, endpoint: Endpoint | None, request: web.BaseRequest
    ) -> tuple[web.StreamResponse, Refusal | Reason | None]:
        """Return the answer, and the reason where it is not 200."""
        if endpoint is None:
            refused = _RefusedError(Reason.NOT_FOUND)
            return self._refusal(None, refused), refused.reason
        try:
            return self._response(200, await self._take(endpoint, request)), None
        except _RefusedError as error:
            refused = error
        except Exception as error:  # noqa: BLE001 - the client learns nothing of it, and the provider retries
            refused = self._failed(endpoint.path, request, error)
        return self._refusal(endpoint.provider, refused), refused.reason

    def _failed(self, path: str, request: web.BaseRequest, error: Exception) -> _RefusedError:
        """Return the refusal for an unexpected error: the request's fault, or ours, which is logged."""
        if isinstance(error, _OF_THE_REQUEST) or (isinstance(error, _OF_A_LOST_CONNECTION) and _is_lost(request)):
            return _RefusedError(Reason.BROKEN)
        # only its type and place: the text of an error may hold data
        self._say(path, described(error), "a mistake of ours: %s", described(error), level=logging.ERROR)
        return _RefusedError(Reason.INTERNAL)

    async def _take(self, endpoint: Endpoint, request: web.BaseRequest) -> bytes:
        """Take one webhook in and return what to answer.

        Raises:
            _RefusedError: it is not taken.
        """
        if request.method == "HEAD":  # some providers check in this way that the URL exists
            self._metrics.unrecorded.labels(endpoint.provider.name, "head").inc()
            return b""
        if request.method != "POST":
            raise _RefusedError(Reason.METHOD, headers={"Allow": "POST, HEAD"})
        if request.content_type not in endpoint.provider.content_types:
            raise _RefusedError(Reason.CONTENT_TYPE)
        if not endpoint.secrets and not endpoint.insecure:
            raise _RefusedError(Refusal.UNCONFIGURED)
        headers = {header.lower(): text for header, text in request.headers.items()}
        proven = endpoint.insecure or self._read_headers(endpoint, headers)
        place = self.room.enter()
        try:
            body = await self._body(request, place, proven=proven)
            return await self._take_body(endpoint, self._webhook(endpoint, request, headers, body))
        finally:
            place.leave()

    def _read_headers(self, endpoint: Endpoint, headers: Mapping[str, str]) -> bool:
        """Return whether the headers already prove the sender. If they disprove it, no body is read."""
        try:
            return endpoint.provider.read_headers(headers, endpoint.secrets)
        except VerificationError as error:
            raise _RefusedError(error.reason) from None

    async def _body(self, request: web.BaseRequest, place: Place, *, proven: bool) -> bytes:
        limits = self.limits
        if (request.content_length or 0) > limits.max_body_bytes:
            raise _RefusedError(Reason.TOO_LARGE)
        try:
            return await self._read(
                request, place, encoding=coding_of(request), most=limits.max_body_bytes, proven=proven
            )
        except TooLargeError:
            raise _RefusedError(Reason.TOO_LARGE) from None
        except NoRoomError:
            raise _RefusedError(Reason.BUSY, retry_after_s=1) from None
        except UnknownEncodingError:
            raise _RefusedError(Reason.CONTENT_ENCODING, headers={"Accept-Encoding": "gzip, deflate"}) from None
        except BrokenBodyError:
            raise _RefusedError(Reason.BROKEN) from None
        except TimeoutError:
            raise _RefusedError(Reason.TOO_SLOW) from None

    async def _read(self, request: web.BaseRequest, place: Place, *, encoding: str, most: int, proven: bool) -> bytes:
        """Read a body and only then count it as in work: one that never arrives takes no place from those that do.

        Raises:
            TooLargeError, NoRoomError, UnknownEncodingError, BrokenBodyError, TimeoutError: see ``read_body``.
        """
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = await read_body(
            request.content,
            encoding=encoding,
            most=most,
            proven=proven,
            place=place,
            timeout_s=self.limits.read_timeout_s,
        )
        place.work()
        return body

    async def _take_body(self, endpoint: Endpoint, webhook: WebhookRequest) -> bytes:
        verification = None if endpoint.insecure else await self._verify(endpoint, webhook)
        if wait_s := endpoint.bucket.take(time.monotonic()):
            raise _RefusedError(Reason.RATE, retry_after_s=wait_s)
        if len(webhook.body) <= _PING_BYTES and webhook.body.strip() in _PINGS:
            self._metrics.unrecorded.labels(endpoint.provider.name, "ping").inc()
            return endpoint.provider.answer(webhook) or b""
        with self._once(endpoint, webhook, verification) as new:
            if new:
                await self._write(endpoint, webhook, verification)
                if verification is not None:
                    await self._confirm(endpoint, webhook)
        if not is_trial(webhook.headers):
            self._accepted[endpoint.provider.name].set_to_current_time()
        return self._consent(endpoint, webhook, verification) or endpoint.provider.answer(webhook) or b""

    async def _verify(self, endpoint: Endpoint, webhook: WebhookRequest) -> Verification:
        provider = endpoint.provider
        certificate, failed = None, False
        try:
            url = provider.certificate_url(webhook)
            # fetched only if the body names a topic of ours: a stranger must not make us fetch anything
            if url is not None and any(secret.encode() in webhook.body for secret in endpoint.secrets.values()):
                try:
                    certificate = await self._certificates.get(url)
                except FetchError as error:
                    failed = True
                    self._say(endpoint.path, "certificate", "no signing certificate: %s", error)
            verification = provider.verify(
                webhook,
                endpoint.secrets,
                now=datetime.now(UTC),
                replay_window_s=endpoint.replay_window_s,
                certificate=certificate,
            )
        except VerificationError as error:
            if failed and error.reason is Refusal.UNTRUSTED:  # not the sender's fault: it may retry
                raise _RefusedError(Reason.CERTIFICATE) from None
            raise _RefusedError(error.reason) from None
        if url is not None and certificate is not None:
            self._certificates.proved(url)
        if verification.ahead_s > AHEAD_S:
            self._say(
                endpoint.path,
                "ahead",
                "a genuine stamp is %d s ahead of this machine's clock: is the clock slow?",
                verification.ahead_s,
            )
        return verification

    @contextlib.contextmanager
    def _once(self, endpoint: Endpoint, webhook: WebhookRequest, verification: Verification | None) -> Iterator[bool]:
        """Yield whether a webhook's token, if it has one, is new; use it up unless the block raises.

        Raises:
            _RefusedError: the token was used for something else.
        """
        token = verification.replay_token if verification is not None else None
        if token is None:
            yield True
            return
        use = endpoint.tokens.begin(token, endpoint.account, webhook.body, time.monotonic())
        if use is Use.REPEATED:
            self._metrics.unrecorded.labels(endpoint.provider.name, "repeated").inc()
            yield False
            return
        if use is Use.FORGED:
            raise _RefusedError(Reason.REPLAYED)
        accepted = False
        try:
            yield True
            accepted = True
        finally:
            endpoint.tokens.end(token, endpoint.account, time.monotonic(), accepted=accepted)

    async def _write(self, endpoint: Endpoint, webhook: WebhookRequest, verification: Verification | None) -> None:
        headers = records.encode_raw_headers(
            provider=endpoint.provider.name,
            account=endpoint.account,
            received_at=webhook.received_at,
            content_type=webhook.headers["content-type"][:_MAX_KEPT],
            url=webhook.url,
            verified=verification is not None,
            key_id=verification.key_id if verification is not None else None,
            http_headers={
                name: text[:_MAX_KEPT] for name, text in webhook.headers.items() if name in endpoint.kept_headers
            },
        )
        try:
            await self._writer.write(endpoint.topic, webhook.body, headers)
        except NotWrittenError:
            raise _RefusedError(Reason.BROKER) from None
        webhooks, tests = self._written[endpoint.path]
        if is_trial(webhook.headers):
            tests.inc()
            text = "a test of %s was written; it does not count as a webhook"
            self._say(endpoint.path, "test", text, endpoint.provider.name, level=logging.INFO)
        else:
            webhooks.inc()

    async def _confirm(self, endpoint: Endpoint, webhook: WebhookRequest) -> None:
        """Confirm a subscription, or log how to; of one that was ended, log how to restore it.

        ``verify`` has checked that its topic is allowed.

        Raises:
            _RefusedError: it could not be confirmed; the provider retries, so its record is written twice.
        """
        try:
            handshake = endpoint.provider.handshake(webhook)
        except VerificationError as error:
            raise _RefusedError(error.reason) from None
        if handshake is None:
            return
        if handshake.ended:  # whoever ended it may have meant to, so auto_confirm does not restore it
            logger.warning(
                "%s has ended the subscription of %s for account %s: no more webhooks come by it; to restore it: "
                "mailstreams webhook confirm %s --account %s --restore",
                endpoint.provider.name,
                handshake.topic_arn,
                endpoint.account,
                handshake.topic_arn,
                endpoint.account,
            )
            return
        if not endpoint.auto_confirm:
            logger.warning(
                "%s asks to confirm the subscription of %s for account %s; if that is right: "
                "mailstreams webhook confirm %s --account %s",
                endpoint.provider.name,
                handshake.topic_arn,
                endpoint.account,
                handshake.topic_arn,
                endpoint.account,
            )
            return
        try:
            await self._client.get(handshake.confirm_url)
        except FetchError as error:
            logger.warning("the subscription of %s could not be confirmed: %s", handshake.topic_arn, error)
            raise _RefusedError(Reason.CONFIRMATION) from None
        logger.info("subscribed account %s to %s", endpoint.account, handshake.topic_arn)

    @staticmethod
    def _consent(endpoint: Endpoint, webhook: WebhookRequest, verification: Verification | None) -> bytes | None:
        """Return the answer that agrees to get webhooks, if the sender proved that it knows one of our secrets."""
        if verification is None or (consent := endpoint.provider.consent(webhook)) is None:
            return None
        logger.info("agreed to get webhooks of %s for account %s", endpoint.provider.name, endpoint.account)
        return consent

    async def _handle_other(self, path: str, handler: Handler, request: web.BaseRequest) -> web.StreamResponse:
        place = self.room.enter()
        try:
            answer = await handler(
                request, lambda most: self._read(request, place, encoding="", most=most, proven=True)
            )
        except Exception as error:  # noqa: BLE001 - as for webhooks
            return self._refusal(None, self._failed(path, request, error))
        finally:
            place.leave()
        answer.headers["Server"] = SERVER
        if self.draining:
            answer.force_close()
        return answer

    def _webhook(
        self, endpoint: Endpoint, request: web.BaseRequest, headers: Mapping[str, str], body: bytes
    ) -> WebhookRequest:
        return WebhookRequest(
            body=body,
            headers=headers,
            url=self._url(request),
            account=endpoint.account,
            received_at=datetime.now(UTC),
        )

    def _url(self, request: web.BaseRequest) -> str:
        """Return the URL that the provider called, as far as it can be known."""
        if self._public_url is not None:
            return (self._public_url + request.raw_path)[:_MAX_URL]
        scheme, host = "https" if request.secure else "http", request.headers.get("Host", "")
        if self._is_proxy is not None and self._is_proxy(_peer(request)):
            # with several proxies, the last one's value: the only one that is known to be ours
            proto = _last(request, "X-Forwarded-Proto", "").lower()
            scheme = proto if proto in {"http", "https"} else scheme
            host = _last(request, "X-Forwarded-Host", host)
        host = host if _HOST.fullmatch(host) else ""
        return f"{scheme}://{host}{request.raw_path}"[:_MAX_URL]

    def _response(self, code: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
        answer = web.Response(status=code, body=body, headers={"Server": SERVER, **(headers or {})})
        if body:
            answer.content_type = "application/json" if body[:1] == b"{" else "text/plain"
        if self.draining:
            answer.force_close()
        return answer

    def _refusal(self, provider: Provider | None, refused: _RefusedError) -> web.Response:
        """Return the answer of a refusal, with a code after which this provider retries if a retry may succeed."""
        code = _CODES[refused.reason]
        if provider is not None:
            code = provider.instead_of.get(code, code)
        headers = dict(refused.headers)
        wait_s = refused.retry_after_s
        if wait_s is None and code == _UNAVAILABLE:
            wait_s = RETRY_AFTER_S
        if wait_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
        if code == _UNAUTHORIZED:
            # RFC 9110, 15.5.2; and SNS sends the credential of its URL only after a 401 has asked for it
            headers["WWW-Authenticate"] = 'Basic realm="webhooks"'
        answer = self._response(code, f"{refused.reason.value}\n".encode(), headers)
        if refused.reason in _UNREAD:
            answer.force_close()
        return answer

    def count_broken(self, code: int) -> None:
        """Count a request that is no HTTP at all (400), or whose head is too large (431)."""
        self._count(UNKNOWN, code)
        reason = Reason.HEAD_TOO_LARGE if code == HEAD_TOO_LARGE else Reason.BROKEN
        self._metrics.rejected.labels(UNKNOWN, "", reason.value).inc()
        if reason is Reason.HEAD_TOO_LARGE:  # of whom is not known: a provider behind a proxy that adds much loses all
            self._say("a request", reason.value, "refused: %s", reason.value)

    def _say(self, path: str, kind: str, text: str, *values: object, level: int = logging.WARNING) -> None:
        """Log a message about one of our paths, each kind at most once in ``COMPLAIN_S``."""
        place = (path, kind)
        now = time.monotonic()
        last, held = self._complaints.get(place, (-COMPLAIN_S, 0))
        if now - last < COMPLAIN_S:
            self._complaints[place] = (last, held + 1)
            return
        self._complaints[place] = (now, 0)
        more = f" ({held} times more since)" if held else ""
        logger.log(level, "%s: %s%s", path, text % values, more)


def _is_lost(request: web.BaseRequest) -> bool:
    """Return whether the connection is gone, so that nobody can read an answer."""
    return request.transport is None or request.transport.is_closing()


def _last(request: web.BaseRequest, header: str, default: str) -> str:
    """Return the last value of a header, whether they came in one line or in several."""
    return ",".join(request.headers.getall(header, [default])).rpartition(",")[2].strip()


def _peer(request: web.BaseRequest) -> str:
    """Return the address at the other end of the connection."""
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    return str(name[0]) if isinstance(name, tuple) else ""

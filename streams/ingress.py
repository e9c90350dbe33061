"""Run the ingress until it is stopped. A process of its own, so that webhooks are taken while workers restart.

The rule: it starts without the broker and answers 503 until there is one, because a
provider remembers a refused connection longer than a 503. An orderly stop takes no new
connections, finishes the requests in work, and ends with exit status 0.
"""

import asyncio
import contextlib
import logging
import resource
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from streams import __version__, topics
from streams.metrics import IngressMetrics
from streams.process import (
    EXIT_CANNOT_START,
    EXIT_CRASHED,
    EXIT_OK,
    error_of,
    raise_open_files,
    run,
    stop_by_signals,
    topic_problems,
)
from streams.providers import PROVIDERS, Provider
from streams.settings import Settings
from streams.web import sends
from streams.web.certificates import Certificates
from streams.web.health import HealthServer
from streams.web.ingress import Endpoint, Ingress, Limits
from streams.web.limits import Handler, TokenBucket
from streams.web.listener import Listener
from streams.web.outbound import GuardedClient
from streams.web.public import PublicServer
from streams.web.renewal import Renewal
from streams.web.replay import TokenMemory
from streams.web.writer import Hooks, RecordWriter

logger = logging.getLogger(__name__)

_LOOK_S = 0.02
_OTHER_FILES = 128
"""Open files that are not clients: listeners, brokers, certificates, logs."""


def run_ingress(settings: Settings) -> int:
    """Run the ingress and return its exit status: 0 after an orderly stop, 1 after a crash, 2 when it cannot start."""
    return run(settings, lambda: _run(settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An ingress, built and not yet listening."""

    settings: Settings
    ingress: Ingress
    public: PublicServer
    listener: Listener
    renewal: Renewal
    writer: RecordWriter
    client: GuardedClient
    health: HealthServer


def build(settings: Settings) -> Built:
    """Return an ingress for these settings. Call it inside a running event loop.

    Raises:
        SettingsError: a file or folder that they name cannot be used.
    """
    own = settings.ingress
    own.check_files()
    metrics = IngressMetrics.create(CollectorRegistry(), version=__version__)
    writer = RecordWriter(
        client_options=settings.kafka.client_options(),
        compression_type=settings.kafka.producer_compression,
        client_id=f"{settings.worker.app_id}-ingress",
        timeout_s=own.acknowledge_timeout_s,
        partitions=settings.topics.partitions,
        hooks=_hooks(metrics),
    )
    client = GuardedClient()
    ingress = Ingress(
        endpoints=_endpoints(settings),
        others=_others(settings, writer, metrics),
        limits=Limits(
            max_body_bytes=own.max_body_bytes,
            read_timeout_s=own.read_timeout_s,
            max_requests=own.max_requests,
            max_memory_bytes=own.max_memory_mb << 20,
        ),
        writer=writer,
        certificates=Certificates(
            client.get,
            folder=own.certificates_dir,
            on_download=lambda outcome: metrics.certificates.labels(outcome).inc(),
        ),
        client=client,
        metrics=metrics,
        public_url=own.public_url,
        trusted_proxies=own.trusted_proxies,
    )

    def not_ready() -> Sequence[str]:
        return ["stopping"] if ingress.draining else writer.why_not_ready

    metrics.ready.set_function(lambda: not not_ready())
    public = PublicServer(
        ingress,
        head_timeout_s=own.read_timeout_s,
        keepalive_timeout_s=own.keepalive_timeout_s,
        max_connections=_connections_that_fit(own.max_connections),
    )

    def use(tls: ssl.SSLContext | None) -> None:
        listener.tls = tls

    # before the files are read: what changes in between is a change
    renewal = Renewal(
        own.tls_certfile, own.tls_keyfile, load=own.tls_context, use=use, set_expiry=metrics.certificate_expiry.set
    )
    listener = Listener(public, tls=own.tls_context())
    return Built(
        settings=settings,
        ingress=ingress,
        public=public,
        listener=listener,
        renewal=renewal,
        writer=writer,
        client=client,
        health=HealthServer(
            host=own.admin_host,
            port=own.admin_port,
            registry=metrics.registry,
            not_live=list,
            not_ready=not_ready,
        ),
    )


def _connections_that_fit(wanted: int) -> int:
    """Raise the limit of open files, and return how many connections fit into it.

    With no file left, nobody could be answered and the brokers could not be reached.
    """
    raise_open_files()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted + _OTHER_FILES:
        return wanted
    fitting = max(soft - _OTHER_FILES, soft // 2)
    logger.warning(
        "ingress.max_connections is %d, and the process may open %d files only (ulimit -n): %d connections are let in",
        wanted,
        soft,
        fitting,
    )
    return fitting


def _hooks(metrics: IngressMetrics) -> Hooks:
    def acknowledged(topic: str, count: int, seconds: float) -> None:
        metrics.produced.labels(topic).inc(count)
        metrics.produce_seconds.observe(seconds)

    return Hooks(acknowledged=acknowledged, failed=lambda topic: metrics.produce_failures.labels(topic).inc())


def _endpoints(settings: Settings) -> list[Endpoint]:
    """Return an endpoint for each account at each provider of ``topics.providers``."""
    return [endpoint for name in settings.topics.providers for endpoint in _endpoints_of(PROVIDERS[name], settings)]


def _endpoints_of(provider: Provider, settings: Settings) -> list[Endpoint]:
    webhooks = {account: contents.webhooks.get(provider.name) for account, contents in settings.accounts.items()}
    windows_s = {
        account: provider.replay_window_s
        if webhook is None or webhook.replay_window_s is None
        else webhook.replay_window_s
        for account, webhook in webhooks.items()
    }
    tokens = TokenMemory.for_windows(windows_s.values())
    return [
        Endpoint(
            provider=provider,
            account=account,
            topic=topics.raw_topic(provider.name),
            secrets={key: secret.get_secret_value() for key, secret in webhook.secrets.items()} if webhook else {},
            replay_window_s=windows_s[account],
            insecure=webhook is not None and webhook.insecure,
            auto_confirm=webhook is not None and webhook.auto_confirm,
            bucket=TokenBucket(settings.ingress.rate_per_s, settings.ingress.rate_burst),
            tokens=tokens,
        )
        for account, webhook in webhooks.items()
    ]


def _others(settings: Settings, writer: RecordWriter, metrics: IngressMetrics) -> dict[tuple[str, str], Handler]:
    """Return what else the public port serves: ``POST /sends``, if any account has an API key."""
    keys = {name: account.api_keys for name, account in settings.accounts.items() if account.api_keys}
    if not keys:
        return {}

    def on_outcome(outcome: sends.Outcome, count: int) -> None:
        metrics.sends_requests.labels(outcome.value).inc()
        metrics.sends.inc(count)

    return {
        ("POST", sends.PATH): sends.handler(
            keys=keys,
            publish=lambda rows: writer.write_keyed(topics.SENDS, rows),
            buckets={name: TokenBucket(settings.ingress.rate_per_s, settings.ingress.rate_burst) for name in keys},
            on_outcome=on_outcome,
        )
    }


async def _run(settings: Settings) -> int:
    stop = stop_by_signals()
    built = build(settings)
    _say_what_is_served(settings)
    own = settings.ingress
    place = (own.admin_host, own.admin_port)
    try:
        admin_port = await built.health.start()
        place = (own.host, own.port)
        port = await built.listener.listen(own.host, own.port, reuse_port=own.reuse_port)
    except OSError as error:
        logger.error("cannot listen on %s:%s: %s", *place, error.strerror)  # noqa: TRY400 - one line says it all
        await built.health.stop()
        return EXIT_CANNOT_START
    logger.info("http://%s:%d/metrics /livez /readyz", own.admin_host, admin_port)
    scheme = "https" if own.tls_certfile is not None else "http"
    logger.info("%s://%s:%d/webhooks/PROVIDER/ACCOUNT", scheme, own.host, port)
    stopping = asyncio.create_task(stop.wait())
    serving = asyncio.create_task(built.listener.serve())
    parts = [asyncio.create_task(_write(built)), serving, asyncio.create_task(built.renewal.run())]
    await asyncio.wait({stopping, *parts}, return_when=asyncio.FIRST_COMPLETED)
    status = EXIT_OK if stop.is_set() else _status_of(next(part for part in parts if part.done()))
    await _drain(built, serving)
    for task in (stopping, *parts):
        task.cancel()
    return status


async def _write(built: Built) -> int:
    """Keep the writer connected once the topics are right; return an exit status if they are not.

    Until then nothing is written: a record might create its topic with the broker's own settings, or go to another
    partition than its key's. A partition without a leader does not delay the start: the others take records.
    """
    written = _written(built.settings)
    problems = await topic_problems(built.settings, lambda spec: spec.name in written, leaders=False)
    for problem in problems:
        logger.error("%s", problem)
    if not problems:
        await built.writer.run()
    return EXIT_CANNOT_START


def _written(settings: Settings) -> set[str]:
    return {topics.SENDS, *(topics.raw_topic(name) for name in settings.topics.providers)}


def _status_of(ended: "asyncio.Task[Any]") -> int:
    if (error := error_of(ended)) is None:
        return int(ended.result())
    logger.error("the ingress ends: %s", type(error).__name__, exc_info=error)
    return EXIT_CRASHED


async def _drain(built: Built, serving: "asyncio.Task[None]") -> None:
    """Take no new connections, finish the requests in work, close the rest."""
    ingress, limit_s = built.ingress, built.settings.ingress.shutdown_s
    logger.info("stopping: finishing %d requests", ingress.room.requests)
    ingress.draining = True  # from now on each answer closes its connection
    serving.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while ingress.room.requests:  # noqa: ASYNC110 - it is a number, there is nothing to await
                await asyncio.sleep(_LOOK_S)
    if ingress.room.requests:
        logger.warning("%d requests not finished in %g s: their providers come again", ingress.room.requests, limit_s)
    built.public.pre_shutdown()
    await built.public.shutdown(1)
    await built.writer.close()
    await built.client.close()
    await built.health.stop()
    logger.info("stopped")


def _say_what_is_served(settings: Settings) -> None:
    """Log at each start what is open to anybody or not served: that is easily forgotten."""
    configured = [
        (provider, account, webhook)
        for account, contents in settings.accounts.items()
        for provider, webhook in contents.webhooks.items()
    ]
    for provider, account, webhook in configured:
        if provider not in settings.topics.providers:
            logger.warning("/webhooks/%s/%s is not served: %s is not in topics.providers", provider, account, provider)
        elif webhook.insecure:
            logger.warning(
                "/webhooks/%s/%s is INSECURE: whoever finds it can mark any mail as delivered; "
                "set accounts.%s.webhooks.%s.secrets",
                provider,
                account,
                account,
                provider,
            )
        elif not webhook.secrets:
            logger.warning("/webhooks/%s/%s has no secret: all its requests are refused", provider, account)
    if not configured:
        logger.warning("no webhooks are set up: all requests are refused; see accounts.NAME.webhooks.PROVIDER")

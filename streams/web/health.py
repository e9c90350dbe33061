"""``/metrics``, ``/livez`` and ``/readyz`` of a worker, an ingress or a history: no login, no personal data.

They are bound to this machine by default. ``/livez`` fails when the process is useless and should be restarted;
``/readyz`` when it cannot work now and a restart would not help: in a worker no assignment yet, a restore, no broker, a
stopped partition. Both give the reasons, one per line.
"""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Reasons = Callable[[], Sequence[str]]


class HealthServer:
    """The endpoints of one process."""

    def __init__(
        self, *, host: str, port: int, registry: CollectorRegistry, not_live: Reasons, not_ready: Reasons
    ) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._not_live = not_live
        self._not_ready = not_ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            OSError: the port is taken or not allowed.
        """
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._answer(self._not_live))
        app.router.add_get("/readyz", self._answer(self._not_ready))
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @staticmethod
    def _answer(reasons: Reasons) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(_: web.Request) -> web.StreamResponse:
            why = reasons()
            text = "\n".join(why) if why else "ok"
            return web.Response(text=text + "\n", status=503 if why else 200)

        return answer

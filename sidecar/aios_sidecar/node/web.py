"""Health and metrics over HTTP."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from aios_sidecar.node.metrics import Metrics

Probe = Callable[[], str | None]
"""Why it does not hold; None when it does."""


class Web:
    """`/healthz`: restart me when this fails. `/readyz`: the kubelet knows us. `/metrics`: for Prometheus."""

    def __init__(self, host: str, port: int, metrics: Metrics, healthy: Probe, ready: Probe) -> None:
        self._host = host
        self._port = port
        application = web.Application()
        application.router.add_get("/healthz", _probe(healthy))
        application.router.add_get("/readyz", _probe(ready))
        application.router.add_get("/metrics", _text(metrics))
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> int:
        """Serves; returns the port, which is a free one when 0 was asked for."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()


def _probe(probe: Probe) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.Response:
        reason = probe()
        return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    return answer


def _text(metrics: Metrics) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"})

    return answer

"""The small HTTP server of the operator: `/metrics`, `/healthz`, `/readyz`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from aios_operator.metrics import Metrics

AUDIT_ROUNDS = 3
"""Audits that may fail in a row before we call ourselves sick: each failed one has its line in the log."""


@dataclass
class Health:
    """What liveness and readiness look at."""

    turn_age_limit_seconds: float
    audit_seconds: float
    last_turn: Callable[[], float]
    now: Callable[[], float] = time.monotonic
    ready: bool = False
    """The picture of the cluster was filled. A follower is ready too: it takes over in no time, and a rollout goes on when it does."""
    leading: bool = False
    """We decide; until then the loop does not turn."""
    last_event: float | None = None
    last_audit: float | None = None

    def sick(self) -> str | None:
        """Why the process should be restarted, or None. A quiet watch is no illness: the audit finds dead ones and ends the process."""
        turn = self.now() - self.last_turn()
        if self.leading and turn > self.turn_age_limit_seconds:
            return f"the loop has not turned for {turn:.0f} s"
        if self.last_audit is not None and self.now() - self.last_audit > AUDIT_ROUNDS * self.audit_seconds:
            return f"no audit has succeeded for {self.now() - self.last_audit:.0f} s"
        return None

    def told(self) -> str:
        """One line for the person who asks."""
        event = "none yet" if self.last_event is None else f"{self.now() - self.last_event:.0f} s ago"
        audit = "none yet" if self.last_audit is None else f"{self.now() - self.last_audit:.0f} s ago"
        turn = f"last turn {self.now() - self.last_turn():.1f} s ago" if self.leading else "another operator decides"
        return f"{turn}, last watch event {event}, last audit {audit}\n"


@asynccontextmanager
async def serve(host: str, port: int, health: Health, metrics: Metrics) -> AsyncIterator[int]:
    """Serves inside; yields the port."""

    async def healthz(_: web.Request) -> web.Response:
        why = health.sick()
        return web.Response(text=f"{why}; {health.told()}" if why else health.told(), status=503 if why else 200)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ready\n" if health.ready else "the cluster has not been read yet\n", status=200 if health.ready else 503)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), content_type="text/plain")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()

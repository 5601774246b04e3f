"""The gateway's end of the hand-over: it connects to the node agent, again and again, and does as it says. Agents are served meanwhile."""

import asyncio
import logging
import random

from aios_sidecar.contracts import HANDOVER_VERSION, Fresh, Held, Hello, ProtocolError, Serve, Serving, Stop, Synced, Update
from aios_sidecar.gateway.agents import Agents
from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.settings import Settings
from aios_sidecar.handover import Link, LinkClosedError, PeerRefusedError, Received, connect

log = logging.getLogger(__name__)


class NodeLink:
    """Keeps a link to the node agent."""

    def __init__(self, settings: Settings, agents: Agents, freshness: Freshness, metrics: Metrics, chance: random.Random) -> None:
        self._settings = settings
        self._agents = agents
        self._freshness = freshness
        self._metrics = metrics
        self._chance = chance
        self._pause_seconds = settings.reconnect_min_seconds
        self.up = False

    async def run(self) -> None:
        """Returns only by cancellation. The link is closed then."""
        while True:
            try:
                await self._converse()
            except (LinkClosedError, PeerRefusedError, ProtocolError) as error:
                log.warning("no link to the node agent, next try in about %.1f s: %s", self._pause_seconds, error)
            await asyncio.sleep(self._pause_seconds * self._chance.uniform(0.5, 1.0))
            self._pause_seconds = min(2 * self._pause_seconds, self._settings.reconnect_max_seconds)

    async def _converse(self) -> None:
        link = await connect(self._settings.node_socket, peer=self._settings.node_uid)
        try:
            await self._open(link)
            self._set_up(True)
            while True:
                await self._do(await link.receive(), link)
        finally:
            self._set_up(False)
            link.close()

    async def _open(self, link: Link) -> None:
        """Say what is served, and hear that the node agent speaks the same contract."""
        await link.send(Hello())
        for claim_uid, agent in self._agents:
            await link.send(Held(claim_uid=claim_uid), agent.listeners)
        await link.send(Synced())
        received = await link.receive()
        if not isinstance(received.message, Hello) or received.message.contract != HANDOVER_VERSION:
            received.close()
            link.close()
            raise ProtocolError(f"the node agent must open with hello of contract {HANDOVER_VERSION}, not {received.message!r}")
        self._pause_seconds = self._settings.reconnect_min_seconds
        log.info("linked to the node agent, %d agents in service", len(self._agents))

    async def _do(self, received: Received, link: Link) -> None:
        match received.message:
            case Serve(claim_uid=uid, record=record):
                self._agents.serve(uid, record, received.listeners)
                await link.send(Serving(claim_uid=uid, kinds=tuple(received.listeners)))
            case Update(claim_uid=uid, record=record):
                self._agents.update(uid, record)
            case Stop(claim_uid=uid):
                self._agents.stop(uid)
            case Fresh(until_seconds=until):
                self._freshness.renew(until)
            case other:
                received.close()
                raise ProtocolError(f"a node agent does not say {other.type} here")

    def _set_up(self, up: bool) -> None:
        if up != self.up:
            self.up = up
            self._metrics.linked(up)

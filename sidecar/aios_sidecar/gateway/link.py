"""The gateway's end of the hand-over: it connects to the node agent, again and again, and does as it says. Agents are served meanwhile."""

import asyncio
import contextlib
import logging
import random
import time
from typing import Final

from aios_api.context import ContextFacts
from aios_api.egress import MAX_BINDINGS
from aios_sidecar.context.store import AgentKey
from aios_sidecar.contracts.link import (
    HANDOVER_VERSION,
    ContextCounts,
    ContextDoor,
    EgressCounts,
    EraseContext,
    FetchContext,
    ForgoContext,
    Fresh,
    Held,
    Hello,
    MovedContext,
    OfferContext,
    ReclaimableContext,
    ReclaimContext,
    Serve,
    Serving,
    Stop,
    Synced,
    Update,
    WithdrawContext,
    WouldDeny,
)
from aios_sidecar.contracts.packets import ProtocolError
from aios_sidecar.gateway.agents import Agents, ServedAgent
from aios_sidecar.gateway.contexts.reclaim import Reclaimer
from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.moves.mover import Mover
from aios_sidecar.gateway.settings import Settings
from aios_sidecar.handover import Link, LinkClosedError, PeerRefusedError, Received, connect

log = logging.getLogger(__name__)

COUNTS_SECONDS: Final = 5.0
"""Between two reports of what was denied: they end as writes to the API server."""
CONTEXTS_SECONDS: Final = 10.0
"""Between two reports of what is in contexts, as well."""
MOVES_SECONDS: Final = 2.0
"""Between two looks at how far moves are, when nothing is heard of them."""


class NodeLink:
    """Keeps a link to the node agent."""

    def __init__(
        self,
        settings: Settings,
        agents: Agents,
        freshness: Freshness,
        metrics: Metrics,
        chance: random.Random,
        moves: Mover | None = None,
        door: str | None = None,
        reclaimer: Reclaimer | None = None,
    ) -> None:
        """`door`: the address at which `moves` gives contexts to other nodes."""
        self._settings = settings
        self._agents = agents
        self._freshness = freshness
        self._metrics = metrics
        self._chance = chance
        self._moves = moves
        self._door = door
        self._reclaimer = reclaimer
        self._pause_seconds = settings.reconnect_min_seconds
        self._marks_changed = asyncio.Event()
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
            reporting = asyncio.gather(self._report(link), self._report_contexts(link), self._report_moves(link), self._report_marks(link))
            try:
                while True:
                    await self._do(await link.receive(), link)
            finally:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)
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
            case Serve(claim_uid=uid, record=record, policy=policy):
                self._agents.serve(uid, record, policy, received.listeners)
                await self._confirm(uid, link)
            case Update(claim_uid=uid, record=record, policy=policy):
                if self._agents.update(uid, record, policy):
                    await self._confirm(uid, link)
            case Stop(claim_uid=uid):
                self._agents.stop(uid)
            case Fresh(until_seconds=until):
                self._freshness.renew(until)
            case FetchContext() as order if self._moves is not None:
                self._moves.fetch(order)
            case ForgoContext(uid=uid) if self._moves is not None:
                self._moves.forgo(uid)
            case OfferContext(identity=identity, certificate=certificate) if self._moves is not None:
                self._moves.offer(identity, certificate)
            case WithdrawContext(uid=uid) if self._moves is not None:
                self._moves.withdraw(uid)
            case ReclaimContext(identity=identity, erase=erase) if self._reclaimer is not None:
                await self._reclaimer.order(identity, erase)
                self._marks_changed.set()
            case EraseContext(uid=uid) if self._reclaimer is not None:
                if (erased := await self._reclaimer.erase(uid)) is not None:
                    await link.send(erased)
            case ReclaimContext(erase=False):
                pass  # there is nothing that could be erased
            case FetchContext() | ForgoContext() | OfferContext() | WithdrawContext() | ReclaimContext() | EraseContext():
                log.warning("a %s message is of no use: there are no contexts here", received.message.type)
            case other:
                received.close()
                raise ProtocolError(f"a node agent does not say {other.type} here")

    async def _confirm(self, claim_uid: str, link: Link) -> None:
        agent = self._agents.get(claim_uid)
        if agent is not None:
            policy = agent.egress.policy
            await link.send(Serving(claim_uid=claim_uid, kinds=tuple(agent.listeners), policy_digest=policy.digest if policy else None))

    async def _report(self, link: Link) -> None:
        """Tell what agents were denied, whenever it changed. Ends with the link."""
        told: dict[str, EgressCounts] = {}
        while True:
            now = {uid: _counts(uid, agent) for uid, agent in self._agents if agent.egress.denied or agent.egress.would_deny}
            for uid, counts in now.items():
                if told.get(uid) != counts:
                    await link.send(counts)
            told = now
            await asyncio.sleep(COUNTS_SECONDS)

    async def _report_contexts(self, link: Link) -> None:
        """Tell what is in contexts, whenever it changed. Ends with the link."""
        told: dict[str, ContextFacts] = {}
        while True:
            for uid, agent in self._agents:
                facts = await agent.context.facts() if agent.context is not None else None
                if facts is not None and told.get(uid) != facts:
                    told[uid] = facts
                    await link.send(ContextCounts(claim_uid=uid, facts=facts))
            for uid in [uid for uid in told if self._agents.get(uid) is None]:
                del told[uid]
            await asyncio.sleep(CONTEXTS_SECONDS)

    async def _report_moves(self, link: Link) -> None:
        """Tell where contexts are given, and how far moves to this node are. Ends with the link."""
        if self._moves is None:
            return
        self._moves.withdraw()  # what is offered is told anew
        if self._door is not None:
            await link.send(ContextDoor(address=self._door, certificate=self._moves.identity.certificate))
        told: dict[str, tuple[float, MovedContext]] = {}
        while True:
            change = self._moves.next_change()
            now, moved = time.monotonic(), {each.uid: each for each in self._moves.moved()}
            for uid, said in moved.items():
                at, before = told.get(uid, (0.0, None))
                due = before is None or _turning(before) != _turning(said) or now >= at + CONTEXTS_SECONDS
                if said != before and due:
                    told[uid] = now, said
                    await link.send(said)
            told = {uid: what for uid, what in told.items() if uid in moved}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MOVES_SECONDS):
                    await change.wait()

    async def _report_marks(self, link: Link) -> None:
        """Tell which contexts are to be erased once their agents are gone. Ends with the link."""
        if self._reclaimer is None:
            return
        told: set[AgentKey] = set()
        while True:
            self._marks_changed.clear()
            marked = set(await self._reclaimer.marked())
            for key in marked - told:
                await link.send(ReclaimableContext(namespace=key.namespace, name=key.name, uid=key.uid))
            told = marked
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONTEXTS_SECONDS):
                    await self._marks_changed.wait()

    def _set_up(self, up: bool) -> None:
        if up != self.up:
            self.up = up
            self._metrics.linked(up)


def _turning(said: MovedContext) -> tuple[object, ...]:
    """What of it is told at once."""
    return said.attempt, said.here, said.trouble


def _counts(claim_uid: str, agent: ServedAgent) -> EgressCounts:
    would_deny = tuple(WouldDeny(binding=binding, count=count) for binding, count in sorted(agent.egress.would_deny.items())[:MAX_BINDINGS])
    return EgressCounts(claim_uid=claim_uid, denied=agent.egress.denied, would_deny=would_deny)

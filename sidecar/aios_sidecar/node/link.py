"""The gateway's link: hands it every prepared claim's record, policy and listeners, and takes back what it kept while we were away."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from aios_api.egress import NOTHING
from aios_api.runtime import AgentRuntimeSpec
from aios_sidecar import handover
from aios_sidecar.contracts.agents import AgentRecord
from aios_sidecar.contracts.link import (
    HANDOVER_VERSION,
    ContextCounts,
    ContextDoor,
    EgressCounts,
    EraseContext,
    ErasedContext,
    FetchContext,
    ForgoContext,
    Fresh,
    Held,
    Hello,
    ListenerKind,
    MovedContext,
    OfferContext,
    ReclaimableContext,
    Serve,
    Serving,
    Stop,
    Synced,
    Update,
    WithdrawContext,
)
from aios_sidecar.contracts.packets import ProtocolError
from aios_sidecar.handover import Link, LinkClosedError, PeerRefusedError
from aios_sidecar.node.egress import EgressSeen
from aios_sidecar.node.heartbeat import Heartbeat
from aios_sidecar.node.live import Clock, LiveClaim, LiveClaims
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.reclaim import Reclaim
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.waiting import first_of

log = logging.getLogger(__name__)

Sent = dict[str, tuple[AgentRecord, str | None, dict[ListenerKind, socket.socket]]]
"""By claim: the record, the digest of the policy, and the listeners."""


class GatewayLink:
    """Listens for the gateway. Of several links the newest counts: a gateway that connects again has lost the old one."""

    def __init__(
        self,
        settings: NodeSettings,
        claims: LiveClaims,
        orders: Orders,
        heartbeat: Heartbeat,
        moves: Moves,
        reclaim: Reclaim,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._orders = orders
        self._moves = moves
        self._reclaim = reclaim
        self._clock = clock
        self._heartbeat = heartbeat
        self._over: set[str] = set()
        """Claims whose attempt is over and that the gateway was told to stop, on the link that there is."""
        self._listener: socket.socket | None = None
        self.handed_back = asyncio.Event()
        """Set once a gateway has said what it kept from before."""

    def open(self) -> None:
        """The gateway can connect from now on; it is answered while `run` runs."""
        path = self._settings.gateway_socket
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener = handover.listen(path, owner_uid=self._settings.gateway_uid)

    async def run(self) -> None:
        """Serves one gateway after the other, until cancelled."""
        if self._listener is None:
            raise RuntimeError("open the link before it runs")
        conversation: asyncio.Task[None] | None = None
        try:
            while True:
                try:
                    link = await handover.accept(self._listener, peer=self._settings.gateway_uid)
                except PeerRefusedError as error:
                    log.warning("refused on the gateway's socket: %s", error)
                    continue
                await _end(conversation)
                conversation = asyncio.create_task(self._converse(link), name="gateway")
        finally:
            await _end(conversation)
            self._listener.close()

    async def _converse(self, link: Link) -> None:
        try:
            held = await self._take_back(link)
            self._reclaim.forget()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._hear(link))
                both.create_task(self._tell(link, held))
        except* (LinkClosedError, ProtocolError) as errors:
            log.info("the gateway's link ended: %s", errors.exceptions[0])
        finally:
            link.close()
            for live in self._claims:
                self._claims.learn(live, replace(live.facts, serving=frozenset()))

    async def _take_back(self, link: Link) -> set[str]:
        """Ends when the gateway has named all it serves; those claims are returned, their listeners adopted where we lack them."""
        await link.send(Hello())
        held: set[str] = set()
        while True:
            received = await link.receive()
            match received.message:
                case Hello(contract=contract):
                    if contract != HANDOVER_VERSION:
                        raise ProtocolError(f"the gateway must speak contract {HANDOVER_VERSION}, not {contract}")
                case Held(claim_uid=uid):
                    held.add(uid)
                    self._claims.adopt(uid, received.listeners)
                    self._learn_serving(uid, received.listeners)
                case Synced():
                    self.handed_back.set()
                    log.info("the gateway is connected; it kept %d agents", len(held))
                    return held
                case other:
                    received.close()
                    raise ProtocolError(f"a {other.type} message before synced")

    async def _hear(self, link: Link) -> None:
        while True:
            received = await link.receive()
            received.close()
            match received.message:
                case Serving(claim_uid=uid) if uid in self._over:
                    pass  # said before it was stopped
                case Serving(claim_uid=uid, kinds=kinds, policy_digest=digest):
                    self._learn_serving(uid, kinds)
                    self._learn_egress(uid, partial(EgressSeen.confirm, digest=digest, now=self._clock()))
                case EgressCounts(claim_uid=uid) as counts:
                    self._learn_egress(uid, partial(EgressSeen.count, counts=counts))
                case ContextCounts(claim_uid=uid, facts=facts):
                    if (live := self._claims.get(uid)) is not None:
                        self._claims.tell_context(live, facts)
                case ContextDoor() as door:
                    self._moves.learn_door(door)
                    self._heartbeat.renew_soon()
                case MovedContext(uid=uid) as moved:
                    self._moves.learn(moved)
                    if self._orders.heard and uid not in self._moves.fetches():
                        await link.send(ForgoContext(uid=uid))
                case ReclaimableContext() as reclaimable:
                    self._reclaim.learn(reclaimable)
                case ErasedContext() as erased:
                    self._reclaim.erased(erased)
                case other:
                    raise ProtocolError(f"a {other.type} message after synced")

    def _learn_serving(self, claim_uid: str, kinds: Iterable[ListenerKind]) -> None:
        live = self._claims.get(claim_uid)
        if live is not None:
            self._claims.learn(live, replace(live.facts, serving=frozenset(kinds)))

    def _learn_egress(self, claim_uid: str, learn: Callable[[EgressSeen], EgressSeen]) -> None:
        live = self._claims.get(claim_uid)
        if live is not None:
            order = self._orders.get(live.state.runtime_uid)
            written = EgressSeen.written(order.status if order else {}, claim_uid)
            self._claims.tell_egress(live, learn(live.egress or written))

    def _order(self, live: LiveClaim) -> AgentRuntimeSpec | None:
        """The order that the claim was prepared for, as it is now. None, which allows nothing, when there is no such order."""
        order = self._orders.get(live.state.runtime_uid)
        return order.spec if order is not None and order.spec.attempt == live.state.attempt else None

    async def _tell(self, link: Link, held: set[str]) -> None:
        """Brings the gateway to what is prepared now, after every change: level-triggered, so nothing can be missed.

        What it is told of agents that it knows comes before it is told that all it knows is fresh. Those that it doesn't know come after
        that, at first: a gateway that has just started refuses nobody whose listeners it gets.
        """
        sent: Sent = {}
        over = self._over = set()
        await self._bring_up_to_date(link, sent, held, over, only=held)
        said = await self._freshen(link, held, over, 0.0)
        fetches: dict[str, FetchContext] = {}
        offers: dict[str, OfferContext] = {}
        wishes: dict[str, bool] = {}
        erasures: dict[str, int] = {}
        while True:
            changes = (self._claims.next_change(), self._orders.next_change(), self._heartbeat.next_change())
            moves = (self._moves.next_change(), self._moves.leaving.next_change(), self._reclaim.next_change())
            await self._tell_moves(link, fetches, offers)
            await self._tell_reclaims(link, wishes, erasures)
            await self._bring_up_to_date(link, sent, held, over)
            said = await self._freshen(link, held | sent.keys(), over, said)
            await first_of(*changes, *moves)

    async def _tell_moves(self, link: Link, fetches: dict[str, FetchContext], offers: dict[str, OfferContext]) -> None:
        """The gateway knows what is to come here, and what others may fetch. Both hold what it was told."""
        if self._orders.heard:
            wanted = self._moves.fetches()
            for uid in fetches.keys() - wanted.keys():
                del fetches[uid]
                await link.send(ForgoContext(uid=uid))
            for uid, fetch in wanted.items():
                if fetches.get(uid) != fetch:
                    fetches[uid] = fetch
                    await link.send(fetch)
        if self._moves.leaving.heard:
            given = self._moves.offers()
            for uid in offers.keys() - given.keys():
                del offers[uid]
                await link.send(WithdrawContext(uid=uid))
            for uid, offer in given.items():
                if offers.get(uid) != offer:
                    offers[uid] = offer
                    await link.send(offer)

    async def _tell_reclaims(self, link: Link, wishes: dict[str, bool], erasures: dict[str, int]) -> None:
        """The gateway knows which contexts are to be erased when their Agents are gone, and whose are."""
        for uid, wish in self._reclaim.wishes().items():
            if wishes.get(uid) != wish.erase:
                wishes[uid] = wish.erase
                await link.send(wish)
        gone = self._reclaim.gone()
        for uid in [uid for uid in wishes if uid in gone]:
            del wishes[uid]
        for uid, asked in gone.items():
            if erasures.get(uid) != asked:
                erasures[uid] = asked
                await link.send(EraseContext(uid=uid))

    async def _freshen(self, link: Link, known: set[str], over: set[str], said: float) -> float:
        """Says until when all that was sent is fresh, when that is later than what was `said` before.

        Attempts whose orders went away are stopped first, and are `over`: they may run elsewhere once their gateway has had no fresh word
        for long enough. Until then, some seconds, they may still say what they have to while they end.
        """
        until = self._heartbeat.fresh_until
        if until is None or until <= said:
            return said
        for live in self._claims:
            uid = live.state.claim_uid
            if uid in over or self._orders.stands(live.state.runtime_uid, live.state.attempt):
                continue
            over.add(uid)
            if uid in known:
                log.info("attempt %d of %s/%s is over: it is answered no more", live.state.attempt, live.state.namespace, live.state.agent)
                await link.send(Stop(claim_uid=uid))
                self._learn_serving(uid, ())
        await link.send(Fresh(until_seconds=until))
        return until

    async def _bring_up_to_date(self, link: Link, sent: Sent, held: set[str], over: set[str], only: set[str] | None = None) -> None:
        for uid in [uid for uid in held | sent.keys() if self._claims.get(uid) is None]:
            held.discard(uid)  # nothing may have been sent of it yet: it was released before orders were heard
            sent.pop(uid, None)
            await link.send(Stop(claim_uid=uid))
        for live in self._claims:
            if live.state.claim_uid in over or (only is not None and live.state.claim_uid not in only):
                continue
            if self._claims.get(live.state.claim_uid) is not live:
                continue  # released while another was being sent: its listeners are closed, and the next round says so
            if not self._orders.heard:
                continue  # the gateway goes on with what it has, until it is mute: another attempt may be in force by now
            uid, order, listeners = live.state.claim_uid, self._order(live), dict(live.listeners)
            record = live.record(self._settings.node_name, order.context if order is not None else None)
            policy = (order.egress or NOTHING) if order is not None else None
            before, now = sent.get(uid), (record, policy.digest if policy else None, listeners)
            if not listeners or before == now:
                continue
            sent[uid] = now
            if before is not None and before[2] == listeners:
                await link.send(Update(claim_uid=uid, record=record, policy=policy))
            else:
                await link.send(Serve(claim_uid=uid, record=record, policy=policy), listeners)


async def _end(conversation: asyncio.Task[None] | None) -> None:
    if conversation is not None:
        conversation.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await conversation

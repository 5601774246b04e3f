"""Contexts of Agents that are gone, where their spec asked for their erasure.

What the spec asks is told to the gateway, which keeps it beside the context. Whether an Agent is gone is asked of the API server, by name,
for each context that is to be erased and has no order here: a list that is old or empty says nothing, and who can't be asked is not gone.
So it makes no difference whether this node was there when the Agent was deleted.
"""

import asyncio
import logging
from dataclasses import dataclass

from pydantic import ValidationError

from aios_api.names import API_VERSION
from aios_api.runtime import AgentRuntimeSpec
from aios_kube.errors import ApiError, NotFound
from aios_kube.events import EventRecorder, Regarding
from aios_kube.protocol import ClusterClient
from aios_kube.resources import AGENTS
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.contracts.link import ErasedContext, ReclaimableContext, ReclaimContext
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.waiting import first_of

log = logging.getLogger(__name__)

ERASE = "Erase"


@dataclass
class _Known:
    """One context that is to be erased once its Agent is gone."""

    said: ReclaimableContext
    next_look: float = 0.0
    looks: int = 0
    asked: int = 0
    """How often the gateway was to erase it."""


class Reclaim:
    """Level-triggered: `run` finds out who is gone; the link tells the gateway `wishes` and `gone`, and brings back what it says."""

    def __init__(
        self,
        settings: NodeSettings,
        client: ClusterClient,
        orders: Orders,
        leaving: Mirror,
        claims: LiveClaims,
        events: EventRecorder,
        metrics: Metrics,
    ) -> None:
        """`leaving`: orders elsewhere whose context is still here."""
        self._settings = settings
        self._client = client
        self._orders = orders
        self._leaving = leaving
        self._claims = claims
        self._events = events
        self._metrics = metrics
        self._known: dict[str, _Known] = {}
        self._kept: dict[str, ReclaimContext] = {}
        """Of Agents without an order here, whose spec does not ask for the erasure any more."""
        self._changed = asyncio.Event()

    def next_change(self) -> asyncio.Event:
        """Set by the next change from now on of `gone`."""
        return self._changed

    # What the gateway is told.

    def wishes(self) -> dict[str, ReclaimContext]:
        """By the uid of the Agent: what is to be erased once it is gone, and what is marked and is not to be any more."""
        found = dict(self._kept)
        for order in self._orders.all():
            found[order.spec.agent_uid] = _wish(order.namespace, order.name, order.spec)
        for obj in self._leaving.all():
            try:
                spec = AgentRuntimeSpec.model_validate(obj.get("spec"))
            except ValidationError:
                continue  # said where it is offered
            found[spec.agent_uid] = _wish(obj["metadata"]["namespace"], obj["metadata"]["name"], spec)
        return {uid: wish for uid, wish in found.items() if wish.erase or uid in self._known or uid in self._kept}

    def gone(self) -> dict[str, int]:
        """Whose contexts are to be erased now, and how often that was found."""
        return {uid: known.asked for uid, known in self._known.items() if known.asked}

    # What it says.

    def learn(self, said: ReclaimableContext) -> None:
        """That context is there, and marked."""
        known = self._known.get(said.uid)
        if known is None or known.said != said:
            self._known[said.uid] = _Known(said)
            self._wake()

    def forget(self) -> None:
        """Another gateway says anew what is there."""
        self._known.clear()
        self._kept.clear()

    def erased(self, said: ErasedContext) -> None:
        """So the gateway says."""
        known = self._known.pop(said.uid, None)
        if known is None or not said.files:
            return
        of = known.said
        items = "items that could not be counted" if said.items is None else f"{said.items} items"
        note = f"its context on node {self._settings.node_name} was erased: {items}, {said.files} files"
        log.info("%s/%s: %s", of.namespace, of.name, note)
        self._metrics.erased_contexts.inc()
        self._events.record(Regarding(API_VERSION, "Agent", of.namespace, of.name, of.uid), "Normal", "ContextErased", "Erase", note)

    # Who is gone.

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            changes = (self._orders.next_change(), self._leaving.next_change(), self._claims.next_change(), self._changed)
            present = self._present()
            for uid, known in list(self._known.items()):
                if present is None or uid in present:
                    known.looks, known.next_look, known.asked = 0, 0.0, 0
                elif loop.time() >= known.next_look:
                    pause = self._settings.leftover_seconds * 2 ** min(known.looks, 16)
                    known.looks, known.next_look = known.looks + 1, loop.time() + min(pause, self._settings.reservation_seconds)
                    await self._look(uid, known)
            await first_of(*changes, seconds=self._settings.leftover_seconds)

    def _present(self) -> set[str] | None:
        """Who has an order or a claim here; None while that was not heard."""
        if not (self._orders.heard and self._leaving.heard):
            return None
        ordered = {order.spec.agent_uid for order in self._orders.all()}
        leaving = {str((obj.get("spec") or {}).get("agentUID")) for obj in self._leaving.all()}
        return ordered | leaving | {live.state.agent_uid for live in self._claims}

    async def _look(self, uid: str, known: _Known) -> None:
        """The API server is asked for the Agent. Who can't be asked is there."""
        of = known.said
        try:
            async with asyncio.timeout(self._settings.api_seconds):
                found = await self._client.get(AGENTS, of.name, of.namespace)
        except NotFound as error:
            gone = error.reason == "NotFound" and f'"{of.name}"' in error.message  # not: there is no such kind
        except (ApiError, TimeoutError):
            return
        else:
            gone = found["metadata"]["uid"] != uid
            if not gone and (found["spec"].get("context") or {}).get("reclaim") != ERASE:
                identity = AgentIdentity(namespace=of.namespace, name=of.name, uid=uid, attempt=1)
                self._kept[uid] = ReclaimContext(identity=identity, erase=False)
                self._known.pop(uid, None)
                self._wake()
        present = self._present()
        if gone and present is not None and uid not in present and self._known.get(uid) is known:
            known.asked += 1
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _wish(namespace: str, name: str, spec: AgentRuntimeSpec) -> ReclaimContext:
    identity = AgentIdentity(namespace=namespace, name=name, uid=spec.agent_uid, attempt=spec.attempt)
    return ReclaimContext(identity=identity, erase=spec.context is not None and spec.context.reclaim == ERASE)

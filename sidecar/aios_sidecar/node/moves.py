"""Contexts that come to this node or leave it, as orders say: what the gateway is told of them, and what it says.

A claim is prepared only once the API server knows that the context is here. From then on the next order has it from here, and nobody
writes it before: so nothing that is acknowledged is on a node where nobody looks for it.
"""

import asyncio
import logging
from typing import Any

from pydantic import ValidationError

from aios_api import names
from aios_api.runtime import AgentRuntimeSpec
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.contracts.link import ContextDoor, FetchContext, FetchStage, MovedContext, OfferContext
from aios_sidecar.node.claims import ClaimRef, NotYet
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.orders import Order, Orders
from aios_sidecar.node.settings import NodeSettings

log = logging.getLogger(__name__)


class Moves:
    """Level-triggered: what is to be fetched and offered follows from the orders as heard last."""

    def __init__(self, settings: NodeSettings, orders: Orders, leaving: Mirror) -> None:
        """`leaving`: the AgentRuntimes whose `spec.contextFrom.nodeName` is this node's."""
        self._node = settings.node_name
        self._orders = orders
        self.leaving = leaving
        self._said: dict[str, MovedContext] = {}
        self._awaited: dict[str, tuple[int, ClaimRef]] = {}
        self._door: ContextDoor | None = None
        self._changed = asyncio.Event()

    def next_change(self) -> asyncio.Event:
        """Set by the next change from now on of what is awaited or said."""
        return self._changed

    # What is to be.

    def fetches(self) -> dict[str, FetchContext]:
        """What is to come here, by the uid of the Agent."""
        return {order.spec.agent_uid: self._fetch(order) for order in self._orders.all() if order.spec.context_from is not None}

    def offers(self) -> dict[str, OfferContext]:
        """What others may fetch from here, by the uid of the Agent."""
        found = {}
        for obj in self.leaving.all():
            try:
                spec = AgentRuntimeSpec.model_validate(obj.get("spec"))
            except ValidationError as error:
                log.error("an order that fetches a context from here can't be read: %s", error.errors()[0]["msg"])
                continue
            origin, metadata = spec.context_from, obj["metadata"]
            if origin is None or origin.node_name != self._node or origin.start_empty or origin.receiver is None:
                continue
            identity = AgentIdentity(namespace=metadata["namespace"], name=metadata["name"], uid=spec.agent_uid, attempt=spec.attempt)
            found[spec.agent_uid] = OfferContext(identity=identity, certificate=origin.receiver)
        return found

    def _fetch(self, order: Order) -> FetchContext:
        spec, origin = order.spec, order.spec.context_from
        assert origin is not None, "asked only where one is ordered"
        awaited = self._awaited.get(order.uid, (0,))[0] == spec.attempt
        return FetchContext(
            identity=AgentIdentity(namespace=order.namespace, name=order.name, uid=spec.agent_uid, attempt=spec.attempt),
            node=origin.node_name,
            start_empty=bool(origin.start_empty),
            address=origin.address,
            certificate=origin.certificate,
            stage=FetchStage.RELEASE if self._known_here(order) else FetchStage.TAKE if awaited else FetchStage.COPY,
        )

    # What is.

    def learn(self, said: MovedContext) -> None:
        """So the gateway says."""
        self._said[said.uid] = said
        self._wake()

    def learn_door(self, door: ContextDoor) -> None:
        """Here the gateway gives contexts."""
        self._door = door

    def annotations(self) -> dict[str, str]:
        """Where contexts of this node are given, for its Lease."""
        door = self._door
        return {} if door is None else {names.ANNOTATION_DOOR: door.address, names.ANNOTATION_CERTIFICATE: door.certificate}

    def require(self, ref: ClaimRef, order: Order) -> None:
        """The context is here, and the API server knows it. Raises NotYet: from the first call on, nothing is left of attempts before, and
        the source is asked to hand over."""
        if order.spec.context_from is None or self._known_here(order):
            return
        if self._awaited.get(order.uid) != (order.spec.attempt, ref):
            self._awaited[order.uid] = order.spec.attempt, ref
            self._wake()
        raise NotYet(self.message(order))

    def awaited(self, order: Order) -> ClaimRef | None:
        """The claim that waits for the context of this order."""
        attempt, ref = self._awaited.get(order.uid, (0, None))
        return ref if attempt == order.spec.attempt and order.spec.context_from is not None and not self._known_here(order) else None

    def message(self, order: Order) -> str:
        """Why the claim waits, for a person."""
        origin, status = order.spec.context_from, self.status(order) or {}
        trouble = f", and nothing comes now: {status['trouble']}" if status.get("trouble") else ""
        return f"the context comes from node {origin.node_name if origin else ''}{trouble}"

    def status(self, order: Order) -> dict[str, Any] | None:
        """As the status of the order has it. What has come stays so."""
        origin = order.spec.context_from
        if origin is None:
            return None
        if self._known_here(order):
            return dict(order.status["move"])
        said = self._said.get(order.spec.agent_uid)
        if said is None or said.attempt != order.spec.attempt:
            waiting = "the gateway of the node has not said anything of it yet"
            return {"fromNode": origin.node_name, "here": False, "receivedBytes": 0, "totalBytes": 0, "trouble": waiting}
        told = {"fromNode": origin.node_name, "here": said.here, "receivedBytes": said.received_bytes, "totalBytes": said.total_bytes}
        return told | ({"trouble": said.trouble} if said.trouble else {})

    def forget(self) -> None:
        """What is of orders that are gone."""
        present = {order.uid for order in self._orders.all()}
        agents = {order.spec.agent_uid for order in self._orders.all()}
        self._awaited = {uid: what for uid, what in self._awaited.items() if uid in present}
        self._said = {uid: said for uid, said in self._said.items() if uid in agents}

    def _known_here(self, order: Order) -> bool:
        status = order.status
        of_this = (status.get("attempt"), status.get("nodeName")) == (order.spec.attempt, self._node)
        return of_this and bool((status.get("move") or {}).get("here"))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

"""The orders for this node: its `AgentRuntime` objects as last heard from the API server."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from aios_api.runtime import AgentRuntimeSpec

log = logging.getLogger(__name__)

Object = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """One order, and what its status said when it was heard."""

    namespace: str
    name: str
    uid: str
    spec: AgentRuntimeSpec
    status: Object


class Orders:
    """A sink for the reflector that selects `spec.nodeName`. Whoever waits for an order is woken at each change."""

    def __init__(self) -> None:
        self._by_uid: dict[str, Order] = {}
        self._changed = asyncio.Event()
        self.heard = False
        """Whether the list was heard since this program started: only then does an absent order mean that there is none."""

    def replace(self, objects: list[Object]) -> None:
        self._by_uid = {order.uid: order for order in map(_order, objects) if order is not None}
        self.heard = True
        self._wake()

    def upsert(self, obj: Object) -> None:
        order = _order(obj)
        if order is None:
            self._by_uid.pop(obj["metadata"]["uid"], None)
        else:
            self._by_uid[order.uid] = order
        self._wake()

    def remove(self, obj: Object) -> None:
        self._by_uid.pop(obj["metadata"]["uid"], None)
        self._wake()

    def get(self, uid: str) -> Order | None:
        return self._by_uid.get(uid)

    def all(self) -> list[Order]:
        return list(self._by_uid.values())

    def next_change(self) -> asyncio.Event:
        """Set by the next change from now on. Take it before looking, wait for it afterwards: then nothing is missed."""
        return self._changed

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _order(obj: Object) -> Order | None:
    """The order in the object; None, and a line in the log, for one that this program can't read: it prepares nothing for it."""
    metadata = obj["metadata"]
    try:
        spec = AgentRuntimeSpec.model_validate(obj.get("spec"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, ("spec", *first["loc"])))
        log.error("AgentRuntime %s/%s can't be read: %s: %s", metadata["namespace"], metadata["name"], where, first["msg"])
        return None
    return Order(metadata["namespace"], metadata["name"], metadata["uid"], spec, obj.get("status") or {})

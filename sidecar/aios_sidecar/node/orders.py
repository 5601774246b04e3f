"""The orders for this node: its `AgentRuntime` objects as last heard from the API server."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from aios_api.runtime import AgentRuntimeSpec
from aios_sidecar.node.mirror import Mirror, Object

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """One order, and what its status said when it was heard."""

    namespace: str
    name: str
    uid: str
    spec: AgentRuntimeSpec
    status: dict[str, Any]


class Orders:
    """Orders by uid, out of a mirror of the AgentRuntimes whose `spec.nodeName` is this node's."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._read: dict[str, tuple[str, Order | None]] = {}

    @property
    def heard(self) -> bool:
        return self._mirror.heard

    def get(self, uid: str) -> Order | None:
        found = self._mirror.get(uid)
        return None if found is None else self._order(found)

    def stands(self, uid: str, attempt: int) -> bool:
        """Whether the order `uid` is still for this attempt, on this node. Also told of one that this program can't read otherwise."""
        found = self._mirror.get(uid)
        return found is not None and (found.get("spec") or {}).get("attempt") == attempt

    def all(self) -> list[Order]:
        found = self._mirror.all()
        for uid in self._read.keys() - {obj["metadata"]["uid"] for obj in found}:
            del self._read[uid]
        return [order for order in map(self._order, found) if order is not None]

    def next_change(self) -> asyncio.Event:
        """As `Mirror.next_change`."""
        return self._mirror.next_change()

    def _order(self, obj: Object) -> Order | None:
        """Each version of an object is read once: a policy makes it long, and every change of one order looks at all of them."""
        uid, version = obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]
        known = self._read.get(uid)
        if known is None or known[0] != version:
            known = self._read[uid] = version, _order(obj)
        return known[1]


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

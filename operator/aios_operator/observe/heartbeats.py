"""What is heard of nodes: the Leases that node agents renew, listed again and again.

They are read and not watched. A watch that has died looks like nodes that are silent, whereas a read that fails is no read; and what
follows from silence is decided on a read that began after the last order was known. Time is that of this process alone: how long a Lease
has not changed while we looked. The clocks of nodes and of other operators never matter.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from aios_api import names
from aios_kube import ClusterClient, Selection, resources
from aios_kube.errors import ApiError
from aios_operator.decide.views import Door, Key, NodeSight, NodeView

log = logging.getLogger(__name__)

READS_AT_REST = 4
"""In the mute time: as often as a node agent renews its Lease."""
READS_IN_TROUBLE = 12
"""While a node with Agents is in trouble or silent."""
GONE_SECONDS = 3600.0
"""The Lease of a node that was deleted, and where no Agent is or was, is kept for so long. It has to go: nodes that are replaced every day
under new names would leave thousands in a year."""


@dataclass
class Heard:
    """What was read, and since when it has been so. Seconds are of one clock that only goes forward."""

    mute_seconds: float
    lost_seconds: float
    _read: float | None = None
    """When the last read that succeeded began."""
    _renewals: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By node: the version of its Lease (empty: it has none any more), and when it was first seen to be so."""
    _troubled: dict[str, float] = field(default_factory=dict)
    _orders: dict[Key, tuple[int, float]] = field(default_factory=dict)
    """By Agent: the attempt of its order, and when the first read began that knew of it."""
    _doors: Mapping[str, Door] = field(default_factory=dict)

    def take(
        self,
        began: float,
        ended: float,
        leases: Mapping[str, str],
        orders: Mapping[Key, int],
        troubled: Collection[str],
        doors: Mapping[str, Door] | None = None,
    ) -> None:
        """A read that lasted from `began` to `ended` showed these Leases (versions by node). `orders` were known when it began, `troubled`
        are the nodes that the API says something against."""
        known = self._renewals
        self._renewals = {
            node: known[node] if known.get(node, ("", 0.0))[0] == version else (version, ended) for node, version in leases.items()
        }
        for node in set(troubled) - set(leases):
            before = known.get(node)
            if before is not None:
                self._renewals[node] = before if not before[0] else ("", ended)
        self._troubled = {node: self._troubled.get(node, ended) for node in troubled}
        self._orders = {
            key: self._orders[key] if self._orders.get(key, (None,))[0] == attempt else (attempt, began) for key, attempt in orders.items()
        }
        self._doors = doors or {}
        self._read = began

    def sight(self, name: str, view: NodeView | None) -> NodeSight | None:
        """What is known of one node; None before anything was read."""
        if self._read is None:
            return None
        version, since = self._renewals.get(name, ("", 0.0))
        if not version:  # without a Lease nobody is silent: what counts is since when something is against the node
            since = max(since, self._troubled.get(name, self._read))
        silent = timedelta(seconds=max(0.0, self._read - since))
        mute, lost = timedelta(seconds=self.mute_seconds), timedelta(seconds=self.lost_seconds)
        return NodeSight(name, view, bool(version), silent, mute, lost, self._doors.get(name))

    def version(self, node: str) -> str:
        """Of its Lease; empty when it has none."""
        return self._renewals.get(node, ("", 0.0))[0]

    def stood(self, key: Key, attempt: int) -> timedelta | None:
        """For how long the Agent's order of that attempt was known at the last read; None when no read began since."""
        known, since = self._orders.get(key, (None, 0.0))
        return timedelta(seconds=self._read - since) if self._read is not None and known == attempt else None

    def silent(self) -> set[str]:
        """Nodes whose Lease has not changed for so long that nobody comes back to it."""
        read, longest = self._read or 0.0, max(GONE_SECONDS, 2 * self.lost_seconds)
        return {node for node, (version, since) in self._renewals.items() if version and read - since >= longest}

    def noteworthy(self) -> set[str]:
        """Nodes in trouble, and those that were silent for half the mute time."""
        read = self._read or 0.0
        return set(self._troubled) | {node for node, (_, since) in self._renewals.items() if (read - since) * 2 >= self.mute_seconds}


class Listener(Protocol):
    """Where what is read goes."""

    def attempts(self) -> dict[Key, int]:
        """The attempt of every order that stands."""
        ...

    def keys_by_node(self) -> Mapping[str, list[Key]]:
        """The Agents that are, were, or are to be on each node."""
        ...

    def hear(
        self, began: float, ended: float, leases: Mapping[str, str], orders: Mapping[Key, int], doors: Mapping[str, Door] | None = None
    ) -> None:
        """A read took place: as in `Heard.take`."""
        ...


@dataclass
class Heartbeats:
    """`listen` once, then `run` in a task of its own."""

    client: ClusterClient
    store: Listener
    namespace: str
    heard: Heard
    clock_seconds: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    _deaf: bool = False

    async def read(self) -> None:
        """The store knows what is heard now. Raises `ApiError` when it can't be read."""
        orders = self.store.attempts()
        began = self.clock_seconds()
        labels = f"{names.LABEL_COMPONENT}={names.COMPONENT_NODE_AGENT}"
        page = await self.client.list(resources.LEASES, Selection(self.namespace, labels), metadata_only=True)
        prefix = names.node_lease_name("")
        found = {
            metadata["name"].removeprefix(prefix): metadata
            for metadata in (raw["metadata"] for raw in page.items)
            if metadata["name"].startswith(prefix)
        }
        leases = {node: metadata["resourceVersion"] for node, metadata in found.items()}
        doors = {node: door for node, metadata in found.items() if (door := _door(metadata)) is not None}
        self.store.hear(began, self.clock_seconds(), leases, orders, doors)

    async def listen(self) -> None:
        """Reads. What can't be read changes nothing."""
        try:
            await self.read()
        except ApiError as error:
            if not self._deaf:
                log.warning("the Leases of node agents can't be read, so that no node is given up meanwhile: %s", error)
            self._deaf = True
        else:
            self._deaf = False

    async def run(self) -> None:
        """Listens for ever, more often while a node with Agents may have to be given up."""
        while True:
            await asyncio.sleep(self.heard.mute_seconds / self.reads() * (0.9 + self.chance() / 5))
            await self.listen()

    def reads(self) -> int:
        """How many are due in the mute time. A Lease outlives its Node, so that many may be silent for ever without any Agent there."""
        noteworthy = self.heard.noteworthy()
        return READS_IN_TROUBLE if noteworthy and not noteworthy.isdisjoint(self.store.keys_by_node()) else READS_AT_REST


def _door(metadata: Mapping[str, Any]) -> Door | None:
    said = metadata.get("annotations") or {}
    address, certificate = said.get(names.ANNOTATION_DOOR), said.get(names.ANNOTATION_CERTIFICATE)
    return Door(address, certificate) if address and certificate else None

"""Keeps the node's ResourceSlice as it must be: whatever deletes or changes it, and whatever GPUs come and go."""

import asyncio
import logging
import random

from aios_api.names import DRIVER, FIELD_MANAGER_NODE
from aios_kube.backoff import Backoff
from aios_kube.errors import ApiError, NotFound
from aios_kube.events import EventRecorder, Regarding
from aios_kube.protocol import ClusterClient
from aios_kube.resources import RESOURCE_SLICES
from aios_sidecar.contracts.gpus import Inventory, InventoryReport
from aios_sidecar.node import slices
from aios_sidecar.node.health_keeper import HealthKeeper
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror, Object
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.waiting import first_of

log = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0
"""After a change of a slice that exists: should somebody change it back each time, it is no more than a write a second."""


class Publisher:
    """Level-triggered: the kubelet deletes a driver's slices at its start, so a slice that is missing says nothing about the driver."""

    def __init__(
        self,
        settings: NodeSettings,
        client: ClusterClient,
        inventory: Inventory,
        health: HealthKeeper,
        nodes: Mirror,
        seen: Mirror,
        events: EventRecorder,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._client = client
        self._inventory = inventory
        self._health = health
        self._nodes = nodes
        self._seen = seen
        self._events = events
        self._metrics = metrics
        self._generation = 0
        self._said: InventoryReport | None = None
        self._refused: str | None = None

    async def run(self) -> None:
        """Until cancelled; the slice stays."""
        failures, backoff = 0, Backoff(first_seconds=0.5)
        while True:
            changes = (self._nodes.next_change(), self._seen.next_change(), self._health.next_change())
            wait = self._settings.inventory_seconds
            try:
                await self._bring_about()
                failures = 0
            except ApiError as error:
                failures += 1
                wait = backoff.wait(failures, random.random, error.retry_after_seconds)
                log.warning("the ResourceSlice of node %s is not written yet: %s", self._settings.node_name, error)
                await asyncio.sleep(wait)
                continue
            await first_of(*changes, seconds=wait)

    async def _bring_about(self) -> None:
        node = next((item for item in self._nodes.all() if item["metadata"]["name"] == self._settings.node_name), None)
        if node is None or not self._seen.heard:
            return
        report = await self._inventory.read()
        refused = slices.refusal(node, self._seen.all())
        self._tell(node, report, refused)
        offered = slices.devices(self._health.look(report), self._settings.slots, refused, self._health.published())
        self._metrics.gpus.set(len(offered) - 1)
        ours = [item for item in self._seen.all() if item["spec"].get("driver") == DRIVER]
        name = slices.slice_name(self._settings.node_name)
        current = next((item for item in ours if item["metadata"]["name"] == name), None)
        await self._write(node, current, offered)
        for other in ours:
            if other["metadata"]["name"] != name:
                await self._delete(other)

    async def _write(self, node: Object, current: Object | None, offered: list[Object]) -> None:
        if current is not None:
            self._generation = max(self._generation, current["spec"]["pool"]["generation"])
        desired = slices.resource_slice(node, offered, max(self._generation, 1))
        if current is not None and _says(current, desired):
            return
        if current is not None:
            desired["spec"]["pool"]["generation"] = self._generation + 1
            await asyncio.sleep(SETTLE_SECONDS)
        written = await self._client.apply(RESOURCE_SLICES, desired, field_manager=FIELD_MANAGER_NODE, force=True)
        self._generation = written["spec"]["pool"]["generation"]
        self._seen.upsert(written)
        self._metrics.publications.inc()
        log.info("published ResourceSlice %s, generation %d: %d devices", written["metadata"]["name"], self._generation, len(offered))

    async def _delete(self, other: Object) -> None:
        log.info("removing ResourceSlice %s, which is not the one of this node agent", other["metadata"]["name"])
        try:
            await self._client.delete(RESOURCE_SLICES, other["metadata"]["name"], uid=other["metadata"]["uid"])
        except NotFound:
            self._seen.remove(other)

    def _tell(self, node: Object, report: InventoryReport, refused: str | None) -> None:
        """Each change of what there is, once."""
        if report != self._said:
            self._said = report
            if report.absent is not None:
                log.info("no GPUs: %s", report.absent)
            for gpu in report.gpus:
                log.info("GPU %d is %s, %s, %d MiB%s", gpu.index, gpu.uuid, gpu.model, gpu.memory_mib, " (fake)" if gpu.fake else "")
            for withheld in report.withheld:
                log.warning("GPU %d is not offered: %s", withheld.index, withheld.reason)
        if refused != self._refused:
            self._refused = refused
            if refused is not None:
                note = f"node {self._settings.node_name} offers no GPU to agents: {refused}; a GPU must have one owner"
                log.warning("%s", note)
                regarding = Regarding("v1", "Node", "", self._settings.node_name, node["metadata"]["uid"])
                self._events.record(regarding, "Warning", "GPUsRefused", "Publish", note)


def _says(current: Object, desired: Object) -> bool:
    """Whether the slice that exists is the desired one, its owner included."""
    owners = [(owner["kind"], owner["name"], owner["uid"]) for owner in current["metadata"].get("ownerReferences") or []]
    wanted = [(owner["kind"], owner["name"], owner["uid"]) for owner in desired["metadata"]["ownerReferences"]]
    return owners == wanted and all(current["spec"].get(key) == value for key, value in desired["spec"].items())

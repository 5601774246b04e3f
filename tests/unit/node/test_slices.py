"""What a node offers, and that it keeps being published."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios_kube.errors import Unreachable
from aios_kube.events import EventRecorder
from aios_kube.fake import FakeCluster
from aios_kube.protocol import Selection
from aios_kube.reflector import Reflector
from aios_kube.resources import EVENTS, NODES, RESOURCE_SLICES
from aios_sidecar.contracts.gpus import GPU, InventoryReport
from aios_sidecar.node import publisher, slices
from aios_sidecar.node.health_keeper import HealthKeeper
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.publisher import Publisher
from aios_sidecar.node.settings import NodeSettings
from unit.node.support import GPU_A, NOW

NAME = "node-a-gpu.aios.dev"
GPU_B = GPU(uuid="GPU-bbbbbbbb-0000-4000-8000-000000000002", model="H100", index=1, memory_mib=81559, fake=True)


class Inventory:
    def __init__(self, *gpus: GPU) -> None:
        self.report = InventoryReport(gpus=gpus)

    async def read(self) -> InventoryReport:
        return self.report

    async def close(self) -> None:
        return


def test_a_gpu_is_a_device_of_which_many_hold_a_part() -> None:
    assert slices.gpu_device(GPU_B) == {
        "name": "gpu-bbbbbbbb-0000-4000-8000-000000000002",
        "allowMultipleAllocations": True,
        "attributes": {
            "kind": {"string": "gpu"},
            "uuid": {"string": "GPU-bbbbbbbb-0000-4000-8000-000000000002"},
            "model": {"string": "H100"},
            "index": {"int": 1},
            "fake": {"bool": True},
            "health": {"string": "Unmonitored"},
        },
        "capacity": {
            "memory": {
                "value": "81559Mi",
                "requestPolicy": {"default": "1Mi", "validRange": {"min": "1Mi", "step": "1Mi", "max": "81559Mi"}},
            }
        },
    }
    assert slices.gpu_device(GPU_A)["capacity"]["memory"]["value"] == "80Gi"


def test_the_runtime_device_has_slots_and_the_contract() -> None:
    device = slices.runtime_device(110, None)
    assert device["attributes"] == {"kind": {"string": "runtime"}, "contract": {"int": 1}}
    assert device["capacity"] == {"slots": {"value": "110", "requestPolicy": {"default": "1", "validValues": ["1"]}}}


def test_gpus_that_another_plugin_serves_are_not_offered_and_the_node_says_why() -> None:
    offered = slices.devices((GPU_A,), 110, slices.REFUSED_BY_ALLOCATABLE)
    assert [device["name"] for device in offered] == ["runtime"]
    assert offered[0]["attributes"]["gpusRefused"] == {"string": "another device plugin serves nvidia.com/gpu"}


@pytest.mark.parametrize(
    ("allocatable", "other", "reason"),
    [
        ({}, [], None),
        ({"nvidia.com/gpu": "0"}, [], None),
        ({"nvidia.com/gpu": "8"}, [], slices.REFUSED_BY_ALLOCATABLE),
        ({}, [{"spec": {"driver": "gpu.nvidia.com", "devices": [{"name": "gpu-0"}]}}], slices.REFUSED_BY_SLICES),
        ({}, [{"spec": {"driver": "gpu.nvidia.com"}}], None),
    ],
)
def test_who_serves_the_gpus(allocatable: dict[str, str], other: list[Any], reason: str | None) -> None:
    assert slices.refusal({"status": {"allocatable": allocatable}}, other) == reason


async def test_a_slice_that_is_deleted_or_changed_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = a_cluster()
    async with publishing(cluster, Inventory(GPU_A), monkeypatch):
        first = await published(cluster, 1)
        assert first["metadata"]["ownerReferences"][0]["uid"] == cluster.peek(NODES, "node-a")["metadata"]["uid"]  # type: ignore[index]
        cluster.remove(RESOURCE_SLICES, NAME)
        again = await published(cluster, 1)
        assert again["spec"] == first["spec"]
        cluster.alter(RESOURCE_SLICES, NAME, {"spec": {"devices": []}})
        restored = await published(cluster, 2)
        assert restored["spec"]["devices"] == first["spec"]["devices"]


async def test_gpus_that_come_and_go_change_the_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, inventory = a_cluster(), Inventory(GPU_A)
    async with publishing(cluster, inventory, monkeypatch):
        await published(cluster, 1)
        inventory.report = InventoryReport(gpus=(GPU_A, GPU_B))
        assert len((await published(cluster, 2))["spec"]["devices"]) == 3
        inventory.report = InventoryReport(absent="the driver went away")
        assert [device["name"] for device in (await published(cluster, 3))["spec"]["devices"]] == ["runtime"]


async def test_another_plugin_on_the_node_takes_the_gpus_away_and_an_event_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = a_cluster()
    async with publishing(cluster, Inventory(GPU_A), monkeypatch) as events:
        await published(cluster, 1)
        cluster.alter(NODES, "node-a", {"status": {"allocatable": {"nvidia.com/gpu": "1"}}})
        assert len((await published(cluster, 2))["spec"]["devices"]) == 1
        await events.flush()
        assert [event["reason"] for event in cluster.all(EVENTS)] == ["GPUsRefused"]
        cluster.alter(NODES, "node-a", {"status": {"allocatable": {"nvidia.com/gpu": "0"}}})
        assert len((await published(cluster, 3))["spec"]["devices"]) == 2


async def test_at_rest_nothing_is_written_and_a_new_program_finds_it_right(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = a_cluster()
    async with publishing(cluster, Inventory(GPU_A), monkeypatch):
        await published(cluster, 1)
        await asyncio.sleep(0.1)
    async with publishing(cluster, Inventory(GPU_A), monkeypatch):
        await asyncio.sleep(0.1)
    assert len(cluster.writes()) == 1


async def test_an_api_server_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = a_cluster()
    refusals = iter(range(1))
    cluster.refuse.append(lambda call: Unreachable("away") if call.writes and next(refusals, None) is not None else None)
    async with publishing(cluster, Inventory(GPU_A), monkeypatch):
        await published(cluster, 1)


async def test_slices_of_ours_under_another_name_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = a_cluster()
    pool = {"name": "node-a", "generation": 7, "resourceSliceCount": 1}
    for name, driver in (("old-name", "gpu.aios.dev"), ("foreign", "net.example.com")):
        cluster.put(RESOURCE_SLICES, {"metadata": {"name": name}, "spec": {"driver": driver, "nodeName": "node-a", "pool": pool}})
    async with publishing(cluster, Inventory(GPU_A), monkeypatch):
        await published(cluster, 1)
        async with asyncio.timeout(60):
            while cluster.peek(RESOURCE_SLICES, "old-name") is not None:
                await asyncio.sleep(0.005)
        assert cluster.peek(RESOURCE_SLICES, "foreign") is not None


def a_cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.put(NODES, {"metadata": {"name": "node-a"}, "status": {"allocatable": {}}})
    return cluster


@asynccontextmanager
async def publishing(cluster: FakeCluster, inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventRecorder]:
    monkeypatch.setattr(publisher, "SETTLE_SECONDS", 0.0)
    state_dir = tempfile.TemporaryDirectory()
    settings = NodeSettings("node-a", state_dir=Path(state_dir.name), inventory_seconds=0.01)
    nodes, seen, events = Mirror(), Mirror(), EventRecorder(cluster, "c", "i", lambda: NOW)
    metrics = Metrics(lambda: 0.0)
    health = HealthKeeper(settings, LiveClaims(lambda: NOW), nodes, events, metrics, lambda: NOW, lambda: "boot")
    health.open()
    parts = (
        Reflector(cluster, NODES, nodes, Selection(fields="metadata.name=node-a")),
        Reflector(cluster, RESOURCE_SLICES, seen, Selection(fields="spec.nodeName=node-a")),
        Publisher(settings, cluster, inventory, health, nodes, seen, events, metrics),
    )
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield events
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        state_dir.cleanup()


async def published(cluster: FakeCluster, generation: int) -> dict[str, Any]:
    """The slice, once it has this generation."""
    async with asyncio.timeout(60):
        while True:
            found = cluster.peek(RESOURCE_SLICES, NAME)
            if found is not None and found["spec"]["pool"]["generation"] == generation:
                return found
            await asyncio.sleep(0.005)

"""Errors of a GPU, from the driver to the ResourceSlice and to people: library, worker and node agent are real, the GPU is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from aios_kube.fake import FakeCluster
from aios_kube.resources import EVENTS, RESOURCE_SLICES
from aios_sidecar.contracts.gpus import InventoryReport, WithheldGPU
from aios_sidecar.node._proto import registration_pb2, registration_pb2_grpc
from node.played import Played
from node.support import (
    GPU_A,
    POD_UID,
    FixedInventory,
    Pod,
    a_claim,
    a_cluster,
    a_runtime,
    a_supervisor,
    ask,
    eventually,
    prepare,
    rewrite,
    running,
    settings_in,
)
from node.test_watching import NEIGHBOUR, QUICK, metric

SETTLE = "aios_sidecar.node.publisher.SETTLE_SECONDS"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SETTLE, 0.0)


def watching(settings: Any, cluster: FakeCluster, inventory: FixedInventory | None = None) -> Any:
    """A node agent with a worker for GPU_A."""
    inventory = inventory or FixedInventory(GPU_A)
    return running(settings, cluster, inventory=inventory, workers=a_supervisor(QUICK, inventory))


def device(cluster: FakeCluster) -> dict[str, Any]:
    """GPU_A as it is published."""
    for each in cluster.all(RESOURCE_SLICES):
        for found in each["spec"]["devices"]:
            if found["attributes"].get("uuid", {}).get("string") == GPU_A.uuid:
                return dict(found)
    return {}


def state(cluster: FakeCluster) -> str | None:
    return device(cluster).get("attributes", {}).get("health", {}).get("string")


def taints(cluster: FakeCluster) -> list[tuple[str, str, str]]:
    return [(taint["key"], taint["value"], taint["effect"]) for taint in device(cluster).get("taints", [])]


async def registered(settings: Any) -> None:
    """As the kubelet says it, without which no slice is published."""
    async with grpc.aio.insecure_channel(f"unix:{settings.registration_socket}") as channel:
        status = registration_pb2.RegistrationStatus(plugin_registered=True)
        await registration_pb2_grpc.RegistrationStub(channel).NotifyRegistrationStatus(status)


XID79 = ("gpu.aios.dev/unhealthy", "Xid79", "NoExecute")


async def test_a_device_fault_taints_the_gpu_until_the_driver_is_loaded_anew(directory: Path, hook: Path, driver: Path) -> None:
    settings, cluster, whole = settings_in(directory, hook), a_cluster(), driver.read_text()
    settings.driver_module.mkdir()
    async with watching(settings, cluster) as agent:
        await registered(settings)
        await eventually(lambda: state(cluster) == "Healthy")
        assert taints(cluster) == []
        rewrite(driver, whole + "event gpu=0 xid=79 at=1\n")
        await eventually(lambda: taints(cluster) == [XID79])
        assert state(cluster) == "Faulty"
        await eventually(lambda: metric(agent, "aios_gpu_healthy") == 0)
        await eventually(lambda: any(each["reason"] == "GPUUnhealthy" for each in cluster.all(EVENTS)))
    version = cluster.all(RESOURCE_SLICES)[0]["metadata"]["resourceVersion"]
    async with watching(settings, cluster) as agent:
        await registered(settings)
        await eventually(lambda: metric(agent, "aios_gpu_monitored") == 1)
        assert cluster.all(RESOURCE_SLICES)[0]["metadata"]["resourceVersion"] == version, "a restart forgets nothing and writes nothing"
        settings.driver_module.rename(directory / "old")
        settings.driver_module.mkdir()
        await eventually(lambda: taints(cluster) == [])


async def test_what_the_driver_asks_for_is_published_and_over_when_it_asks_no_more(directory: Path, hook: Path, driver: Path) -> None:
    settings, cluster, whole = settings_in(directory, hook), a_cluster(), driver.read_text()
    async with watching(settings, cluster):
        await registered(settings)
        await eventually(lambda: state(cluster) == "Healthy")
        asking = whole.replace("reserved=1Gi", "reserved=1Gi recovery=1")
        rewrite(driver, asking + "event gpu=0 xid=95 at=1\n")
        await eventually(lambda: [value for _, value, _ in taints(cluster)] in (["Xid95"], ["ResetRequired"]))
        rewrite(driver, asking.replace("recovery=1", "recovery=0"))
        await eventually(lambda: taints(cluster) == [])
        rewrite(driver, whole.replace("reserved=1Gi", "reserved=1Gi failed=1"))
        await eventually(lambda: [value for _, value, _ in taints(cluster)] == ["RowRemappingFailed"])


async def test_a_gpu_whose_errors_can_not_be_heard_says_so(directory: Path, hook: Path, driver: Path) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    rewrite(driver, driver.read_text().replace("reserved=1Gi", "reserved=1Gi events=0"))
    async with watching(settings, cluster) as agent:
        await registered(settings)
        await eventually(lambda: metric(agent, "aios_gpu_errors_heard") == 0)
        await eventually(lambda: metric(agent, "aios_gpu_monitored") == 1)
        await eventually(lambda: (state(cluster), taints(cluster)) == ("Unmonitored", []))


async def test_a_lost_gpu_is_published_as_missing_while_an_agent_holds_it_and_heals_when_it_is_back(
    directory: Path, hook: Path, driver: Path
) -> None:
    settings, cluster, inventory = settings_in(directory, hook), a_cluster(), FixedInventory(GPU_A)
    whole = driver.read_text()
    async with watching(settings, cluster, inventory):
        await registered(settings)
        await eventually(lambda: state(cluster) == "Healthy")
        assert not (await prepare(settings)).error
        rewrite(driver, whole.replace("reserved=1Gi", "reserved=1Gi error=15"))
        inventory.report = InventoryReport(withheld=(WithheldGPU(0, "the driver gives no answer for it: GPU is lost"),))
        await eventually(lambda: taints(cluster) == [("gpu.aios.dev/unhealthy", "Missing", "NoSchedule")])
        rewrite(driver, whole)
        inventory.report = InventoryReport(gpus=(GPU_A,))
        await eventually(lambda: (state(cluster), taints(cluster)) == ("Healthy", []))


async def test_a_programs_error_is_told_to_its_agent_and_the_gpu_goes_on(
    directory: Path, hook: Path, pod: Pod, driver: Path, play: Callable[[str], Played]
) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster(claim=a_claim(memory="1Gi"), runtime=a_runtime(memory="1Gi"))
    mine = play(POD_UID)
    async with watching(settings, cluster) as agent:
        await registered(settings)
        assert not (await prepare(settings)).error
        assert (await ask(settings, pod.oci_state())).code == 0
        mine.use(300)
        await eventually(lambda: metric(agent, "aios_gpu_used_bytes") == 300 << 20)
        rewrite(driver, driver.read_text() + "event gpu=0 xid=31 at=1\n")
        await eventually(lambda: cluster.all(EVENTS))
        (event,) = cluster.all(EVENTS)
        assert (event["regarding"]["kind"], event["reason"]) == ("Agent", "GPUProgramFault")
        assert "Xid 31" in event["note"]
        assert "it was this Agent's" in event["note"]
        play(NEIGHBOUR).use(50)
        await eventually(lambda: metric(agent, "aios_gpu_unattributed_bytes") == 50 << 20)
        rewrite(driver, driver.read_text() + "event gpu=0 xid=13 at=2\n")
        await eventually(lambda: len(cluster.all(EVENTS)) == 2)
        assert any("the driver does not say whose" in each["note"] for each in cluster.all(EVENTS))
        assert mine.alive
        assert taints(cluster) == []

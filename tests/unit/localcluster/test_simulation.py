"""Simulated nodes: what exists of them, and which facts are written for orders there."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from aios_api import names
from aios_kube import resources
from aios_kube.fake import FakeCluster
from aios_localcluster import LocalCluster, kubeaios, simulation
from aios_localcluster.settings import API_ONLY, ClusterSettings
from aios_localcluster.simulation import Simulation


@contextlib.asynccontextmanager
async def running(cluster: FakeCluster) -> Any:
    simulated = Simulation(cluster, 2, 3)
    await simulated.prepare()
    task = asyncio.create_task(simulated.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def bound(cluster: FakeCluster, name: str, node: str, allocated: bool = True) -> None:
    labels = {names.LABEL_AGENT: name, names.LABEL_ATTEMPT: "1"}
    metadata = {"namespace": "ns", "name": f"{name}-1", "labels": labels}
    spec = {"attempt": 1, "nodeName": node, "claimName": f"{name}-1"}
    cluster.put(resources.AGENT_RUNTIMES, {"metadata": {"namespace": "ns", "name": name}, "spec": spec})
    cluster.put(
        resources.RESOURCE_CLAIMS, {"metadata": metadata, "spec": {}, "status": {"allocation": {"devices": {}}} if allocated else {}}
    )
    cluster.put(resources.PODS, {"metadata": metadata, "spec": {"nodeName": node}})


async def test_nodes_and_slices_are_made_once_with_gpus_of_their_own():
    cluster = FakeCluster()
    for _ in range(2):
        await Simulation(cluster, 2, 3).prepare()
    assert [each["metadata"]["name"] for each in cluster.all(resources.NODES)] == ["kwok-0", "kwok-1"]
    made = cluster.all(resources.RESOURCE_SLICES)
    uuids = [
        device["attributes"]["uuid"]["string"]
        for each in made
        for device in each["spec"]["devices"]
        if device["name"] != names.RUNTIME_DEVICE
    ]
    assert (len(made), len(uuids), len(set(uuids))) == (2, 6, 6)


async def test_an_order_has_its_facts_when_its_pod_is_bound_to_a_simulated_node_and_its_claim_allocated():
    cluster = FakeCluster()
    async with running(cluster):
        bound(cluster, "a", "kwok-0")
        bound(cluster, "real", "a-real-node")
        bound(cluster, "waits", "kwok-1", allocated=False)
        async with asyncio.timeout(60):
            while "status" not in (cluster.peek(resources.AGENT_RUNTIMES, "a", "ns") or {}):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        order, claim, pod = (
            cluster.peek(resource, name, "ns")
            for resource, name in ((resources.AGENT_RUNTIMES, "a"), (resources.RESOURCE_CLAIMS, "a-1"), (resources.PODS, "a-1"))
        )
        assert order is not None
        assert claim is not None
        assert pod is not None
        said = order["status"]
        assert (said["claimUID"], said["podUID"], said["attempt"]) == (claim["metadata"]["uid"], pod["metadata"]["uid"], 1)
        assert {each["type"]: each["status"] for each in said["conditions"]} == dict.fromkeys(simulation.FACTS, "True")
        for name in ("real", "waits"):
            untouched = cluster.peek(resources.AGENT_RUNTIMES, name, "ns")
            assert untouched is not None
            assert "status" not in untouched
        cluster.calls.clear()
        cluster.alter(resources.PODS, "a-1", {"metadata": {"annotations": {"touched": "1"}}}, "ns")
        await asyncio.sleep(0.05)
        assert cluster.writes() == [], "facts that are there are not written again"


def test_stages_are_for_pods_and_nodes_and_beat_within_five_minutes():
    stages = [json.loads(part) for part in simulation.stages().split("---\n")]
    assert [(each["metadata"]["name"], each["spec"]["resourceRef"]["kind"]) for each in stages] == [
        ("node-ready", "Node"),
        ("node-heartbeat", "Node"),
        ("pod-runs", "Pod"),
        ("pod-ends", "Pod"),
    ]
    assert stages[1]["spec"]["delay"]["jitterDurationMilliseconds"] <= 300_000


def test_simulated_nodes_need_a_scheduler(tmp_path: Path):
    with pytest.raises(ValueError, match="kube-scheduler"):
        ClusterSettings(state_root=tmp_path, components=API_ONLY, kwok_nodes=1)


@pytest.mark.parametrize(("simulated", "selector"), [(3, {"kubernetes.io/hostname": "mixed-node"}), (0, None)])
def test_our_daemon_sets_stay_away_from_simulated_nodes(tmp_path: Path, simulated: int, selector: dict[str, str] | None):
    cluster = LocalCluster(ClusterSettings(name="mixed", state_root=tmp_path, kwok_nodes=simulated))
    wanted = kubeaios.values(cluster, {"operator": "o", "node": "n", "gateway": "g"}, kubeaios.FAKE_GPUS)
    assert wanted["node"].get("nodeSelector") == selector

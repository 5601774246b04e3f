"""A GPU that breaks, in a real cluster: its Agent leaves it for another one, and it takes Agents again when its driver says so."""

import json
import time
from collections.abc import Iterator

import pytest

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import FAKE_GPUS, NAMESPACE, kubectl
from e2e.support import Object, Space, eventually

L40S = "GPU-00000000-0000-0000-0000-00000000000b"


def describe(cluster: LocalCluster, text: str) -> None:
    """The fake driver tells this from now on. The kubelet reads a ConfigMap anew when the pod that mounts it changes."""
    patch = json.dumps({"data": {"gpus": text}})
    kubectl(cluster, "-n", NAMESPACE, "patch", "configmap", "aios-fake-gpus", "--type=merge", "-p", patch)
    node = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=node")
    kubectl(cluster, "annotate", "pods", *node, "--overwrite", f"tests/read-again={time.monotonic_ns()}")


def device(cluster: LocalCluster) -> Object:
    slices = json.loads(kubectl(cluster, "get", "resourceslices", "-o", "json"))["items"]
    return next(d for s in slices for d in s["spec"]["devices"] if d["attributes"].get("uuid", {}).get("string") == L40S)


def taints(cluster: LocalCluster) -> list[tuple[str, str]]:
    return [(taint["value"], taint["effect"]) for taint in device(cluster).get("taints", [])]


def gpu_of(space: Space, name: str) -> str | None:
    status = (space.get("agent", name) or {}).get("status") or {}
    return (status.get("gpu") or {}).get("uuid")


@pytest.fixture
def as_before(space: Space) -> Iterator[None]:
    yield
    describe(space.cluster, FAKE_GPUS)
    eventually(lambda: not taints(space.cluster), "the GPU is as before", 90)


@pytest.mark.usefixtures("as_before")
def test_an_agent_leaves_a_gpu_that_broke_and_the_gpu_is_used_again_after_its_recovery(space: Space) -> None:
    cluster = space.cluster
    space.apply(space.agent("a", memory="2Gi"))
    space.ready("a")
    assert gpu_of(space, "a") == L40S, "the smaller GPU fits best"
    assert device(cluster)["attributes"]["health"]["string"] == "Healthy"
    asking = FAKE_GPUS.replace("memory=49664Mi", "memory=49664Mi recovery=2")
    describe(cluster, asking + "event gpu=1 xid=79 at=1\n")
    eventually(lambda: [effect for _, effect in taints(cluster)] == ["NoExecute"], "the GPU is tainted", 90)
    eventually(lambda: gpu_of(space, "a") not in (None, L40S), "the Agent has another GPU", 90)
    (after,) = space.ready("a", timeout_seconds=90)
    assert after["status"]["attempt"] == 2
    assert device(cluster)["attributes"]["health"]["string"] == "Faulty"
    describe(cluster, asking.replace("recovery=2", "recovery=0"))
    eventually(lambda: not taints(cluster), "the driver asks for nothing any more", 90)
    space.apply(space.agent("b", memory="2Gi", gpu={"models": ["NVIDIA L40S"]}))
    space.ready("b")
    assert gpu_of(space, "b") == L40S

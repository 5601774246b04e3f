"""The operator that decides is killed in the middle of a batch, on a real cluster with two of them: the other one finishes it.

Every moment of a batch is gone through on the fake API in tests/faults/test_leadership.py; here are two of them with real processes.
"""

import json
import subprocess

import pytest

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import NAMESPACE, kubectl
from e2e.support import Object, Space, eventually

BATCH = 20
OPERATORS = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")


def leader(cluster: LocalCluster) -> str:
    """The pod that decides."""
    return kubectl(cluster, "-n", NAMESPACE, "get", "lease", "aios-operator", "-o", "jsonpath={.spec.holderIdentity}")


def process_of(cluster: LocalCluster, pod: str) -> int:
    """The operator's process in that pod, by its number on the node."""
    listed = [line.split(None, 1) for line in cluster.node_exec(["ps", "-eo", "pid,args"]).splitlines() if "bin/aios-operator" in line]
    found = [int(pid) for pid, _ in listed if f"AIOS_IDENTITY={pod}\0" in cluster.node_exec(["cat", f"/proc/{pid}/environ"])]
    assert len(found) == 1, listed
    return found[0]


def orders(space: Space) -> dict[str, Object]:
    """What was decided, by Agent."""
    return {each["metadata"]["name"]: {"uid": each["metadata"]["uid"], **each["spec"]} for each in space.objects("agentruntimes")}


@pytest.mark.parametrize(("kind", "seen", "gone"), [("agentruntimes", 5, False), ("pods", 1, True)])
def test_a_leader_killed_within_a_batch_of_twenty_is_followed_and_nothing_is_lost_or_doubled(
    cluster: LocalCluster, space: Space, kind: str, seen: int, gone: bool
):
    """Its pod is either started again, and then takes up its own Lease, or it is gone, and the other operator's turn comes."""
    kubectl(cluster, "wait", "pods", *OPERATORS, "--for=condition=Ready", "--timeout=90s")
    assert len(kubectl(cluster, "get", "pods", *OPERATORS, "-o", "name").split()) == 2
    first = leader(cluster)
    pid = process_of(cluster, first)
    watch = [str(cluster.kubectl_path), "--kubeconfig", str(cluster.kubeconfig), "-n", space.name, "get", kind, "--watch", "-o", "name"]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        space.apply(*(space.agent(f"a-{number}", memory="512Mi") for number in range(BATCH)))
        for _ in range(seen):
            watching.stdout.readline()
        cluster.node_exec(["kill", "-9", str(pid)])
        if gone:
            kubectl(cluster, "-n", NAMESPACE, "delete", "pod", first, "--grace-period=0", "--force", "--wait=false")
        watching.kill()
    left, pods = orders(space), len(space.objects("pods"))
    print(f"killed with {len(left)} orders and {pods} pods of {BATCH}")
    assert len(left) >= seen if kind == "agentruntimes" else pods >= seen

    space.ready(*(f"a-{number}" for number in range(BATCH)), timeout_seconds=150)
    assert not gone or leader(cluster) != first, "the other one decides now"
    after = orders(space)
    assert {name: after[name] for name in left} == left, "what was decided stands"
    assert {order["attempt"] for order in after.values()} == {1}
    for made in ("pods", "resourceclaims"):
        assert sorted(each["metadata"]["name"] for each in space.objects(made)) == sorted(f"a-{number}-1" for number in range(BATCH)), made
    restarts = [each["status"]["containerStatuses"][0]["restartCount"] for each in space.objects("pods")]
    assert restarts == [0] * BATCH
    if not gone:
        ended = eventually(lambda: _ended(cluster, first), "the kubelet has started the killed one again", 60)
        assert ended["exitCode"] == 137


def _ended(cluster: LocalCluster, pod: str) -> Object:
    found = json.loads(kubectl(cluster, "-n", NAMESPACE, "get", "pod", pod, "-o", "json"))
    state: Object = found["status"]["containerStatuses"][0].get("lastState", {})
    return dict(state.get("terminated") or {})

"""Nodes that are lost or drained, with a real API server, its controllers and a running operator: the test is kubelets and node agents."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from aios_api import names
from aios_localcluster import ClusterSettings, LocalCluster, build
from aios_localcluster.settings import CONTROL_PLANE
from api.operating import CLAIMS, Plane, device_class, operator
from api.support import Object, agent, connect

ROOT = Path(__file__).parents[2]
RELEASE = "aios-release"
SHORT = {"AIOS_LEASE_NAMESPACE": RELEASE, "AIOS_MUTE_SECONDS": "4", "AIOS_LOST_MARGIN_SECONDS": "4"}
NUMBER = itertools.count(1)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    settings = ClusterSettings(name="lost-tests", state_root=tmp_path_factory.mktemp("plane"), components=CONTROL_PLANE)
    if not build.is_built(build.MODULES["kubernetes"], settings.cache):
        pytest.skip("the cluster's programs are not built yet: python -m aios_localcluster.build kubernetes")
    with LocalCluster(settings) as cluster, connect(cluster) as client:
        made = Plane(client, cluster.kubeconfig)
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            made.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text()))
        for name, kind in ((names.GPU_CLASS, names.KIND_GPU), (names.RUNTIME_CLASS, names.KIND_RUNTIME)):
            made.post(f"{CLAIMS}/deviceclasses", device_class(name, kind))
        for name in (RELEASE, "team"):
            made.post("/api/v1/namespaces", {"metadata": {"name": name}})
        yield made


class Story:
    """Agent `a` on the first of two nodes of this test, with an operator that hears them."""

    def __init__(self, plane: Plane, first: str, second: str) -> None:
        self.plane, self.first, self.second = plane, first, second

    @property
    def path(self) -> str:
        return f"/apis/{names.API_VERSION}/namespaces/team/agents/a"

    @property
    def status(self) -> Object:
        status: Object = (self.plane.get(self.path) or {}).get("status", {})
        return status

    def reason(self, kind: str = "Ready") -> str:
        return next((str(each["reason"]) for each in self.status.get("conditions", ()) if each["type"] == kind), "")

    def pod(self, attempt: int) -> Object | None:
        return self.plane.get(f"/api/v1/namespaces/team/pods/a-{attempt}")

    def runs(self, attempt: int) -> None:
        """The pod of that attempt is bound and started, and the Agent is Ready."""
        self.plane.until(lambda: self._bound(attempt), f"a-{attempt} is bound")
        self.plane.serve("team", f"a-{attempt}")
        self.plane.until(lambda: self.reason() == "Ready", "the Agent is Ready")

    def _bound(self, attempt: int) -> bool:
        if self.first not in self.plane.unheard:
            self.plane.end_deleted_pods("team")  # whoever is heard has a kubelet
        return bool(((self.pod(attempt) or {}).get("spec") or {}).get("nodeName"))

    def moved(self) -> None:
        """The next attempt runs on the second node, and nothing of the former is left."""
        self.runs(2)
        assert (self.status["attempt"], self.status["nodeName"]) == (2, self.second)
        assert self.status["lastFailure"]["reason"] == "NodeLost"
        self.plane.until(lambda: self.pod(1) is None, "the former pod is gone")
        self.plane.until(lambda: "leaving" not in self.status, "nothing is leaving any more")


@pytest.fixture
def story(plane: Plane, tmp_path: Path) -> Iterator[Story]:
    number = next(NUMBER)
    first, second = f"node-{number}-a", f"node-{number}-b"
    told = Story(plane, first, second)
    with ExitStack() as stack:
        for name in (first, second):
            stack.enter_context(plane.node(name))
            stack.enter_context(plane.node_agent(name, RELEASE))
        stack.enter_context(operator(plane, tmp_path / "log", **SHORT))
        plane.post("/apis/aios.dev/v1alpha1/namespaces/team/agents", agent("a", gpu={"memory": "24Gi"}))
        told.runs(1)
        assert told.status["nodeName"] == first
        yield told
        plane.client.delete(told.path)

        def gone() -> bool:
            plane.end_deleted_pods("team")
            return plane.get(told.path) is None

        plane.until(gone, "the Agent is gone")


def test_a_node_that_is_not_ready_is_lost_when_its_agent_is_silent_too(story: Story) -> None:
    story.plane.say_ready(story.first, "Unknown")
    story.plane.until(lambda: story.reason() == "Ready", "a node that is heard is not lost")
    story.plane.unheard.add(story.first)
    story.plane.until(lambda: story.reason() == "NodeSilent", "it is said that the node is mute")
    story.moved()


def test_a_node_that_is_heard_but_deleted_is_left_when_it_must_know_the_next_order(story: Story) -> None:
    story.plane.quiet.add(story.first)
    story.plane.client.delete(f"/api/v1/nodes/{story.first}")
    story.plane.until(lambda: story.reason() == "WaitingForMute", "the next attempt waits")
    assert story.status["leaving"] == {"nodeName": story.first, "attempt": 1}
    assert story.pod(2) is None
    order = story.plane.get(f"/apis/{names.API_VERSION}/namespaces/team/agentruntimes/a")
    assert order is not None
    assert (order["spec"]["attempt"], order["spec"]["nodeName"]) == (2, story.second), "whoever is in touch is told at once"
    story.moved()


def test_a_node_that_is_out_of_service_is_left_when_it_must_be_mute(story: Story) -> None:
    story.plane.unheard.add(story.first)
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
    story.plane.merge(f"/api/v1/nodes/{story.first}", {"spec": {"taints": [taint]}})
    story.plane.until(lambda: story.reason() == "WaitingForMute", "the next attempt waits")
    story.moved()


def test_a_node_that_is_drained_is_left_for_another_once_its_kubelet_has_ended_the_pod(story: Story) -> None:
    """As `kubectl drain` does it: cordon, then an eviction for each pod."""
    story.plane.merge(f"/api/v1/nodes/{story.first}", {"spec": {"unschedulable": True}})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a-1", "namespace": "team"}}
    story.plane.post("/api/v1/namespaces/team/pods/a-1/eviction", eviction)
    evicted = story.pod(1)
    assert evicted is not None
    assert "deletionTimestamp" in evicted["metadata"]
    story.plane.until(lambda: story.reason() not in ("Ready", ""), "the Agent says that it is moved")
    assert story.pod(2) is None, "never two at once"
    story.runs(2)
    assert (story.status["attempt"], story.status["nodeName"]) == (2, story.second)
    assert story.status["lastFailure"]["reason"] == "Displaced"
    assert "as a drain of its node does" in story.status["lastFailure"]["message"]


def test_public_addresses_of_nodes_and_ranges_of_pods_and_services_are_told_to_gateways(plane: Plane, tmp_path: Path) -> None:
    node = "/api/v1/nodes/out-there"
    config = f"/api/v1/namespaces/{RELEASE}/configmaps/{names.CLUSTER_RANGES}"
    services = "/apis/networking.k8s.io/v1/servicecidrs"

    def told() -> list[str]:
        return str(((plane.get(config) or {}).get("data") or {}).get(names.CLUSTER_RANGES_KEY, "")).split()

    pods = {"podCIDR": "198.51.100.0/25", "podCIDRs": ["198.51.100.0/25", "2001:db8:1::/64"]}
    plane.post("/api/v1/nodes", {"metadata": {"name": "out-there"}, "spec": pods})
    addresses = [{"type": "InternalIP", "address": "10.1.2.3"}, {"type": "ExternalIP", "address": "203.0.113.7"}]
    plane.post(f"/api/v1/namespaces/{RELEASE}/configmaps", {"metadata": {"name": names.CLUSTER_RANGES}})
    plane.merge(f"{node}/status", {"status": {"addresses": [*addresses, {"type": "Hostname", "address": "out-there"}]}})
    plane.post(services, {"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.128/25"]}})
    with operator(plane, tmp_path / "log", **SHORT):
        plane.until(lambda: told() == ["198.51.100.0/25", "203.0.113.7/32", "203.0.113.128/25", "2001:db8:1::/64"], "gateways are told")
        version = (plane.get(config) or {})["metadata"]["resourceVersion"]
        plane.merge(node, {"metadata": {"annotations": {"beat": "1"}}})
        plane.client.delete(node)
        plane.until(lambda: told() == ["203.0.113.128/25"], "what is gone is theirs no longer")
        assert version != (plane.get(config) or {})["metadata"]["resourceVersion"]
    plane.client.delete(f"{services}/more")

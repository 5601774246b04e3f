"""The chart's objects on a real API server: each is understood to the last field, and a node agent can write for its own node alone."""

import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from aios_api import names
from aios_localcluster import LocalCluster, build
from api.conftest import eventually
from api.support import DRY_RUN, Object, Space, agent, kubectl, order

CHART = Path(__file__).parents[2] / "charts" / "kubeaios"
NAMESPACE = "aios-system"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"
NODE_AGENT = f"system:serviceaccount:{NAMESPACE}:aios-node"


@pytest.fixture(scope="module")
def objects(cluster: LocalCluster) -> list[Object]:
    """What helm would write, the definitions aside, which are there already."""
    if not build.is_built(build.MODULES["helm"], cluster.settings.cache):
        pytest.skip("helm is not built: python -m aios_localcluster.build helm")
    values = ["--set", "crds.enabled=false", "--set", "fakeGpus=x"]
    command = [str(cluster.helm_path), "template", "kubeaios", str(CHART), "--namespace", NAMESPACE, *values]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module")
def namespace(client: httpx.Client) -> str:
    assert client.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}}).status_code == 201
    return NAMESPACE


def test_every_object_is_understood_to_the_last_field(cluster: LocalCluster, objects: list[Object], namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "chart.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    told = kubectl(cluster, "create", "--dry-run=server", "--validate=strict", "-f", str(file))
    assert len(told.splitlines()) == len(objects)


@dataclass(frozen=True)
class NodeAgent:
    """Speaks as the node agent whose pod runs on `node`; None: with a token that is bound to no pod."""

    client: httpx.Client
    node: str | None

    def _headers(self) -> dict[str, str]:
        bound = {"Impersonate-Extra-authentication.kubernetes.io%2Fnode-name": self.node} if self.node is not None else {}
        return {"Impersonate-User": NODE_AGENT, "Impersonate-Group": "system:serviceaccounts", **bound}

    def publish(self, node: str, driver: str = names.DRIVER) -> httpx.Response:
        pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
        spec = {"nodeName": node, "driver": driver, "pool": pool, "devices": []}
        body = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "a-slice"}, "spec": spec}
        return self.client.post(SLICES, params=DRY_RUN, headers=self._headers(), json=body)

    def withdraw(self, name: str) -> httpx.Response:
        return self.client.delete(f"{SLICES}/{name}", params=DRY_RUN, headers=self._headers())

    def report(self, path: str) -> httpx.Response:
        headers = {**self._headers(), "Content-Type": "application/merge-patch+json"}
        return self.client.patch(path, params=DRY_RUN, headers=headers, json={"status": {"contractVersion": names.CONTRACT_VERSION}})


@pytest.fixture(scope="module")
def guarded(client: httpx.Client, objects: list[Object], namespace: str) -> Iterator[httpx.Client]:
    """The node agent's rights and what holds it to its node are in force."""
    group = "/apis/rbac.authorization.k8s.io/v1/"
    paths = {
        "ClusterRole": f"{group}clusterroles",
        "ClusterRoleBinding": f"{group}clusterrolebindings",
        "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    }
    made = [each for each in objects if each["kind"] in paths and each["metadata"]["name"].startswith("aios-node")]
    assert {each["kind"] for each in made} == set(paths)
    for each in made:
        assert client.post(paths[each["kind"]], json=each).status_code == 201
    eventually(functools.partial(_is_refused, NodeAgent(client, "one").publish, "another"), "the policy is in force")
    yield client
    for each in made:
        client.delete(f"{paths[each['kind']]}/{each['metadata']['name']}")


def _is_refused(call: Any, *arguments: str) -> bool:
    return bool(call(*arguments).status_code in (403, 422))


def test_a_node_agent_publishes_for_its_node_alone(guarded: httpx.Client) -> None:
    assert NodeAgent(guarded, "one").publish("one").status_code == 201
    refused = NodeAgent(guarded, "one").publish("another")
    assert refused.status_code == 403
    assert "a node agent writes for its own node (one) and for no other" in refused.json()["message"]


def test_a_node_agent_publishes_for_its_driver_alone(guarded: httpx.Client) -> None:
    refused = NodeAgent(guarded, "one").publish("one", driver="gpu.example.com")
    assert refused.status_code == 403
    assert "of its driver gpu.aios.dev and of no other" in refused.json()["message"]


def test_a_token_that_is_bound_to_no_node_publishes_nothing(guarded: httpx.Client) -> None:
    refused = NodeAgent(guarded, None).publish("one")
    assert refused.status_code == 403
    assert "the token must be bound to a pod on a node" in refused.json()["message"]


def test_a_node_agent_withdraws_only_what_its_node_published(guarded: httpx.Client) -> None:
    pool = {"name": "one", "generation": 1, "resourceSliceCount": 1}
    body = {"metadata": {"name": "of-one"}, "spec": {"nodeName": "one", "driver": names.DRIVER, "pool": pool, "devices": []}}
    assert guarded.post(SLICES, json=body).status_code == 201
    assert NodeAgent(guarded, "another").withdraw("of-one").status_code == 403
    assert NodeAgent(guarded, "one").withdraw("of-one").status_code == 200
    guarded.delete(f"{SLICES}/of-one")


def test_facts_about_an_order_come_from_its_node(guarded: httpx.Client, space: Space) -> None:
    written = order("agent", node="one")
    assert space.create(agent("agent"), dry_run=False).status_code == 201
    assert space.create(written, dry_run=False).status_code == 201, written
    status = space.path(names.AGENT_RUNTIMES, "agent", "status")
    assert NodeAgent(guarded, "one").report(status).status_code == 200
    assert NodeAgent(guarded, "another").report(status).status_code == 403

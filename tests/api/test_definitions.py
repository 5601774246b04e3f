"""The definitions on a real API server: accepted, explained, listed, with a status of their own."""

import pytest

from aios_localcluster import LocalCluster
from api.support import Object, Space, agent, kubectl, order


def condition(kind: str, status: str = "True", **fields: object) -> Object:
    return {"type": kind, "status": status, "reason": kind, "message": "as told", "lastTransitionTime": "2026-01-01T00:00:00Z", **fields}


def test_the_definitions_are_established_and_structural(space: Space, definitions: list[Object]) -> None:
    for definition in definitions:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
        conditions = {one["type"]: one["status"] for one in space.client.get(path).json()["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize(
    ("field", "sentences"),
    [
        (
            "agent.spec.gpu",
            ["memory\t<string> -required-", "such as 16Gi", "models\t<[]string>"],
        ),
        ("agent.spec", ["gpu\t<Object>", "operatingMode\t<string>", "enum: Running, Stopped", "template\t<Object> -required-"]),
        ("agent.status.pending", ["Set while the Agent waits for a place", "smallestChange\t<string> -required-"]),
        ("agt.spec.template.spec.containers.image", ["FIELD: image <string>"]),
        ("agentruntime.spec", ["nodeName\t<string> -required-", "within an attempt only what is in force at once changes"]),
    ],
)
def test_kubectl_explains_fields_in_sentences(cluster: LocalCluster, definitions: list[Object], field: str, sentences: list[str]) -> None:
    flat = " ".join(kubectl(cluster, "explain", field).split())
    for sentence in sentences:
        assert " ".join(sentence.split()) in flat


def test_kubectl_lists_all_our_kinds_by_category(cluster: LocalCluster, space: Space) -> None:
    space.create(agent("one", gpu={"memory": "16Gi"}), dry_run=False)
    space.create(order("one"), dry_run=False)
    said = kubectl(cluster, "get", "aios", "-n", space.namespace)
    assert "agent.aios.dev/one" in said
    assert "agentruntime.aios.dev/one" in said


def test_kubectl_shows_what_a_person_wants_to_see(cluster: LocalCluster, space: Space) -> None:
    space.create(agent("one", gpu={"memory": "16Gi"}), dry_run=False)
    placed = {"uuid": "GPU-1", "model": "H200", "memory": "16Gi"}
    status = {"conditions": [condition("Ready")], "nodeName": "node-a", "gpu": placed, "attempt": 1, "podName": "one-1"}
    written = {**agent("one"), "status": status}
    del written["spec"]
    assert space.apply(written, "operator", subresource="status").status_code == 200
    lines = kubectl(cluster, "get", "agents", "-n", space.namespace).splitlines()
    assert lines[0].split() == ["NAME", "READY", "REASON", "GPU", "VRAM", "NODE", "AGE"]
    assert lines[1].split()[:6] == ["one", "True", "Ready", "H200", "16Gi", "node-a"]


def test_spec_and_status_are_written_apart(space: Space) -> None:
    body = {**agent("one"), "status": {"attempt": 7}}
    assert "status" not in space.create(body, dry_run=False).json()
    path = space.path("agents", "one", "status")
    patch = {"spec": {"operatingMode": "Stopped"}, "status": {"attempt": 7}}
    answer = space.client.patch(path, headers={"Content-Type": "application/merge-patch+json"}, json=patch)
    assert answer.status_code == 200, answer.text
    kept = space.client.get(space.path("agents", "one")).json()
    assert (kept["status"]["attempt"], kept["spec"]["operatingMode"], kept["metadata"]["generation"]) == (7, "Running", 1)


def test_defaults_stand_in_the_stored_object(space: Space) -> None:
    spec = space.create(agent()).json()["spec"]
    assert (spec["restartPolicy"], spec["operatingMode"]) == ("Always", "Running")


def test_nodes_find_their_orders_by_a_field_selector(space: Space) -> None:
    for name, node in (("one", "node-a"), ("two", "node-b"), ("three", "node-a")):
        assert space.create(order(name, node=node), dry_run=False).status_code == 201
    found = space.client.get(space.path("agentruntimes"), params={"fieldSelector": "spec.nodeName=node-a"}).json()["items"]
    assert sorted(item["metadata"]["name"] for item in found) == ["one", "three"]


def test_two_managers_of_one_field_are_in_conflict(space: Space) -> None:
    body = agent("one", operatingMode="Running")
    assert space.apply(body, "alice").status_code == 201
    answer = space.apply({**body, "spec": {**body["spec"], "operatingMode": "Stopped"}}, "bob")
    assert answer.status_code == 409
    assert ".spec.operatingMode" in answer.json()["message"]


def test_two_managers_add_containers_and_conditions_side_by_side(space: Space) -> None:
    body = agent("one")
    assert space.apply(body, "alice").status_code == 201
    beside = agent("one", template={"spec": {"containers": [{"name": "beside", "image": "localhost/other:1"}]}})
    merged = space.apply(beside, "bob")
    assert merged.status_code == 200, merged.text
    assert [one["name"] for one in merged.json()["spec"]["template"]["spec"]["containers"]] == ["main", "beside"]
    for manager, kind in (("alice", "Ready"), ("bob", "Placed")):
        written = {**agent("one"), "status": {"conditions": [condition(kind)]}}
        del written["spec"]
        assert space.apply(written, manager, subresource="status").status_code == 200
    status = space.client.get(space.path("agents", "one")).json()["status"]
    assert sorted(one["type"] for one in status["conditions"]) == ["Placed", "Ready"]

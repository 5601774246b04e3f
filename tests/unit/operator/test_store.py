"""Of one object the newest version wins, whoever brings it; what is gone stays gone."""

from typing import Any

import pytest

from aios_api import names
from aios_operator.decide.views import Key
from aios_operator.observe.audit import upsert
from aios_operator.observe.store import Store

LABELS = {names.LABEL_AGENT: "a", names.LABEL_AGENT_UID: "agent-uid", names.LABEL_ATTEMPT: "1"}


def a_pod(version: int, uid: str = "u1", phase: str = "Pending", labels: dict[str, str] | None = None) -> dict[str, Any]:
    metadata = {
        "namespace": "ns",
        "name": "a-1",
        "uid": uid,
        "resourceVersion": str(version),
        "labels": LABELS if labels is None else labels,
    }
    return {"metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}}


def phase(store: Store) -> str | None:
    pods = store.state(Key("ns", "a")).pods
    assert len(pods) <= 1
    return pods[0].phase if pods else None


def test_an_older_event_is_ignored():
    store = Store()
    store.pods.upsert(a_pod(10, phase="Running"))
    store.pods.upsert(a_pod(9, phase="Pending"))
    assert phase(store) == "Running"


def test_versions_are_numbers_and_not_words():
    store = Store()
    store.pods.upsert(a_pod(9, phase="Pending"))
    store.pods.upsert(a_pod(10, phase="Running"))
    assert phase(store) == "Running"


def test_the_end_of_an_older_object_of_the_name_leaves_the_new_one():
    store = Store()
    store.pods.upsert(a_pod(9, uid="old"))
    store.pods.upsert(a_pod(12, uid="new", phase="Running"))
    store.pods.remove("ns", "a-1", "old")
    assert phase(store) == "Running"
    store.pods.upsert(a_pod(11, uid="old"))
    assert phase(store) == "Running"


def test_what_was_deleted_does_not_come_back_by_a_late_answer():
    store = Store()
    store.pods.upsert(a_pod(9))
    store.pods.remove("ns", "a-1", "u1")
    store.pods.upsert(a_pod(10))
    assert phase(store) is None


def test_a_list_removes_only_what_is_not_newer_than_itself():
    store = Store()
    store.pods.upsert(a_pod(9))
    assert store.pods.retain(set(), "8") == 0
    assert phase(store) == "Pending"
    assert store.pods.retain({"u1"}, "10") == 0
    assert store.pods.retain(set(), "10") == 1
    assert phase(store) is None


def test_an_object_that_is_ours_no_more_leaves_the_picture():
    store = Store()
    store.pods.upsert(a_pod(9))
    store.pods.upsert(a_pod(10, labels={}))
    assert phase(store) is None
    assert store.keys() == set()


def test_a_deletion_that_we_asked_for_is_known_before_its_event():
    store = Store()
    store.pods.upsert(a_pod(9))
    store.pods.is_being_deleted("ns", "a-1", "other")
    assert not store.state(Key("ns", "a")).pods[0].deleting
    store.pods.is_being_deleted("ns", "a-1", "u1")
    assert store.state(Key("ns", "a")).pods[0].deleting


def test_a_change_concerns_its_agent_and_a_mere_version_nobody():
    store = Store()
    store.pods.upsert(a_pod(9))
    assert store.dirty == {Key("ns", "a")}
    store.dirty.clear()
    store.pods.upsert(a_pod(10))
    assert store.dirty == set()
    store.pods.upsert(a_pod(11, phase="Running"))
    assert store.dirty == {Key("ns", "a")}


@pytest.mark.usefixtures("errors_expected")
def test_an_odd_object_is_logged_and_the_picture_stays(caplog: pytest.LogCaptureFixture):
    store = Store()
    store.pods.upsert(a_pod(9))
    odd = a_pod(10)
    odd["status"] = "what"
    upsert(store.pods, odd)
    assert phase(store) == "Pending"
    assert "ns/a-1 can't be read" in caplog.text


def test_the_memory_of_the_dead_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("aios_operator.observe.table.BURIED", 3)
    store = Store()
    for number in range(10):
        store.pods.remove("ns", "x", f"u{number}")
    assert len(store.pods._buried) == 3


def a_slice(version: int, taints: list[dict[str, str]] | None = None) -> dict[str, Any]:
    attributes = {"kind": {"string": "gpu"}, "uuid": {"string": "GPU-a"}, "model": {"string": "H100"}}
    gpu: dict[str, Any] = {"name": "gpu-a", "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}}
    gpu |= {"taints": taints} if taints else {}
    spec = {"driver": names.DRIVER, "nodeName": "n1", "pool": {"name": "n1", "generation": 1}, "devices": [gpu]}
    return {"metadata": {"name": "n1-slice", "uid": "slice", "resourceVersion": str(version)}, "spec": spec}


def an_order(name: str, node: str) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": name, "uid": f"order-{name}", "resourceVersion": "1"}
    spec = {"agentUID": "u", "attempt": 1, "templateDigest": "d", "nodeName": node}
    return {"metadata": metadata, "spec": {**spec, "gpu": {"uuid": "GPU-a", "model": "H100", "memory": "1Gi"}}}


def test_a_taint_of_a_gpu_concerns_the_agents_on_its_node_and_so_does_its_end():
    store = Store()
    store.runtimes.upsert(an_order("a", "n1"))
    store.runtimes.upsert(an_order("b", "n2"))
    store.slices.upsert(a_slice(1))
    store.dirty.clear()
    store.slices.upsert(a_slice(2, [{"key": names.TAINT_UNHEALTHY, "value": "xid79", "effect": "NoExecute"}]))
    assert store.dirty == {Key("ns", "a")}
    assert [str(taint) for taint in store.state(Key("ns", "a")).gpu_taints] == [f"{names.TAINT_UNHEALTHY}=xid79:NoExecute"]
    assert store.state(Key("ns", "b")).gpu_taints == ()
    store.dirty.clear()
    store.slices.upsert(a_slice(3))
    assert store.dirty == {Key("ns", "a")}
    store.dirty.clear()
    store.slices.remove("", "n1-slice", "slice")
    assert store.dirty == set(), "that a slice is gone says nothing about its GPUs"

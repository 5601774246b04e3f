"""The in-memory cluster behaves as the API server does where controllers notice."""

import asyncio

import pytest

from aios_kube import Selection
from aios_kube.errors import AlreadyExists, Conflict, Gone, NotFound, Unreachable
from aios_kube.fake import Call, FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, NODES, PODS

ME = "aios-operator"


def runtime(name: str = "a", **spec: object) -> dict[str, object]:
    return {"metadata": {"namespace": "ns", "name": name}, "spec": spec}


async def test_a_name_is_taken_once():
    cluster = FakeCluster()
    await cluster.create(PODS, runtime(), field_manager=ME)
    with pytest.raises(AlreadyExists):
        await cluster.create(PODS, runtime(), field_manager=ME)


async def test_a_write_that_changes_nothing_keeps_version_and_generation():
    cluster = FakeCluster()
    first = await cluster.apply(AGENT_RUNTIMES, runtime(attempt=1), field_manager=ME)
    again = await cluster.apply(AGENT_RUNTIMES, runtime(attempt=1), field_manager=ME)
    assert again == first
    changed = await cluster.apply(AGENT_RUNTIMES, runtime(attempt=2), field_manager=ME)
    assert changed["metadata"]["generation"] == 2
    assert int(changed["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])


async def test_apply_with_a_uid_never_makes_another_object():
    cluster = FakeCluster()
    body = runtime(attempt=1)
    body["metadata"]["uid"] = "u-gone"
    with pytest.raises(Conflict):
        await cluster.apply(AGENT_RUNTIMES, body, field_manager=ME)
    await cluster.apply(AGENT_RUNTIMES, runtime(attempt=1), field_manager=ME)
    with pytest.raises(Conflict):
        await cluster.apply(AGENT_RUNTIMES, body, field_manager=ME)


async def test_apply_gives_up_what_it_no_longer_names_and_keeps_what_others_own():
    cluster = FakeCluster()
    await cluster.apply(AGENT_RUNTIMES, runtime(attempt=1, gpu={"uuid": "g", "memory": "1Gi"}), field_manager=ME)
    await cluster.apply(AGENT_RUNTIMES, runtime(note="theirs"), field_manager="someone")
    after = await cluster.apply(AGENT_RUNTIMES, runtime(attempt=1), field_manager=ME)
    assert after["spec"] == {"attempt": 1, "note": "theirs"}


async def test_apply_conflicts_with_another_managers_value_unless_forced():
    cluster = FakeCluster()
    await cluster.apply(AGENT_RUNTIMES, runtime(attempt=1), field_manager="someone")
    with pytest.raises(Conflict, match="someone"):
        await cluster.apply(AGENT_RUNTIMES, runtime(attempt=2), field_manager=ME)
    forced = await cluster.apply(AGENT_RUNTIMES, runtime(attempt=2), field_manager=ME, force=True)
    assert forced["spec"]["attempt"] == 2


async def test_conditions_of_two_writers_live_side_by_side():
    cluster = FakeCluster()
    await cluster.create(AGENT_RUNTIMES, runtime(), field_manager=ME)

    def status(kind: str, value: str) -> dict[str, object]:
        return {"metadata": {"namespace": "ns", "name": "a"}, "status": {"conditions": [{"type": kind, "status": value}]}}

    await cluster.apply(AGENT_RUNTIMES, status("Fenced", "True"), field_manager="x", subresource="status")
    await cluster.apply(AGENT_RUNTIMES, status("Prepared", "True"), field_manager="y", subresource="status")
    after = await cluster.apply(AGENT_RUNTIMES, status("Fenced", "False"), field_manager="x", subresource="status")
    assert after["status"]["conditions"] == [{"type": "Fenced", "status": "False"}, {"type": "Prepared", "status": "True"}]
    assert after["metadata"]["generation"] == 1


async def test_spec_and_status_are_written_at_different_doors():
    cluster = FakeCluster()
    created = await cluster.create(PODS, {**runtime(x=1), "status": {"phase": "Running"}}, field_manager=ME)
    assert "status" not in created
    both = {"spec": {"x": 2}, "status": {"phase": "Failed"}}
    assert (await cluster.patch(PODS, "a", both, namespace="ns", field_manager=ME)).get("status") is None
    after = await cluster.patch(PODS, "a", {**both, "spec": {"x": 3}}, namespace="ns", field_manager=ME, subresource="status")
    assert (after["spec"]["x"], after["status"]["phase"]) == (2, "Failed")


async def test_preconditions_hold():
    cluster = FakeCluster()
    pod = await cluster.create(PODS, runtime(), field_manager=ME)
    with pytest.raises(Conflict):
        await cluster.delete(PODS, "a", "ns", uid="other")
    with pytest.raises(Conflict):
        await cluster.patch(PODS, "a", {"metadata": {"labels": {"x": "y"}}}, namespace="ns", field_manager=ME, resource_version="0")
    await cluster.delete(PODS, "a", "ns", uid=pod["metadata"]["uid"])
    with pytest.raises(NotFound):
        await cluster.get(PODS, "a", "ns")


async def test_a_finalizer_holds_the_object_until_it_is_taken_off():
    cluster = FakeCluster()
    body = runtime()
    body["metadata"]["finalizers"] = ["aios.dev/release"]
    await cluster.create(PODS, body, field_manager=ME)
    await cluster.delete(PODS, "a", "ns")
    assert "deletionTimestamp" in cluster.peek(PODS, "a", "ns")["metadata"]
    await cluster.patch(PODS, "a", [{"op": "remove", "path": "/metadata/finalizers/0"}], namespace="ns", field_manager=ME)
    assert cluster.peek(PODS, "a", "ns") is None


async def test_a_bound_pod_lingers_until_its_kubelet_is_done():
    cluster = FakeCluster(lingering={"pods"})
    await cluster.create(PODS, runtime(), field_manager=ME)
    await cluster.delete(PODS, "a", "ns")
    assert "deletionTimestamp" in cluster.peek(PODS, "a", "ns")["metadata"]
    cluster.remove(PODS, "a", "ns")
    assert cluster.peek(PODS, "a", "ns") is None


async def test_a_watch_sees_what_starts_and_stops_matching():
    cluster = FakeCluster()
    seen: list[tuple[str, str]] = []

    async def follow() -> None:
        events = cluster.watch(PODS, Selection(fields="spec.nodeName=n1"), resource_version="0")
        seen.extend([(event.type, event.object["metadata"]["name"]) async for event in events])

    cluster.put(PODS, runtime(nodeName="n1"))
    cluster.put(PODS, runtime("b", nodeName="n2"))
    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    cluster.alter(PODS, "b", {"spec": {"nodeName": "n1"}}, "ns")
    cluster.alter(PODS, "a", {"spec": {"nodeName": "n2"}}, "ns")
    cluster.remove(PODS, "b", "ns")
    await asyncio.sleep(0.01)
    cluster.end_watches()
    await task
    assert seen == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("DELETED", "b")]


async def test_a_version_from_before_the_compaction_is_gone():
    cluster = FakeCluster()
    cluster.put(NODES, {"metadata": {"name": "n1"}})
    cluster.put(NODES, {"metadata": {"name": "n2"}})
    cluster.compact()
    with pytest.raises(Gone):
        async for _ in cluster.watch(NODES, resource_version="1"):
            pass


async def test_a_lost_answer_leaves_the_write_in_place():
    cluster = FakeCluster()
    cluster.lose.append(lambda call: Unreachable("cut") if call.verb == "create" else None)
    with pytest.raises(Unreachable):
        await cluster.create(PODS, runtime(), field_manager=ME)
    assert cluster.peek(PODS, "a", "ns") is not None
    assert [call.verb for call in cluster.writes()] == ["create"]


async def test_a_refused_write_changes_nothing():
    cluster = FakeCluster()

    def full(call: Call) -> Unreachable | None:
        return Unreachable("full") if call.writes else None

    cluster.refuse.append(full)
    with pytest.raises(Unreachable):
        await cluster.create(PODS, runtime(), field_manager=ME)
    assert cluster.all(PODS) == []

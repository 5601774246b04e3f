"""What watches don't tell, the audit finds; other pods are only sums."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from aios_kube import resources
from aios_kube.errors import Unreachable
from aios_kube.fake import FakeCluster
from aios_operator.decide.views import Key, Requests
from aios_operator.observe import foreign
from aios_operator.observe.audit import Audit, WatchIsDead
from aios_operator.observe.store import Store


def an_agent(name: str) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "main", "image": "localhost/x:1"}]}}
    return {"metadata": {"namespace": "ns", "name": name}, "spec": {"template": template}}


def audited(cluster: FakeCluster, **more: Any) -> tuple[Store, Audit]:
    store = Store()
    return store, Audit(cluster, store, **{"interval_seconds": 300, "after_relist_seconds": 0, **more})


async def test_the_first_picture_is_whole_before_anything_is_planned():
    cluster = FakeCluster(page_size=2)
    for number in range(5):
        cluster.put(resources.AGENTS, an_agent(f"a{number}"))
    store, audit = audited(cluster)
    await audit.fill()
    assert len(store.agents.views) == 5


async def test_a_first_list_that_fails_for_good_stops_the_start():
    cluster = FakeCluster()
    cluster.refuse.append(lambda call: Unreachable("down"))
    _, audit = audited(cluster)
    with pytest.raises(Unreachable):
        await audit.fill()


async def test_an_object_that_vanished_unseen_is_removed():
    cluster = FakeCluster()
    cluster.put(resources.AGENTS, an_agent("a"))
    cluster.put(resources.AGENTS, an_agent("b"))
    store, audit = audited(cluster)
    await audit.fill()
    cluster.remove(resources.AGENTS, "a", "ns")
    store.dirty.clear()
    await audit.compare(store.agents)
    assert set(store.agents.views) == {("ns", "b")}
    assert store.dirty == {Key("ns", "a")}


async def test_a_relist_leads_to_a_comparison_of_that_resource_only():
    cluster = FakeCluster()
    cluster.put(resources.AGENTS, an_agent("a"))
    store, audit = audited(cluster)
    await audit.fill()
    cluster.remove(resources.AGENTS, "a", "ns")
    cluster.calls.clear()
    task = asyncio.create_task(audit.run())
    audit.relisted(store.agents)
    async with asyncio.timeout(60):
        while store.agents.views:
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert {call.resource for call in cluster.calls} == {resources.AGENTS}


async def test_a_watch_that_brings_nothing_for_a_whole_interval_is_dead():
    cluster = FakeCluster()
    cluster.put(resources.AGENTS, an_agent("a"))
    store, audit = audited(cluster)
    await audit.fill()
    cluster.alter(resources.AGENTS, "a", {"spec": {"operatingMode": "Stopped"}}, "ns")
    await audit.compare(store.agents)
    with pytest.raises(WatchIsDead, match="agents"):
        await audit.compare(store.agents)


async def test_a_watch_that_never_brings_a_new_object_is_dead():
    cluster = FakeCluster()
    store, audit = audited(cluster)
    await audit.fill()
    cluster.put(resources.AGENTS, an_agent("a"))
    await audit.compare(store.agents)
    with pytest.raises(WatchIsDead, match="agents"):
        await audit.compare(store.agents)


@pytest.mark.usefixtures("errors_expected")
async def test_objects_that_we_show_nowhere_are_no_sign_of_a_dead_watch(caplog: pytest.LogCaptureFixture):
    cluster = FakeCluster()
    cluster.put(resources.RESOURCE_CLAIMS, {"metadata": {"namespace": "ns", "name": "of-another-driver"}, "spec": {}})
    cluster.put(resources.AGENT_RUNTIMES, {"metadata": {"namespace": "ns", "name": "unreadable"}, "spec": {}})
    store, audit = audited(cluster)
    await audit.fill()
    for table in (store.claims, store.runtimes, store.claims, store.runtimes):
        await audit.compare(table)
    assert "can't be read" in caplog.text


async def test_a_watch_that_is_merely_late_is_alive():
    cluster = FakeCluster()
    cluster.put(resources.AGENTS, an_agent("a"))
    store, audit = audited(cluster)
    await audit.fill()
    for mode in ("Stopped", "Running", "Stopped"):
        late = cluster.alter(resources.AGENTS, "a", {"spec": {"operatingMode": mode}}, "ns")
        await audit.compare(store.agents)
        store.agents.upsert(late)
    await audit.compare(store.agents)


async def test_an_audit_that_fails_is_repeated_and_harms_nothing(caplog: pytest.LogCaptureFixture):
    cluster = FakeCluster()
    cluster.put(resources.AGENTS, an_agent("a"))
    store, audit = audited(cluster, interval_seconds=0.001)
    await audit.fill()
    cluster.refuse.append(lambda call: Unreachable("down"))
    task = asyncio.create_task(audit.run())
    async with asyncio.timeout(60):
        while "audit of agents failed" not in caplog.text:
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert len(store.agents.views) == 1


@pytest.mark.parametrize("works", [True, False])
async def test_only_an_audit_that_succeeds_counts_as_a_sign_of_life(works: bool):
    cluster, done = FakeCluster(), asyncio.Event()
    store, audit = audited(cluster, interval_seconds=0.001, on_done=done.set)
    if not works:
        cluster.refuse.append(lambda call: Unreachable("down"))
    task = asyncio.create_task(audit.run())
    async with asyncio.timeout(60):
        while len(cluster.calls) < 2 * len(store.tables):
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert done.is_set() == works


async def test_watches_that_list_again_all_the_time_do_not_put_off_the_audit_of_everything():
    cluster, done = FakeCluster(), asyncio.Event()
    store, audit = audited(cluster, interval_seconds=0.1, on_done=done.set)
    task = asyncio.create_task(audit.run())
    async with asyncio.timeout(60):
        while not done.is_set():
            audit.relisted(store.agents)
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_foreign_pods_are_counted_by_node_and_agents_are_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(foreign, "PAGE", 2)
    cluster = FakeCluster()

    def pod(name: str, node: str, phase: str = "Running", labels: dict[str, str] | None = None) -> None:
        containers = [{"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}}}]
        spec = {"containers": containers, **({"nodeName": node} if node else {})}
        metadata = {"namespace": "x", "name": name, "labels": labels or {}}
        cluster.put(resources.PODS, {"metadata": metadata, "spec": spec, "status": {"phase": phase}})

    for number in range(3):
        pod(f"p{number}", "n1")
    pod("elsewhere", "n2")
    pod("done", "n1", "Succeeded")
    pod("unbound", "")
    pod("ours", "n1", labels={"aios.dev/agent": "a"})
    assert await foreign.count(cluster) == {"n1": Requests(750, 3 << 30, 3), "n2": Requests(250, 1 << 30, 1)}


async def test_a_failed_count_leaves_the_last_one(caplog: pytest.LogCaptureFixture):
    cluster, store = FakeCluster(), Store()
    store.set_foreign({"n1": Requests(1, 1, 1)})
    cluster.refuse.append(lambda call: Unreachable("down"))
    task = asyncio.create_task(foreign.refresh(cluster, store, 0.001))
    async with asyncio.timeout(60):
        while "counting" not in caplog.text:
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert store.foreign == {"n1": Requests(1, 1, 1)}

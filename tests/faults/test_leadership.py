"""Two operators: one decides, the other takes over wherever the first one stopped; and even two at once do no harm."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aios_api import names
from aios_kube import resources
from aios_kube.errors import ApiError, Conflict, Unreachable
from aios_kube.fake import Call, FakeCluster
from aios_kube.lease import Lease, LeaseSettings
from aios_operator.decide import effects as do
from aios_operator.decide.views import Key
from aios_operator.main import keep, lead
from aios_operator.observe.audit import Audit
from aios_operator.probes import Health
from unit.operator.world import World

BATCH = 20
ORDERS = (resources.AGENT_RUNTIMES, resources.RESOURCE_CLAIMS, resources.PODS)


def batch() -> World:
    world = World()
    world.node(gpu="80Gi", slots=BATCH)
    for number in range(BATCH):
        world.apply(f"a-{number}", "4Gi")
    return world


async def writes_of_a_batch() -> int:
    world = batch()
    await world.running()
    return len(world.cluster.writes())


def dies_after(world: World, writes: int) -> None:
    """The process ends with its `writes`-th write, which takes place: it does not hear of it, nor write or read anything more."""
    left = [writes]

    def count(call: Call) -> ApiError | None:
        left[0] -= call.writes
        return Unreachable("killed") if left[0] <= 0 else None

    world.cluster.lose.append(count)
    world.cluster.refuse.append(lambda _: Unreachable("killed") if left[0] <= 0 else None)


def decided(world: World) -> dict[str, tuple[Any, ...]]:
    """What was decided, and everything that was made for it."""
    orders = {each["metadata"]["name"]: each for each in world.cluster.all(resources.AGENT_RUNTIMES)}
    return {
        name: (each["metadata"]["uid"], each["spec"]["attempt"], each["spec"]["nodeName"], each["spec"]["gpu"]["uuid"])
        for name, each in orders.items()
    }


@pytest.mark.timeout(300)
async def test_a_leader_that_is_killed_at_any_write_of_a_batch_loses_and_doubles_nothing():
    total = await writes_of_a_batch()
    assert total > 5 * BATCH
    for at in range(1, total + 1):
        world = batch()
        dies_after(world, at)
        for _ in range(3):
            await world.settled()
            world.schedule()
            world.run_pods()
        world.cluster.lose.clear()
        world.cluster.refuse.clear()
        before = decided(world)
        world.operator()  # another process, which knows only what the server holds
        await world.running()
        after = decided(world)
        assert {name: after[name] for name in before} == before, f"killed at write {at}: a decision was lost or made again"
        assert {each[1] for each in after.values()} == {1}, f"killed at write {at}"
        for resource in ORDERS:
            made = sorted(each["metadata"]["labels"][names.LABEL_AGENT] for each in world.cluster.all(resource))
            assert made == sorted(f"a-{number}" for number in range(BATCH)), f"killed at write {at}: {resource.plural}"
        assert not [call for call in world.cluster.writes() if call.verb == "delete"], f"killed at write {at}"
        for agent in world.cluster.all(resources.AGENTS):
            ready = next(c["status"] for c in agent["status"]["conditions"] if c["type"] == "Ready")
            assert ready == "True", f"killed at write {at}: {agent['metadata']['name']}"


async def test_two_that_decide_at_once_from_one_picture_end_with_one_order_each():
    """A leader that was stopped and continued goes on for a moment. No Lease guards the writes; their own conditions do."""
    first, second = batch(), World()
    second.cluster = first.cluster
    second.operator()
    for _ in range(6):
        first.deliver()
        second.deliver()
        await asyncio.gather(first.loop.settle(), second.loop.settle())
        first.schedule()
        first.run_pods()
    assert {each[1] for each in decided(first).values()} == {1}
    assert len(first.cluster.all(resources.PODS)) == BATCH
    assert {first.condition(key, "Ready")[0] for key in first.store.keys()} == {"True"}  # noqa: SIM118 - not a dict


async def test_a_next_order_follows_only_the_one_that_was_seen():
    """The one who comes late with attempt 2 must not overwrite the attempt 2 of another."""
    first, second = batch(), World()
    await first.running()
    second.cluster = first.cluster
    second.operator()
    second.deliver()
    first.cluster.alter(resources.AGENTS, "a-0", {"spec": {"gpu": {"memory": "3Gi"}}}, "ns")
    second.deliver()
    await first.settled()
    order = first.cluster.peek(resources.AGENT_RUNTIMES, "a-0", "ns")
    await second.loop.settle()
    after = first.cluster.peek(resources.AGENT_RUNTIMES, "a-0", "ns")
    assert order is not None
    assert after is not None
    assert (order["spec"]["attempt"], after["spec"]) == (2, order["spec"])
    assert after["metadata"]["generation"] == order["metadata"]["generation"]


async def test_what_was_sent_before_another_took_over_and_arrives_after_it_wrote_changes_nothing():
    """A request may lie in the network for longer than the Lease lasts. It carries the version that its writer had seen."""
    first, second = batch(), World()
    first.bind("models", "a.example.com")
    first.label(Key("ns", "a-0"), app="coder")
    await first.running()
    second.cluster = first.cluster
    second.operator()
    second.deliver()
    agent, order = first.store.agents.views[Key("ns", "a-0")], first.store.runtimes.views[Key("ns", "a-0")]
    late = [
        do.WriteStatus(agent.key, agent.uid, {**agent.status, "message": "late"}),
        do.ReviseOrder(order.key, order.uid, None, None, None, None),
    ]
    leaving = {"nodeName": "n0", "attempt": 0}
    await second.loop.executor.perform(do.WriteStatus(agent.key, agent.uid, {**agent.status, "leaving": leaving}))
    first.bind("models", "b.example.com")
    second.deliver()
    await second.loop.settle()
    before = [first.cluster.peek(kind, "a-0", "ns") for kind in (resources.AGENTS, resources.AGENT_RUNTIMES)]
    for effect in late:
        with pytest.raises(Conflict):
            await first.loop.executor.perform(effect)
    assert [first.cluster.peek(kind, "a-0", "ns") for kind in (resources.AGENTS, resources.AGENT_RUNTIMES)] == before
    assert second.reaches(Key("ns", "a-0")) == ["b.example.com"]


async def test_what_a_node_says_of_an_order_meanwhile_holds_up_no_revision_of_it():
    world = batch()
    world.bind("models", "a.example.com")
    key = world.label(Key("ns", "a-0"), app="coder")
    await world.running()
    world.bind("models", "b.example.com")
    world.deliver()
    world.cluster.alter(resources.AGENT_RUNTIMES, "a-0", {"status": {"contractVersion": 9}}, "ns")
    before = len(world.cluster.calls)
    world.loop.turn()
    await asyncio.gather(*world.loop._busy.values())
    tried = [call for call in world.cluster.calls[before:] if call.writes and call.resource == resources.AGENT_RUNTIMES]
    assert len(tried) == 2, "once with the version from before"
    assert world.reaches(key) == ["b.example.com"]


async def test_two_that_give_the_last_of_a_quota_at_once_say_that_it_is_exceeded_and_give_no_more():
    """What a namespace may hold is counted by who decides; that only one does is the Lease's work."""
    first, second = World(), World()
    first.node(gpu="80Gi")
    quota = {"metadata": {"namespace": "ns", "name": "q"}, "spec": {"memory": {"nominal": "9Gi"}}}
    first.cluster.put(resources.GPU_QUOTAS, quota)
    first.apply("runs", "8Gi")
    await first.running()
    second.cluster = first.cluster
    second.operator()
    second.deliver()
    first.apply("a", "1Gi")
    first.deliver()
    first.apply("b", "1Gi")
    second.deliver()
    await asyncio.gather(first.loop.settle(), second.loop.settle())
    first.apply("c", "1Gi")
    for _ in range(6):
        first.now += timedelta(seconds=10)
        await first.running()
    assert sorted(decided(first)) == ["a", "b", "runs"], "nobody is given more of what is exceeded"
    status = first.cluster.peek(resources.GPU_QUOTAS, "q", "ns")["status"]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"InForce": "True", "Exceeded": "True"}
    assert (status["reserved"], status["waiting"]) == ({"memory": "10Gi", "agents": 3}, {"memory": "1Gi", "agents": 1})


SETTINGS = LeaseSettings(duration_seconds=3, renew_deadline_seconds=2, retry_seconds=0.02)


def a_lease(cluster: FakeCluster, identity: str) -> Lease:
    return Lease(cluster, "aios-system", "aios-operator", identity, "aios-operator", lambda: datetime.now(UTC), SETTINGS)


async def test_a_follower_decides_nothing_until_it_is_its_turn_and_then_reads_everything_first():
    world = batch()
    leader, follower = a_lease(world.cluster, "one"), a_lease(world.cluster, "two")
    await leader.acquire()
    health = Health(60, 300, lambda: world.loop.last_turn)
    audit = Audit(world.cluster, world.store, 300, 2)
    tasks = [asyncio.create_task(lead(follower, audit, world.loop, health)), asyncio.create_task(keep(follower))]
    await asyncio.sleep(0.1)
    of_agents = [call for call in world.cluster.writes() if call.resource != resources.LEASES]
    assert (of_agents, health.leading, health.sick()) == ([], False, None)
    world.cluster.remove(resources.AGENTS, "a-7", "ns")  # no watch tells the follower of anything here
    world.cluster.calls.clear()
    await leader.release()
    async with asyncio.timeout(60):
        while len(world.cluster.all(resources.AGENT_RUNTIMES)) < BATCH - 1:
            await asyncio.sleep(0.02)
    calls = [call for call in world.cluster.calls if call.resource != resources.LEASES]
    lists = {table.resource.plural for table in world.store.tables}
    assert {call.resource.plural for call in calls[: len(lists)] if call.verb == "list"} == lists
    assert "a-7" not in {call.name for call in calls}
    assert len(world.cluster.all(resources.AGENT_RUNTIMES)) == BATCH - 1
    assert health.leading
    await world.loop.stop(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert follower.held is False


async def test_what_is_under_way_ends_before_the_process_does():
    world = batch()
    world.deliver()
    world.loop.turn()
    assert world.loop._busy
    await world.loop.stop(60)
    assert not world.loop._busy
    await asyncio.wait_for(world.loop.run(), 60)

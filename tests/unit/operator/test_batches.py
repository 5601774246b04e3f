"""Claims of a batch before its pods: who waits for whom, and for how long at most."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest

from aios_kube import resources
from aios_kube.errors import Unreachable
from aios_kube.fake import Call
from aios_operator import loop
from aios_operator.batches import PATIENCE, Batches
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import Key
from aios_operator.observe.dirty import Dirty
from unit.operator.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = (Key("ns", name) for name in "abc")


def batch(*keys: Key) -> Batches:
    batches = Batches()
    assert batches.begin(keys, NOW) == set()
    return batches


def test_pods_wait_until_the_last_claim_is_written():
    batches = batch(A, B, C)
    assert batches.holds(A, NOW)
    assert batches.leave(A) == set()
    assert batches.holds(B, NOW)
    assert batches.leave(B) == set()
    assert not batches.holds(C, NOW), "the last one need not wait for its own"
    assert batches.leave(C) == {A, B}
    assert not batches.holds(A, NOW)
    assert len(batches) == 0


def test_a_lone_agent_waits_for_nobody():
    assert not batch(A).holds(A, NOW)
    assert len(batch(A)) == 0


def test_nobody_waits_for_longer_than_patience():
    batches = batch(A, B)
    assert batches.holds(A, NOW)
    assert batches.expired(NOW) == set()
    assert batches.until == NOW + PATIENCE
    assert not batches.holds(B, NOW + PATIENCE)
    assert batches.expired(NOW + PATIENCE) == {A}
    assert batches.until is None


def test_who_is_placed_anew_is_waited_for_only_there():
    batches = batch(A, B)
    assert batches.holds(A, NOW)
    assert batches.begin([B, C], NOW) == set()
    assert batches.leave(A) == {A}, "of its batch nobody else is left to wait for"
    assert batches.holds(B, NOW)
    assert batches.leave(B) == set()
    assert batches.leave(C) == {B}


def test_the_dirty_are_planned_in_the_order_in_which_they_came():
    now = [0.0]
    dirty = Dirty[str](lambda: now[0])
    for name in ("b", "a", "b", "c"):
        dirty.add(name)
        now[0] += 1
    assert list(dirty) == ["b", "a", "c"]
    assert [dirty.seconds(name) for name in dirty] == [4.0, 3.0, 1.0]
    dirty.discard("b")
    dirty |= {"b"}
    assert list(dirty) == ["a", "c", "b"]
    assert (dirty - {"a"}, dirty & {"a", "x"}, dirty | {"x"}) == ({"b", "c"}, {"a"}, {"a", "b", "c", "x"})


def created(world: World, *kinds: str) -> list[str]:
    return [call.resource.kind for call in world.cluster.writes() if call.verb == "create" and call.resource.kind in kinds]


def apply(world: World, names: Iterable[str]) -> list[Key]:
    return [world.apply(name, "1Gi") for name in names]


async def test_the_claims_of_a_batch_are_written_before_its_pods():
    world = World()
    world.node()
    apply(world, map(str, range(10)))
    await world.settled()
    assert created(world, "ResourceClaim", "Pod") == ["ResourceClaim"] * 10 + ["Pod"] * 10


async def test_a_claim_that_can_not_be_written_holds_up_no_other_pod():
    world = World()
    world.node()
    apply(world, "ab")

    def refused(call: Call) -> Unreachable | None:
        ours = (call.verb, call.resource, call.name) == ("create", resources.RESOURCE_CLAIMS, "a-1")
        return Unreachable("cut") if ours else None

    world.cluster.refuse.append(refused)
    await world.settled()
    assert [pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)] == ["b-1"]
    world.cluster.refuse.clear()
    await world.settled(forward_seconds=5)
    assert [pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)] == ["a-1", "b-1"]


async def test_a_claim_that_hangs_holds_up_other_pods_for_two_seconds_only():
    world = World()
    world.node()
    apply(world, "ab")
    hangs, create = asyncio.Event(), world.cluster.create

    async def slow(resource, body, **more):
        if body["metadata"]["name"] == "a-1" and resource is resources.RESOURCE_CLAIMS:
            await hangs.wait()
        return await create(resource, body, **more)

    world.cluster.create = slow  # type: ignore[method-assign]
    world.deliver()

    async def turns() -> list[str]:
        for _ in range(50):
            world.loop.turn()
            await asyncio.sleep(0)
        return [pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)]

    assert await turns() == []
    assert len(world.cluster.all(resources.RESOURCE_CLAIMS)) == 1
    world.now += PATIENCE
    assert await turns() == ["b-1"]
    hangs.set()
    await world.settled()
    assert len(world.cluster.all(resources.PODS)) == 2


async def test_a_cycle_gives_out_no_more_places_than_a_batch_has_and_the_most_urgent_come_first():
    world = World(batch_agents=3)
    world.node()
    for number in range(7):
        world.apply(f"a{number}", "1Gi", priority=number)
    await world.settled()
    orders = [call.name for call in world.cluster.writes() if (call.verb, call.resource.kind) == ("create", "AgentRuntime")]
    assert [set(orders[0:3]), set(orders[3:6]), set(orders[6:])] == [{"a6", "a5", "a4"}, {"a3", "a2", "a1"}, {"a0"}]
    kinds = created(world, "ResourceClaim", "Pod")
    assert kinds == ["ResourceClaim"] * 3 + kinds[3:]
    assert len(world.cluster.all(resources.PODS)) == 7


async def test_no_more_is_planned_than_can_be_written_at_once_and_what_waits_is_planned_from_the_newest_picture():
    world = World(concurrent_writes=2)
    world.node()
    keys = apply(world, "abcdef")
    world.deliver()
    world.loop.turn()
    assert set(world.loop._busy) == {"ns", keys[0]}, "the namespace's policy, and who came first"
    assert list(world.store.dirty) == keys[1:]
    for key in keys[2:]:
        world.cluster.alter(resources.AGENTS, key.name, {"spec": {"operatingMode": "Stopped"}}, key.namespace)
    await world.running()
    assert sorted(pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)) == ["a-1", "b-1"]


async def test_who_has_changed_and_is_not_planned_yet_is_given_no_place():
    world = World()
    world.node(gpu="80Gi")
    key = world.apply("a", "100Gi")
    await world.settled()
    world.loop.settings = dataclasses.replace(world.loop.settings, concurrent_writes=0)  # everybody else is being written
    world.apply("a", "100Gi", operatingMode="Stopped")
    world.node(gpu="120Gi")
    world.deliver()
    for _ in range(5):
        world.loop.turn()
        await asyncio.sleep(0)
    assert world.cluster.all(resources.AGENT_RUNTIMES) == []
    world.loop.settings = world.settings
    await world.settled()
    assert world.condition(key, "Placed") == ("False", "Stopped")


async def test_who_was_booked_and_is_not_planned_yet_is_not_counted_twice():
    world = World()
    world.node(gpu="70Gi")
    world.apply("a", "40Gi")
    await world.settled()
    world.apply("b", "40Gi")
    await world.settled()
    world.schedule()
    world.node(gpu="80Gi")
    world.deliver()
    world.loop.settings = dataclasses.replace(world.loop.settings, concurrent_writes=0)
    for _ in range(5):
        world.loop.turn()
        await asyncio.sleep(0)
    assert [order["metadata"]["name"] for order in world.cluster.all(resources.AGENT_RUNTIMES)] == ["a", "b"]


async def test_an_order_whose_answer_was_lost_is_given_to_nobody_else():
    """The write took place, its answer did not come, and the watch has not brought it yet."""
    world = World()
    world.node(gpu="80Gi")
    world.cluster.put(resources.GPU_QUOTAS, {"metadata": {"namespace": "ns", "name": "q"}, "spec": {"memory": {"nominal": "40Gi"}}})
    world.apply("a", "40Gi", priority=5)
    world.apply("b", "40Gi")
    lost: list[Call] = []

    def lose(call: Call) -> Exception | None:
        if not lost and (call.verb, call.resource, call.name) == ("create", resources.AGENT_RUNTIMES, "a"):
            lost.append(call)
            return Unreachable("the connection was cut")
        return None

    world.cluster.lose.append(lose)
    world.deliver()
    await turns(world)
    assert lost
    world.store.cluster_dirty = True
    await turns(world)
    assert [order["metadata"]["name"] for order in world.cluster.all(resources.AGENT_RUNTIMES)] == ["a"]


async def test_whether_an_order_without_an_answer_stands_is_asked_before_its_place_is_anybodys():
    """The watch is still behind when the back-off ends, and somebody who goes before has come meanwhile."""
    world = World()
    world.node(gpu="80Gi")
    world.cluster.put(resources.GPU_QUOTAS, {"metadata": {"namespace": "ns", "name": "q"}, "spec": {"memory": {"nominal": "40Gi"}}})
    world.apply("a", "40Gi")
    unheard = [True]

    def lose(call: Call) -> Exception | None:
        order = call.verb in ("create", "get") and call.resource is resources.AGENT_RUNTIMES
        return Unreachable("the connection was cut") if unheard[0] and order else None

    world.cluster.lose.append(lose)
    world.deliver()
    await turns(world)
    world.apply("b", "40Gi", priority=9)
    for again in range(4):
        unheard[0] = again < 2
        world.now += timedelta(seconds=70)
        for raw in world.cluster.all(resources.AGENTS):
            world.store.agents.upsert(raw)
        await turns(world)
    assert [order["metadata"]["name"] for order in world.cluster.all(resources.AGENT_RUNTIMES)] == ["a"]
    await world.settled()
    assert world.cluster.peek(resources.PODS, "a-1", "ns") is not None


@pytest.mark.usefixtures("errors_expected")
async def test_an_agent_that_can_not_be_planned_any_more_stops_no_other(monkeypatch: pytest.MonkeyPatch):
    world = World()
    world.node(gpu="80Gi")
    a = world.apply("a", "40Gi")
    await world.settled()
    for planned in (loop.plan_agent, loop.standing_order):

        def odd(state: AgentState, now: datetime, real: Callable[[AgentState, datetime], object] = planned) -> object:
            if state.key == a:
                raise ValueError("odd")
            return real(state, now)

        monkeypatch.setattr(loop, planned.__name__, odd)
    world.apply("a", "41Gi")
    world.apply("b", "10Gi")
    world.deliver()
    await turns(world)
    assert any(order["metadata"]["name"] == "b" for order in world.cluster.all(resources.AGENT_RUNTIMES))


async def turns(world: World) -> None:
    for _ in range(60):
        world.loop.turn()
        await asyncio.sleep(0)

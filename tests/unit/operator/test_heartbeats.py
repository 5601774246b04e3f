"""What is heard of nodes: silence is time between reads by our own clock, and what can't be read is no silence."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from aios_api import names
from aios_kube import resources
from aios_kube.errors import ApiError, Unreachable
from aios_kube.fake import FakeCluster
from aios_operator.decide.views import Key, NodeSight, NodeView, Requests
from aios_operator.observe.heartbeats import READS_AT_REST, READS_IN_TROUBLE, Heard, Heartbeats
from unit.operator.world import World

A = Key("ns", "a")
NAMESPACE = "aios-system"


def a_node(ready: bool = True) -> NodeView:
    return NodeView("n1", "u", "1", ready, False, (), {}, Requests())


def seconds(sight: NodeSight | None) -> float:
    assert sight is not None
    return sight.silent.total_seconds()


def heard() -> Heard:
    return Heard(mute_seconds=60, lost_seconds=90)


def test_before_anything_was_read_nothing_is_known():
    assert heard().sight("n1", a_node()) is None
    assert heard().stood(A, 1) is None


def test_silence_is_from_the_end_of_the_read_that_first_showed_a_renewal_to_the_beginning_of_the_last_one_that_still_does():
    known = heard()
    known.take(0, 3, {"n1": "7"}, {}, set())
    assert seconds(known.sight("n1", a_node())) == 0
    known.take(50, 58, {"n1": "7"}, {}, set())
    assert seconds(known.sight("n1", a_node())) == 47
    known.take(60, 61, {"n1": "8"}, {}, set())
    assert seconds(known.sight("n1", a_node())) == 0


def test_between_reads_nobody_grows_more_silent():
    known = heard()
    known.take(0, 0, {"n1": "7"}, {}, set())
    known.take(20, 20, {"n1": "7"}, {}, set())
    assert seconds(known.sight("n1", a_node())) == seconds(known.sight("n1", a_node())) == 20


def test_a_node_without_a_lease_is_silent_only_since_something_is_against_it():
    known = heard()
    known.take(0, 0, {}, {}, set())
    known.take(100, 100, {}, {}, set())
    assert seconds(known.sight("n1", a_node())) == 0
    known.take(110, 111, {}, {}, {"n1"})
    known.take(141, 141, {}, {}, {"n1"})
    sight = known.sight("n1", a_node(ready=False))
    assert (seconds(sight), sight and sight.has_lease) == (30, False)
    known.take(150, 150, {}, {}, set())
    assert seconds(known.sight("n1", a_node())) == 0


def test_a_lease_that_is_removed_is_silence_from_then_on_and_not_from_its_last_renewal():
    known = heard()
    known.take(0, 0, {"n1": "7"}, {}, {"n1"})
    known.take(80, 80, {}, {}, {"n1"})
    assert seconds(known.sight("n1", None)) == 0
    known.take(100, 100, {}, {}, {"n1"})
    assert seconds(known.sight("n1", None)) == 20


def test_an_order_stands_from_the_first_read_that_began_after_it_was_known():
    known = heard()
    known.take(0, 0, {}, {}, set())
    assert known.stood(A, 1) is None
    known.take(10, 12, {}, {A: 1}, set())
    assert known.stood(A, 1) == timedelta(0)
    known.take(30, 30, {}, {A: 1}, set())
    assert known.stood(A, 1) == timedelta(seconds=20)
    assert known.stood(A, 2) is None, "the next attempt is another order"
    known.take(40, 40, {}, {A: 2}, set())
    assert known.stood(A, 2) == timedelta(0)


def renewed(cluster: FakeCluster, node: str, at: str) -> None:
    metadata = {
        "namespace": NAMESPACE,
        "name": names.node_lease_name(node),
        "labels": {names.LABEL_COMPONENT: names.COMPONENT_NODE_AGENT},
    }
    if cluster.peek(resources.LEASES, metadata["name"], NAMESPACE):
        cluster.alter(resources.LEASES, str(metadata["name"]), {"spec": {"renewTime": at}}, NAMESPACE)
    else:
        cluster.put(resources.LEASES, {"metadata": metadata, "spec": {"holderIdentity": node, "renewTime": at}})


class Listening:
    """An operator in memory that hears nodes; `after` lets time pass and reads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seconds = 0.0
        world.store.heard = heard()
        self.heartbeats = Heartbeats(world.cluster, world.store, NAMESPACE, world.store.heard, clock_seconds=lambda: self.seconds)

    async def after(self, seconds: float) -> None:
        self.seconds += seconds
        await self.world.settled(seconds)
        await self.heartbeats.read()
        await self.world.settled()


async def running() -> tuple[World, Listening]:
    """Agent `a` on n1, which is heard; n2 is free."""
    world = World(lease_namespace=NAMESPACE)
    world.node("n1")
    world.apply("a", "10Gi")
    renewed(world.cluster, "n1", "then")
    listening = Listening(world)
    await listening.after(0)
    await world.running()
    world.node("n2")
    return world, listening


def ready(world: World, word: str) -> None:
    world.cluster.alter(resources.NODES, "n1", {"status": {"conditions": [{"type": "Ready", "status": word}]}})


async def test_the_pod_of_a_lost_node_is_removed_at_once_and_the_next_attempt_runs_elsewhere():
    world, listening = await running()
    ready(world, "Unknown")
    for _ in range(8):
        await listening.after(11)
    assert world.condition(A, "Placed")[0] == "True"
    assert world.cluster.peek(resources.PODS, "a-2", "ns") is None
    await listening.after(11)
    await listening.after(5)
    assert world.cluster.peek(resources.PODS, "a-1", "ns") is None
    forced = [call for call in world.cluster.writes() if call.verb == "delete" and call.resource is resources.PODS]
    assert [call.body["grace_seconds"] for call in forced if isinstance(call.body, dict)] == [0]
    world.cluster.alter(resources.NODES, "n1", {"status": {"conditions": []}})
    await world.running()
    order: Any = world.cluster.peek(resources.AGENT_RUNTIMES, "a", "ns")
    assert (order["spec"]["attempt"], order["spec"]["nodeName"]) == (2, "n2")
    assert world.condition(A, "Ready")[0] == "True"


async def test_what_went_while_no_operator_ran_is_waited_for_until_its_node_was_heard_twice():
    world, _ = await running()
    world.cluster.remove(resources.PODS, "a-1", "ns")  # by force, unseen; its node is cut off since a moment
    world.cluster.alter(resources.NODES, "n1", {"spec": {"unschedulable": True}})
    world.operator()
    listening = Listening(world)
    world.deliver()
    await listening.heartbeats.read()
    world.store.suspect()
    for _ in range(4):
        await listening.after(10)
        assert world.cluster.peek(resources.PODS, "a-2", "ns") is None
    for word in ("again", "and again"):
        assert world.cluster.peek(resources.PODS, "a-2", "ns") is None
        renewed(world.cluster, "n1", word)
        await listening.after(1)
    await world.running()
    assert world.condition(A, "Ready")[0] == "True"
    assert world.cluster.peek(resources.PODS, "a-2", "ns") is not None


async def test_renewals_by_the_label_of_node_agents_in_our_namespace_are_what_is_heard():
    world, listening = await running()
    world.cluster.calls.clear()
    await listening.heartbeats.read()
    [call] = [each for each in world.cluster.calls if each.verb == "list"]
    assert call.resource is resources.LEASES
    assert call.namespace == NAMESPACE


async def test_a_read_that_fails_gives_nobody_up_and_is_said_once(caplog: pytest.LogCaptureFixture):
    world, listening = await running()
    ready(world, "Unknown")
    await world.settled()
    listening.heartbeats.heard.mute_seconds = 0.01
    broken = [True]

    def refuse(call: Any) -> ApiError | None:
        return Unreachable("no route") if broken[0] and call.resource is resources.LEASES else None

    world.cluster.refuse.append(refuse)
    task = asyncio.create_task(listening.heartbeats.run())
    try:
        listening.seconds += 1000
        async with asyncio.timeout(60):
            while "can't be read" not in caplog.text:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        await world.settled()
        assert world.cluster.peek(resources.PODS, "a-1", "ns") is not None
        assert [record.message for record in caplog.records if "can't be read" in record.message] == [
            "the Leases of node agents can't be read, so that no node is given up meanwhile: no route"
        ]
        broken[0] = False
        async with asyncio.timeout(60):
            while world.condition(A, "Ready")[1] not in ("WaitingForMute", "WaitingForScheduler", "WaitingForRelease"):
                await asyncio.sleep(0.01)
                await world.settled()
    finally:
        task.cancel()


async def test_reads_are_frequent_only_while_a_node_with_agents_is_silent():
    world, listening = await running()
    renewed(world.cluster, "removed", "long ago")
    for _ in range(4):
        renewed(world.cluster, "n1", f"at {listening.seconds}")
        await listening.after(15)
    assert listening.heartbeats.heard.noteworthy() == {"removed"}
    assert listening.heartbeats.reads() == READS_AT_REST
    for _ in range(3):
        await listening.after(15)
    assert listening.heartbeats.reads() == READS_IN_TROUBLE


async def test_the_lease_of_a_node_that_is_gone_goes_an_hour_later_and_no_other_does():
    world, listening = await running()
    renewed(world.cluster, "n2", "long ago")  # there is a Node of that name
    renewed(world.cluster, "removed", "long ago")
    renewed(world.cluster, "left", "long ago")

    def leases() -> set[str]:
        return {each["metadata"]["name"] for each in world.cluster.all(resources.LEASES)}

    before = leases()
    for step in range(12):
        renewed(world.cluster, "n1", f"at {step}")
        renewed(world.cluster, "left", f"at {min(step, 3)}")
        await listening.after(300)
    assert leases() == before
    refused = [True]
    world.cluster.refuse.append(lambda call: Unreachable("no route") if call.verb == "delete" and refused.pop() else None)
    refused += [True, False, False]
    await listening.after(301)
    await listening.after(1)
    assert leases() == before - {names.node_lease_name("removed")}


async def test_who_listens_plans_the_agents_of_a_node_in_trouble_and_no_others():
    world, listening = await running()
    world.apply("b", "10Gi")
    await world.running()
    await listening.after(15)
    world.store.dirty.clear()
    renewed(world.cluster, "n1", "now")
    await listening.heartbeats.read()
    assert world.store.dirty == set(), "at rest nobody is planned for a renewal"
    ready(world, "False")
    world.deliver()
    on_n1 = {key for key in world.store.keys() if world.store.runtimes.views[key].node_name == "n1"}  # noqa: SIM118 - not a dict
    assert world.store.dirty == on_n1
    world.store.dirty.clear()
    await listening.heartbeats.read()
    assert world.store.dirty == on_n1

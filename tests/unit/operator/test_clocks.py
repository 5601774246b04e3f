"""Clocks are set while the operator works, and those of others say another time: nothing waits for longer, or less, than it would."""

from datetime import datetime, timedelta

import pytest

from aios_kube import resources
from aios_kube.errors import ApiError, Unreachable
from aios_kube.fake import Call
from unit.decide.world import Object, agent
from unit.decide.world import World as Planned
from unit.operator.world import World

HOUR = timedelta(hours=1)
BOTH_WAYS = pytest.mark.parametrize("by", [timedelta(0), -HOUR, HOUR, -24 * HOUR])


@BOTH_WAYS
async def test_a_write_that_failed_is_made_again_after_its_back_off_although_the_clock_was_set(by: timedelta):
    world = World()
    world.node()
    failing = [True]

    def fails(call: Call) -> ApiError | None:
        return Unreachable("cut") if failing[0] and call.verb == "create" else None

    world.cluster.refuse.append(fails)
    world.apply("a", "4Gi")
    await world.settled()
    failing[0] = False
    world.clock_set = by
    await world.settled(forward_seconds=5)
    assert [pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)] == ["a-1"]


@BOTH_WAYS
async def test_who_waits_for_a_place_gets_it_although_the_clock_was_set_while_changes_were_collected(by: timedelta):
    world = World()
    world.node()
    world.apply("a", "4Gi")
    world.deliver()
    for _ in range(3):
        world.loop.turn()
    world.clock_set = by
    await world.settled()
    assert len(world.cluster.all(resources.PODS)) == 1


@BOTH_WAYS
async def test_a_quota_says_what_is_held_a_second_later_although_the_clock_was_set(by: timedelta):
    world = World()
    world.node()
    world.cluster.put(resources.GPU_QUOTAS, {"metadata": {"namespace": "ns", "name": "q"}, "spec": {"memory": {"nominal": "40Gi"}}})
    world.apply("a", "4Gi")
    await world.running()
    world.clock_set = by
    world.apply("b", "8Gi")
    await world.running()
    await world.settled(forward_seconds=2)
    quota = world.cluster.peek(resources.GPU_QUOTAS, "q", "ns")
    assert quota is not None
    assert quota["status"]["used"]["memory"] == "12Gi"


@BOTH_WAYS
async def test_at_rest_a_clock_that_was_set_writes_nothing(by: timedelta):
    world = World()
    world.node()
    world.apply("a", "4Gi", activeDeadlineSeconds=2 * 24 * 3600)
    await world.running()
    mark = world.mark
    world.clock_set = by
    await world.settled()
    written = [call for call in world.writes_since(mark) if not call.subresource]
    assert written == []


def failing(**spec: object) -> Planned:
    """An Agent whose container fails as soon as it runs."""
    world = Planned().node("n1", {"GPU-a": "80Gi"})
    world.exits["a"] = {"exitCode": 3, "reason": "Error"}
    return world.apply(agent("a", "16Gi", **spec)).settle()


@BOTH_WAYS
def test_the_back_off_of_an_agent_is_as_long_as_it_is_although_the_clock_was_set(by: timedelta):
    world = failing()
    assert world.condition("a", "Placed") == ("False", "BackOff")
    world.exits.clear()
    world.now += by
    assert world.settle().wait(10).ready("a")


def test_a_deadline_is_counted_from_now_when_its_beginning_lies_in_the_future():
    world = Planned().node("n1", {"GPU-a": "80Gi"}).apply(agent("a", "16Gi", activeDeadlineSeconds=60)).settle()
    world.now -= HOUR
    assert world.settle().wait(59).ready("a")
    assert world.wait(2).condition("a", "Ready") == ("False", "DeadlineExceeded")


class Skewed(Planned):
    """kube-scheduler's clock is ahead of ours."""

    by = timedelta(0)

    def _schedule(self, pod: Object) -> None:
        self.now += self.by
        super()._schedule(pod)
        self.now -= self.by


@BOTH_WAYS
def test_a_place_that_kube_scheduler_refuses_is_left_alone_for_a_while_whatever_its_clock_says(by: timedelta):
    world = Skewed()
    world.by = by
    world.node("n1", {"GPU-a": "80Gi"}).scheduler_refuses.add("n1")
    world.apply(agent("a", "16Gi"))
    for _ in range(60):
        world.now += timedelta(seconds=1)
        world.rounds(2)
    assert 2 <= world.get("AgentRuntime", "a")["spec"]["attempt"] <= 4, "neither no other attempt, nor one after another without a pause"


def test_who_was_left_out_of_a_node_comes_back_although_the_clock_was_set_back():
    world = Planned().node("n1", {"GPU-a": "80Gi"})
    world.scheduler_refuses.add("n1")
    world.apply(agent("a", "16Gi")).settle()
    world.wait(6)
    assert world.exclusions
    world.scheduler_refuses.clear()
    world.now -= HOUR
    assert world.settle().wait(10).ready("a")


def test_a_time_is_never_written_in_the_future():
    world = failing()
    world.now -= HOUR
    world.settle()
    assert datetime.fromisoformat(world.status("a")["lastFailure"]["time"]) <= world.now

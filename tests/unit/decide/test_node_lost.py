"""A node that is lost, by each of its three definitions: when it counts as lost, and when the next attempt may begin."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from aios_operator.decide import effects as do
from unit.decide.world import World, agent

MUTE, LOST = 60, 90
"""Seconds without a word: the gateway answers nobody; the node is given up."""


def two_nodes() -> World:
    return World().node("n1", {"GPU-a": "80Gi"}).node("n2", {"GPU-b": "80Gi"})


def running() -> World:
    world = two_nodes().apply(agent("a", "60Gi")).settle()
    assert world.status("a")["nodeName"] == "n1"
    return world


def removed_at_once(world: World) -> list[str]:
    return [w.name for w in world.written if isinstance(w, do.DeletePod) and w.at_once]


def moved(world: World) -> bool:
    return world.ready("a") and world.status("a")["nodeName"] == "n2"


def test_a_node_that_is_not_ready_and_silent_for_long_enough_is_lost_and_its_agents_start_elsewhere():
    world = running().lose_contact("n1").settle()
    world.wait(50).say_ready("n1", "Unknown").wait(LOST - 50 - 1)
    assert world.status("a")["attempt"] == 1
    assert world.condition("a", "Placed") == ("True", "Scheduled")
    world.wait(1)
    assert moved(world)
    status = world.status("a")
    assert status["attempt"] == 2
    assert status["lastFailure"]["reason"] == "NodeLost"
    assert status["lastFailure"]["message"] == "node n1 is not ready, and its node agent was not heard for 90 s"
    assert "failedAttempts" not in status
    assert "leaving" not in status
    assert removed_at_once(world) == ["a-1"]
    assert world.names("Pod") == world.names("ResourceClaim") == ["a-2"]
    assert [e.note for e in world.events if e.reason == "NodeLost" and e.warning] == [status["lastFailure"]["message"]]


def test_a_node_that_is_ready_is_not_lost_however_long_its_agent_is_silent_but_it_is_mute():
    world = running().lose_contact("n1").settle().wait(MUTE - 1)
    assert world.ready("a")
    world.wait(1)
    assert world.condition("a", "Ready") == ("False", "NodeSilent")
    world.wait(10_000)
    assert world.status("a")["attempt"] == 1
    world.regain_contact("n1").settle()
    assert world.ready("a")


def test_a_node_that_is_not_ready_but_heard_is_not_lost():
    world = running().say_ready("n1", "False").wait(10_000)
    assert (world.status("a")["attempt"], world.names("Pod")) == (1, ["a-1"])


def test_a_node_that_comes_back_in_time_keeps_its_agents():
    world = running().lose_contact("n1").settle().wait(50).say_ready("n1", "Unknown").wait(LOST - 51)
    world.regain_contact("n1").wait(10_000)
    assert world.ready("a")
    assert world.status("a")["attempt"] == 1


def test_where_there_is_no_lease_silence_is_counted_from_when_the_node_was_not_ready():
    world = running()
    world.without_lease.add("n1")
    world._renewed.pop("n1")
    world.lose_contact("n1").wait(10_000)
    assert world.ready("a")
    world.say_ready("n1", "Unknown").settle().wait(LOST - 1)
    assert world.status("a")["attempt"] == 1
    assert moved(world.wait(1))


@pytest.mark.parametrize(
    "gone", [lambda w: w.delete("Node", "n1"), lambda w: w.take_out_of_service("n1")], ids=["deleted", "out of service"]
)
@pytest.mark.parametrize("pod_gc_sleeps", [True, False])
def test_a_node_that_is_deleted_or_out_of_service_is_lost_at_once_and_the_next_attempt_waits_until_it_must_be_mute(
    gone: Callable[[World], World], pod_gc_sleeps: bool
):
    world = running()
    world.pod_gc_sleeps = pod_gc_sleeps
    gone(world.lose_contact("n1")).settle()
    status = world.status("a")
    assert status["lastFailure"]["reason"] == "NodeLost"
    assert (status["attempt"], status["nodeName"], status["leaving"]) == (2, "n2", {"nodeName": "n1", "attempt": 1})
    assert world.condition("a", "Ready") == ("False", "WaitingForMute")
    assert "attempt 1 may still speak from node n1, which" in world.message("a", "Ready")
    assert world.condition("a", "Placed") == ("True", "Placed"), "the place is kept meanwhile"
    world.wait(LOST - 1)
    assert "a-2" not in world.names("Pod")
    world.wait(1)
    assert moved(world)
    assert "leaving" not in world.status("a")
    assert world.names("Pod") == world.names("ResourceClaim") == ["a-2"]


def test_silence_before_the_node_was_deleted_counts():
    world = running().lose_contact("n1").settle().wait(80)
    world.delete("Node", "n1").settle()
    assert world.names("Pod") != ["a-2"]
    assert moved(world.wait(10))


def test_a_deleted_node_that_is_heard_all_the_same_is_waited_for_until_it_must_know_the_next_order():
    world = running()
    world.hear()
    world.delete("Node", "n1")
    for second in range(0, LOST, 5):
        world._renewed["n1"] = f"renewed at {second}"
        world.settle()
        assert "a-2" not in world.names("Pod"), f"after {second} s"
        world.now += timedelta(seconds=5)
    world._renewed["n1"] = "renewed at last"
    assert moved(world.settle())


def test_nobody_is_given_up_while_nothing_is_heard():
    """Leases that can't be read are no silence, and neither is an operator that has just begun to listen."""
    world = running().lose_contact("n1").settle().wait(80).say_ready("n1", "Unknown").settle()
    world.forget().settle().wait(LOST - 1)
    assert world.status("a")["attempt"] == 1
    assert moved(world.wait(1))


def test_what_is_left_of_the_wait_after_the_operator_was_restarted_begins_anew():
    world = running().lose_contact("n1")
    world.delete("Node", "n1").wait(80)
    world.forget().settle().wait(LOST - 1)
    assert world.condition("a", "Ready") == ("False", "WaitingForMute")
    assert moved(world.wait(1))


def test_a_pod_removed_by_force_from_a_node_that_was_not_heard_lately_may_run_on():
    world = running().lose_contact("n1").settle().wait(MUTE / 2)
    del world.objects["Pod", "team", "a-1"]
    world.settle()
    assert world.status("a")["lastFailure"]["reason"] == "PodVanished"
    assert (world.status("a")["nodeName"], world.status("a")["leaving"]) == ("n1", {"nodeName": "n1", "attempt": 1})
    world.scheduler_sleeps = True
    world.patch("a", gpu={"memory": "70Gi"}, template=elsewhere(world)).settle()
    assert world.condition("a", "Ready") == ("False", "WaitingForMute")
    world.wait(LOST - MUTE / 2 - 1)
    assert "a-3" not in world.names("Pod")
    world.scheduler_sleeps = False
    assert moved(world.say_ready("n1", "Unknown").wait(1))


def elsewhere(world: World) -> object:
    template = world.get("Agent", "a")["spec"]["template"]
    return {"spec": {**template["spec"], "nodeSelector": {"kubernetes.io/hostname": "n2"}}}


def test_what_was_removed_by_force_where_nobody_is_in_touch_is_waited_for_though_the_node_is_still_ready():
    world = running().lose_contact("n1").settle().wait(10)
    world.patch("a", template=elsewhere(world)).settle()
    del world.objects["Pod", "team", "a-1"]
    world.settle()
    assert world.status("a")["leaving"] == {"nodeName": "n1", "attempt": 1}
    assert world.condition("a", "Ready") == ("False", "WaitingForMute")
    world.forget().wait(MUTE)
    assert world.names("Pod") == [], "also by an operator that has not seen it"
    world.wait(LOST)
    assert world.names("Pod") == ["a-2"]


def test_what_was_removed_by_force_where_the_node_is_heard_is_waited_for_no_longer_than_until_then():
    world = running()
    world.patch("a", template=elsewhere(world))
    del world.objects["Pod", "team", "a-1"]
    world.settle()
    assert world.ready("a")
    assert world.status("a")["nodeName"] == "n2"
    assert "leaving" not in world.status("a")


def test_on_the_same_node_the_next_attempt_waits_for_nobody_and_what_may_run_there_is_remembered_until_the_node_speaks():
    world = running().lose_contact("n1").settle().wait(MUTE / 2)
    del world.objects["Pod", "team", "a-1"]
    world.settle()
    assert world.status("a")["podName"] == "a-2"
    assert world.condition("a", "Ready") == ("False", "WaitingForNode")
    assert "leaving" in world.status("a")
    world.regain_contact("n1").settle()
    assert world.ready("a")
    assert "leaving" not in world.status("a")


def test_a_pod_deleted_by_hand_on_a_node_in_touch_waits_for_nobody():
    world = running().delete("Pod", "a-1").settle()
    assert world.ready("a")
    assert "leaving" not in world.status("a")


def test_an_edit_on_a_node_that_is_not_ready_is_not_run_beside_the_old_pod():
    world = running().lose_contact("n1").settle().wait(50).say_ready("n1", "Unknown").settle()
    world.patch("a", gpu={"memory": "50Gi"}).settle()
    assert world.condition("a", "Ready") == ("False", "WaitingForMute")
    del world.objects["Pod", "team", "a-1"]
    world.wait(LOST - 50 - 1)
    assert world.names("Pod") == []
    assert moved(world.wait(1))


def test_a_node_that_comes_back_while_the_next_attempt_waits_ends_the_old_pod_itself():
    world = running().lose_contact("n1").settle().wait(50).say_ready("n1", "Unknown").settle()
    world.patch("a", gpu={"memory": "50Gi"}).settle().wait(10)
    world.regain_contact("n1").settle()
    assert "a-1" not in world.names("Pod")
    assert removed_at_once(world) == []
    world.wait(LOST - 10)
    assert world.ready("a")
    assert "leaving" not in world.status("a")


@pytest.mark.parametrize(
    "end", [lambda w: w.delete("Agent", "a"), lambda w: w.patch("a", operatingMode="Stopped")], ids=["deleted", "stopped"]
)
def test_who_is_stopped_or_deleted_on_a_lost_node_is_let_go_when_it_must_be_mute(end: Callable[[World], World]):
    world = end(running().lose_contact("n1").say_ready("n1", "Unknown").settle()).settle()
    assert world.names("Pod") == ["a-1"]
    world.wait(LOST)
    assert world.names("Pod") == world.names("ResourceClaim") == []
    assert removed_at_once(world) == ["a-1"]


def test_stopped_on_a_lost_node_and_running_again_is_still_one_voice():
    world = running().lose_contact("n1").say_ready("n1", "Unknown").settle()
    world.patch("a", operatingMode="Stopped").settle()
    del world.objects["Pod", "team", "a-1"]
    world.patch("a", operatingMode="Running").settle()
    assert world.condition("a", "Ready") == ("False", "WaitingForMute")
    assert moved(world.wait(LOST))


def test_stopped_and_removed_by_force_while_no_operator_looked_is_still_one_voice():
    world = running().lose_contact("n1").say_ready("n1", "Unknown")
    world.patch("a", operatingMode="Stopped")
    del world.objects["Pod", "team", "a-1"]
    world.settle().patch("a", operatingMode="Running").settle()
    assert world.condition("a", "Ready") == ("False", "WaitingForMute")
    assert moved(world.wait(LOST))


def test_an_agent_of_the_same_name_is_another_identity_and_waits_only_for_the_name():
    world = running()
    for attempt in (1, 2, 3):
        world.delete("Pod", f"a-{attempt}").settle().wait(40)
    world.lose_contact("n1").say_ready("n1", "Unknown").settle()
    del world.objects["Agent", "team", "a"]
    world.apply(agent("a", "50Gi")).settle().wait(LOST)
    assert moved(world)
    assert world.status("a")["attempt"] == 1


def test_who_had_ended_before_its_node_was_lost_holds_nobody_up():
    world = two_nodes()
    world.exits["a"] = {"exitCode": 0, "reason": "Completed"}
    world.apply(agent("a", "60Gi", restartPolicy="Never")).settle()
    world.lose_contact("n1").delete("Node", "n1").settle()
    assert world.condition("a", "Completed") == ("True", "Completed")
    del world.exits["a"]
    world.patch("a", gpu={"memory": "50Gi"}).settle()
    assert moved(world)


def test_without_another_place_the_agent_waits_with_its_quota_and_says_what_is_against_the_node():
    world = World().node("n1", {"GPU-a": "80Gi"}).apply(agent("a", "60Gi")).settle()
    world.lose_contact("n1").settle().say_ready("n1", "Unknown").wait(LOST)
    assert world.condition("a", "Placed") == ("False", "NoNodeFits")
    assert world.condition("a", "QuotaReserved")[0] == "True"
    assert "bring node n1 back to Ready" in world.status("a")["pending"]["smallestChange"]
    world.regain_contact("n1").settle()
    assert world.ready("a"), "the same node knows that the attempt before is over when it hears of the next"


def test_an_order_whose_pod_is_not_bound_yet_is_kube_schedulers_to_refuse():
    world = two_nodes()
    world.scheduler_sleeps = True
    world.apply(agent("a", "60Gi")).settle()
    world.lose_contact("n1").delete("Node", "n1")
    world.scheduler_sleeps = False
    world.settle().wait(5)
    assert moved(world)
    assert world.status("a")["lastFailure"]["reason"] == "SchedulerRefused"


def test_at_rest_nothing_is_written_while_a_node_is_lost():
    world = running().lose_contact("n1").delete("Node", "n1").settle()
    assert world.operate() == 0
    world.wait(LOST)
    assert world.operate() == 0

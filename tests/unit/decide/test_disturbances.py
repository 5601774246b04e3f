"""What others do to an Agent's objects: people, kube-scheduler, the kubelet that takes slices away."""

from aios_operator.decide import effects as do
from unit.decide.world import World, agent


def one_gpu() -> World:
    return World().node("n1", {"GPU-a": "80Gi"})


def two_nodes() -> World:
    return one_gpu().node("n2", {"GPU-b": "80Gi"})


def test_a_pod_deleted_by_hand_is_followed_by_the_next_attempt():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.delete("Pod", "a-1").settle()
    assert world.ready("a")
    assert world.status("a")["attempt"] == 2
    assert world.status("a")["lastFailure"]["reason"] == "PodVanished"
    assert world.names("ResourceClaim") == ["a-2"]


def test_something_that_deletes_every_pod_does_not_make_a_loop_without_a_pause():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.delete("Pod", "a-1").settle()
    for attempt, pause in ((2, 10), (3, 20), (4, 40)):
        world.delete("Pod", f"a-{attempt}").settle()
        assert world.condition("a", "Placed") == ("False", "BackOff")
        world.wait(pause - 1)
        assert world.names("Pod") == []
        world.wait(1)
        assert world.ready("a")
    world.wait(600)
    assert "failedAttempts" not in world.status("a")


def test_a_claim_deleted_by_hand_disturbs_no_running_pod():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.delete("ResourceClaim", "a-1").settle()
    assert world.ready("a")
    assert world.names("Pod") == ["a-1"]


def test_a_claim_that_is_gone_before_the_pod_was_bound_is_followed_by_the_next_attempt():
    world = one_gpu()
    world.scheduler_sleeps = True
    world.apply(agent("a", "60Gi")).settle()
    world.delete("ResourceClaim", "a-1").settle()
    world.scheduler_sleeps = False
    world.settle()
    assert world.ready("a")
    assert world.status("a")["lastFailure"]["reason"] == "ClaimVanished"
    assert world.names("Pod") == world.names("ResourceClaim") == ["a-2"]


def test_an_order_deleted_by_hand_is_followed_by_the_next_attempt():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.delete("AgentRuntime", "a").settle()
    assert world.ready("a")
    assert world.names("Pod") == world.names("ResourceClaim") == ["a-2"]


def test_vanished_slices_disturb_nobody_and_only_stop_new_placement():
    world = one_gpu().apply(agent("a", "16Gi")).settle()
    before = len(world.written)
    (sliced,) = world.all("ResourceSlice")
    world.delete("ResourceSlice", "n1-slice").settle()
    assert world.ready("a")
    assert len(world.written) == before
    assert world.apply(agent("b", "16Gi")).settle().condition("b", "Placed") == ("False", "NoNodes")
    world.put(sliced)
    assert world.settle().ready("b")
    assert world.booked() == {"gpu-gpu-a": 32 * 1024}


def test_a_place_that_kube_scheduler_refuses_is_left_out_for_a_while():
    world = two_nodes().apply(agent("pin", "40Gi")).settle()
    first = world.status("pin")["nodeName"]
    world.scheduler_refuses.add(first)
    world.apply(agent("a", "16Gi")).settle()
    assert world.condition("a", "Ready") == ("False", "WaitingForScheduler")
    world.wait(5)
    assert world.ready("a")
    assert (world.status("a")["attempt"], world.status("a")["nodeName"] == first) == (2, False)
    assert world.status("a")["lastFailure"]["reason"] == "SchedulerRefused"
    assert "failedAttempts" not in world.status("a")


def test_the_only_node_is_tried_again_when_its_time_is_over():
    world = one_gpu()
    world.scheduler_refuses.add("n1")
    world.apply(agent("a", "16Gi")).settle().wait(5)
    assert world.names("Pod") == []
    assert "kube-scheduler" in world.status("a")["pending"]["message"]
    world.scheduler_refuses.clear()
    world.wait(30)
    assert not world.ready("a")
    world.wait(30)
    assert world.ready("a")
    assert world.status("a")["attempt"] == 2


def test_a_kubelet_that_looked_too_early_is_asked_to_look_again():
    world = one_gpu()
    world.unprepared.add("a")
    world.apply(agent("a", "16Gi")).settle().wait(4)
    assert nudges(world) == 0
    world.wait(1)
    assert nudges(world) == 1
    assert world.ready("a")
    world.wait(60)
    assert nudges(world) == 1


def test_where_no_node_agent_ever_comes_the_kubelet_is_left_to_itself():
    world = one_gpu()
    world.unprepared.add("a")
    world.nudges_help = False
    world.apply(agent("a", "16Gi")).settle()
    for _ in range(300):
        world.wait(1)
    assert nudges(world) == 8, "after 5 s, then every 15 s, for two minutes"
    assert world.condition("a", "Ready") == ("False", "WaitingForNode")


def nudges(world: World) -> int:
    return sum(isinstance(effect, do.NudgePod) for effect in world.written)

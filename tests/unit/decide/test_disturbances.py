"""What others do to an Agent's objects: people, kube-scheduler, the kubelet that takes slices away."""

import pytest

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


def test_the_only_node_is_tried_again_soon_since_kube_scheduler_may_have_looked_too_early():
    world = one_gpu()
    world.scheduler_refuses.add("n1")
    world.apply(agent("a", "16Gi")).settle().wait(5)
    assert world.names("Pod") == []
    assert "kube-scheduler" in world.status("a")["pending"]["message"]
    world.scheduler_refuses.clear()
    world.wait(3)
    assert world.ready("a")
    assert world.status("a")["attempt"] == 2


def test_the_only_node_is_left_alone_for_a_minute_when_it_was_refused_twice_in_a_row():
    world = one_gpu()
    world.scheduler_refuses.add("n1")
    world.apply(agent("a", "16Gi")).settle().wait(5).wait(3).wait(5)
    assert world.status("a")["lastFailure"]["attempt"] == 2
    assert world.names("Pod") == []
    world.scheduler_refuses.clear()
    world.wait(30)
    assert not world.ready("a")
    world.wait(30)
    assert world.ready("a")
    assert world.status("a")["attempt"] == 3


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
    for seconds, nudged in ((4, 0), (1, 1), (7, 3), (13, 3), (1, 4), (300, 10)):
        for _ in range(seconds):
            world.wait(1)
        assert nudges(world) == nudged, "after 5 s, twice soon after that, then every 15 s, for two minutes"
    assert world.condition("a", "Ready") == ("False", "WaitingForNode")


def test_a_kubelet_that_lost_the_containers_of_a_pod_is_asked_to_look_again_until_it_has_begun_anew():
    """A node has rebooted, and its kubelet came back before our driver did."""
    world = one_gpu().apply(agent("a", "16Gi")).settle().wait(3600)
    world.unprepared.add("a")
    world.nudges_help = False
    gone = {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": world.now.isoformat()}
    world.get("Pod", "a-1")["status"]["conditions"].append(gone)
    world.settle()
    for seconds, nudged in ((4, 0), (1, 1), (7, 3)):
        for _ in range(seconds):
            world.wait(1)
        assert nudges(world) == nudged
    world.nudges_help = True
    world.wait(15)
    assert nudges(world) == 4
    assert world.wait(60).ready("a")
    assert nudges(world) == 4
    assert world.status("a")["attempt"] == 1


def nudges(world: World) -> int:
    return sum(isinstance(effect, do.NudgePod) for effect in world.written)


def disrupted(world: World, reason: str) -> World:
    """Somebody in the cluster takes the pod of `a` away, and says why in its conditions."""
    pod = world.get("Pod", "a-1")
    pod["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "as it is"})
    return world.delete("Pod", "a-1")


def cordon(world: World, name: str) -> World:
    node = world.get("Node", name)
    node["spec"] = {"unschedulable": True, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}
    return world


def test_a_cordoned_node_keeps_who_is_there_and_takes_nobody_new():
    world = two_nodes().apply(agent("a", "60Gi")).settle()
    first = world.status("a")["nodeName"]
    cordon(world, first).apply(agent("b", "10Gi")).settle()
    assert world.ready("a")
    assert world.status("a")["attempt"] == 1
    assert world.ready("b")
    assert world.status("b")["nodeName"] != first


def test_a_drained_node_gives_its_agents_to_another_and_the_status_says_that_it_was_drained():
    world = two_nodes().apply(agent("a", "60Gi")).settle()
    first = world.status("a")["nodeName"]
    disrupted(cordon(world, first), "EvictionByEvictionAPI").settle()
    assert world.ready("a")
    assert world.status("a")["nodeName"] != first
    assert world.status("a")["lastFailure"]["reason"] == "Displaced"
    assert "evicted through the API, as a drain of its node does" in world.status("a")["lastFailure"]["message"]


def test_on_the_only_node_a_drained_agent_waits_and_is_told_to_uncordon():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    disrupted(cordon(world, "n1"), "EvictionByEvictionAPI").settle()
    assert world.condition("a", "Placed") == ("False", "NoNodeFits")
    assert world.status("a")["pending"]["smallestChange"] == "kubectl uncordon n1"
    world.get("Node", "n1")["spec"] = {}
    assert world.settle().ready("a")


def test_whoever_takes_the_pod_away_is_named():
    for reason, said in (
        ("DeletionByTaintManager", "a taint that it does not tolerate"),
        ("PreemptionByScheduler", "higher priority"),
        ("SomethingNew", "SomethingNew: as it is"),
    ):
        world = disrupted(one_gpu().apply(agent("a", "60Gi")).settle(), reason).settle()
        assert world.status("a")["lastFailure"]["reason"] == "Displaced"
        assert said in world.status("a")["lastFailure"]["message"]
        assert world.ready("a")


def test_something_that_evicts_every_pod_does_not_make_a_loop_without_a_pause():
    world = disrupted(one_gpu().apply(agent("a", "60Gi")).settle(), "EvictionByEvictionAPI").settle()
    assert world.status("a")["attempt"] == 2
    world.delete("Pod", "a-2").settle()
    assert world.condition("a", "Placed") == ("False", "BackOff")


@pytest.mark.parametrize("policy", ["Always", "OnFailure", "Never"])
def test_an_agent_whose_node_is_shut_down_did_not_fail(policy: str):
    """The kubelet kills the containers and leaves the pod as failed; an exit code other than 0 is then not the agent's word."""
    world = one_gpu().apply(agent("a", "60Gi", restartPolicy=policy)).settle()
    status = world.get("Pod", "a-1")["status"]
    status |= {"phase": "Failed", "reason": "Terminated", "message": "Pod was terminated in response to imminent node shutdown."}
    status["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "shutdown"})
    status["containerStatuses"] = [{"name": "main", "state": {"terminated": {"exitCode": 143, "reason": "Error"}}}]
    world.settle()
    assert world.ready("a")
    assert world.status("a")["lastFailure"]["reason"] == "Displaced"
    assert world.status("a")["attempt"] == 2


def test_the_kubelets_own_eviction_is_charged_to_the_agent():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    status = world.get("Pod", "a-1")["status"]
    status |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    status["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "low"})
    world.settle()
    assert world.condition("a", "Placed") == ("False", "BackOff")
    assert (world.status("a")["lastFailure"]["reason"], world.status("a")["failedAttempts"]) == ("Evicted", 1)
    assert "low on resource: memory" in world.status("a")["lastFailure"]["message"]


def test_a_foreign_claim_that_takes_the_place_first_sends_the_attempt_elsewhere():
    world = two_nodes()
    world.scheduler_sleeps = True
    world.apply(agent("a", "60Gi")).settle()
    chosen = world.get("AgentRuntime", "a")["spec"]
    device = {"driver": "gpu.aios.dev", "pool": chosen["nodeName"], "device": f"gpu-{chosen['gpu']['uuid'].lower()}"}
    world.put({"kind": "Pod", "metadata": {"namespace": "team", "name": "theirs", "uid": "x", "labels": {}}, "spec": {}, "status": {}})
    results = [{"request": "x", **device, "consumedCapacity": {"memory": "40Gi"}}]
    status = {"allocation": {"devices": {"results": results}}, "reservedFor": [{"uid": "x"}]}
    world.put({"kind": "ResourceClaim", "metadata": {"namespace": "team", "name": "theirs", "labels": {}}, "spec": {}, "status": status})
    world.scheduler_sleeps = False
    world.settle().wait(5)
    assert world.ready("a")
    assert world.status("a")["lastFailure"]["reason"] == "SchedulerRefused"
    assert world.status("a")["gpu"]["uuid"] != chosen["gpu"]["uuid"]

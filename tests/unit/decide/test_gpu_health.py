"""A GPU that its node, or somebody else, publishes as unhealthy: who may stay, who goes elsewhere, and what is said."""

import pytest

from aios_operator.decide import effects as do
from unit.decide.world import World, agent, gpu_quota

TAINTED_PODS = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByDeviceTaintManager", "message": "device is tainted"}


def two_nodes() -> World:
    return World().node("n1", {"GPU-a": "80Gi"}).node("n2", {"GPU-b": "80Gi"})


def running() -> World:
    world = two_nodes().apply(agent("a", "60Gi")).settle()
    assert world.status("a")["gpu"]["uuid"] == "GPU-a"
    return world


def test_agents_on_a_gpu_that_lets_nobody_stay_get_the_next_attempt_elsewhere():
    world = running().taint_gpu("GPU-a").settle()
    assert world.ready("a")
    status = world.status("a")
    assert (status["attempt"], status["gpu"]["uuid"]) == (2, "GPU-b")
    assert status["lastFailure"]["reason"] == "GPUUnhealthy"
    assert status["lastFailure"]["message"] == "GPU GPU-a on n1 is unhealthy: xid79"
    assert "failedAttempts" not in status, "it is not the Agent's fault"
    assert [e.note for e in world.events if e.reason == "GPUUnhealthy" and e.warning] == ["GPU GPU-a on n1 is unhealthy: xid79"]
    assert world.names("Pod") == world.names("ResourceClaim") == ["a-2"]


def test_never_two_attempts_while_the_pod_on_the_bad_gpu_still_ends():
    world = running()
    world.kubelet_sleeps = True
    world.taint_gpu("GPU-a").settle()
    assert world.names("Pod") == ["a-1"]
    assert world.condition("a", "Ready") == ("False", "WaitingForRelease")
    world.kubelet_sleeps = False
    assert world.settle().ready("a")


def test_the_quota_is_held_between_and_nobody_else_gets_it():
    world = two_nodes().apply(gpu_quota(memory="70Gi"), agent("a", "60Gi")).settle()
    world.apply(agent("b", "30Gi", priority=9)).settle()
    world.taint_gpu("GPU-a").taint_gpu("GPU-b").settle()
    assert world.condition("a", "Placed") == ("False", "GPUUnhealthy")
    assert world.condition("a", "QuotaReserved")[0] == "True"
    assert world.condition("b", "QuotaReserved") == ("False", "QuotaExhausted")
    pending = world.status("a")["pending"]
    assert "GPU-a on n1 is unhealthy: xid79; GPU-b on n2 is unhealthy: xid79" in pending["message"]
    for sliced in world.all("ResourceSlice"):
        for device in sliced["spec"]["devices"]:
            device.pop("taints", None)
    assert world.settle().ready("a")


def test_a_gpu_that_only_takes_nobody_new_keeps_who_is_there_and_says_so():
    world = running().taint_gpu("GPU-a", "xid63", "NoSchedule").settle()
    assert world.ready("a")
    assert world.status("a")["attempt"] == 1
    assert world.condition("a", "GPUHealthy") == ("False", "GPUUnhealthy")
    assert "GPU GPU-a is unhealthy: xid63; it takes nobody new" in world.message("a", "GPUHealthy")
    assert world.apply(agent("b", "10Gi")).settle().status("b")["gpu"]["uuid"] == "GPU-b"
    world.delete("Pod", "a-1").settle()
    assert world.status("a")["gpu"]["uuid"] == "GPU-b", "the next attempt is somebody new"
    assert world.condition("a", "GPUHealthy") == ("", "")


def test_an_order_that_is_not_bound_yet_does_not_wait_for_kube_scheduler_to_refuse_it():
    world = two_nodes()
    world.scheduler_sleeps = True
    world.apply(agent("a", "60Gi")).settle().taint_gpu("GPU-a", effect="NoSchedule")
    world.scheduler_sleeps = False
    world.settle()
    assert world.ready("a")
    assert world.status("a")["lastFailure"]["reason"] == "GPUUnhealthy"
    assert world.status("a")["gpu"]["uuid"] == "GPU-b"


@pytest.mark.parametrize("taint_is_seen_first", [True, False])
def test_kubernetes_own_eviction_for_a_tainted_device_is_told_the_same(taint_is_seen_first: bool):
    world = running()
    world.kubelet_sleeps = True
    if taint_is_seen_first:
        world.taint_gpu("GPU-a")
    world.get("Pod", "a-1")["status"]["conditions"].append(TAINTED_PODS)
    world.delete("Pod", "a-1").settle()
    world.taint_gpu("GPU-a")
    world.kubelet_sleeps = False
    world.settle()
    assert world.ready("a")
    assert world.status("a")["lastFailure"]["reason"] == "GPUUnhealthy"
    assert world.status("a")["gpu"]["uuid"] == "GPU-b"
    assert world.status("a")["attempt"] == (2 if taint_is_seen_first else 3), "before the taint is seen the same GPU may be tried again"
    assert "failedAttempts" not in world.status("a")


def test_a_slice_that_vanishes_and_comes_back_disturbs_nobody_whether_its_gpu_was_well_or_not():
    world = running().taint_gpu("GPU-a", effect="NoSchedule").settle()
    sliced = world.get("ResourceSlice", "n1-slice")
    world.delete("ResourceSlice", "n1-slice").settle()
    assert world.ready("a")
    world.put(sliced)
    assert world.settle().ready("a")
    assert world.status("a")["attempt"] == 1


def test_who_completed_on_a_gpu_that_then_becomes_unhealthy_is_not_run_again():
    world = two_nodes().apply(agent("a", "60Gi", restartPolicy="OnFailure")).settle()
    world.exits["a"] = {"exitCode": 0, "reason": "Completed"}
    world.others()
    world.taint_gpu("GPU-a").settle()
    assert world.condition("a", "Completed") == ("True", "Completed")
    assert world.wait(1000).status("a")["attempt"] == 1


def test_who_failed_as_its_gpu_did_is_tried_again_whatever_its_restart_policy():
    world = two_nodes().apply(agent("a", "60Gi", restartPolicy="Never")).settle()
    world.exits["a"] = {"exitCode": 1, "reason": "Error"}
    world.others()
    world.exits.clear()
    world.taint_gpu("GPU-a").settle()
    assert world.ready("a")
    assert world.status("a")["lastFailure"]["reason"] == "GPUUnhealthy"


def test_agents_without_a_gpu_stay_on_the_node_of_a_bad_one():
    world = World().node("n1", {"GPU-a": "80Gi"}).apply(agent("plain"), agent("a", "10Gi")).settle()
    world.written.clear()
    world.taint_gpu("GPU-a").settle()
    assert world.ready("plain")
    assert {w.key.name for w in world.written if isinstance(w, do.DeletePod)} == {"a"}

"""The life of an Agent, event by event, as the architecture's table has it."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from aios_api.names import FINALIZER
from aios_operator.decide import effects as do
from unit.decide.world import World, agent

EXIT_3 = {"exitCode": 3, "reason": "Error"}
EXIT_0 = {"exitCode": 0, "reason": "Completed"}


def one_gpu() -> World:
    return World().node("n1", {"GPU-a": "80Gi"})


def two_nodes() -> World:
    return World().node("n1", {"GPU-a": "80Gi"}).node("n2", {"GPU-b": "80Gi"})


def writes(world: World) -> list[str]:
    return [type(write).__name__ for write in world.written]


def test_an_applied_agent_becomes_ready_with_a_booked_share():
    world = one_gpu().apply(agent("a", "16Gi")).settle()
    assert world.ready("a")
    status = world.status("a")
    assert (status["attempt"], status["nodeName"], status["podName"]) == (1, "n1", "a-1")
    assert status["gpu"]["memory"] == "16Gi"
    assert "pending" not in status
    assert world.condition("a", "Placed") == ("True", "Scheduled")
    assert world.condition("a", "Prepared") == ("True", "Prepared")
    assert world.condition("a", "Reconciling") == ("", "")
    assert world.booked() == {"gpu-gpu-a": 16 * 1024}


def test_the_order_of_a_start_is_finalizer_order_status_claim_pod():
    world = one_gpu().apply(agent("a", "16Gi")).settle()
    first = [w for w in dict.fromkeys(writes(world)) if w != "ApplyPolicy"]
    assert first == ["AddFinalizer", "ApplyRuntime", "WriteStatus", "CreateClaim", "CreatePod"]


def test_at_rest_a_sweep_writes_nothing_even_after_the_operator_was_restarted():
    world = one_gpu().apply(agent("a", "16Gi"), agent("b"), agent("giant", "200Gi"), agent("off", operatingMode="Stopped")).settle()
    world.apply(agent("job", restartPolicy="Never"))
    world.exits["job"] = EXIT_3
    world.settle()
    for _ in range(3):
        assert world.operate() == 0
    assert world.forget().operate() == 0
    assert world.operate() == 0


def test_two_agents_share_the_gpu_that_they_fill_most():
    world = two_nodes().apply(agent("a", "24Gi"), agent("b", "16Gi")).settle()
    assert world.ready("a")
    assert world.ready("b")
    assert world.status("a")["gpu"]["uuid"] == world.status("b")["gpu"]["uuid"]


def test_an_agent_without_a_gpu_holds_a_slot_and_leaves_gpu_nodes_to_others():
    world = one_gpu().node("plain").apply(agent("a")).settle()
    assert world.ready("a")
    assert world.status("a")["nodeName"] == "plain"
    assert "gpu" not in world.status("a")
    assert [r["name"] for r in world.get("ResourceClaim", "a-1")["spec"]["devices"]["requests"]] == ["runtime"]


def test_an_agent_larger_than_any_gpu_waits_says_why_and_starts_when_the_named_change_is_made():
    world = one_gpu().apply(agent("a", "200Gi")).settle()
    pending = world.status("a")["pending"]
    assert pending["reason"] == "LargerThanAnyGPU"
    assert "200Gi" in pending["message"]
    assert "80Gi" in pending["smallestChange"]
    assert world.condition("a", "Placed") == ("False", "LargerThanAnyGPU")
    assert world.names("Pod") == []
    world.patch("a", gpu={"memory": "80Gi"}).settle()
    assert world.ready("a")
    assert "pending" not in world.status("a")


def test_an_agent_larger_than_any_gpu_starts_when_a_larger_gpu_comes():
    world = one_gpu().apply(agent("a", "120Gi")).settle()
    world.node("n2", {"GPU-b": "141Gi"}).settle()
    assert world.ready("a")
    assert world.status("a")["nodeName"] == "n2"


def test_who_waits_starts_oldest_first_when_a_place_is_free():
    world = one_gpu().apply(agent("first", "80Gi")).settle()
    world.wait(1).apply(agent("zz-second", "60Gi")).wait(1).apply(agent("aa-third", "60Gi")).settle()
    since = world.status("zz-second")["pending"]["since"]
    world.wait(100)
    assert world.status("zz-second")["pending"]["since"] == since
    world.delete("Agent", "first").settle()
    assert world.ready("zz-second")
    assert world.condition("aa-third", "Placed") == ("False", "NoGPUFits")


def test_an_edit_replaces_the_pod_and_there_are_never_two():
    world = one_gpu().apply(agent("a", "70Gi")).settle()
    world.patch("a", gpu={"memory": "72Gi"})
    for _ in range(30):
        world.operate()
        assert len(world.names("Pod")) <= 1
        world.others()
    world.settle()
    assert world.ready("a")
    assert world.names("Pod") == ["a-2"]
    assert world.names("ResourceClaim") == ["a-2"]
    assert world.status("a")["gpu"]["memory"] == "72Gi", "its own share counts as free"


def test_an_edit_that_fits_nowhere_leaves_the_old_pod_running_and_says_so():
    world = one_gpu().apply(agent("a", "40Gi"), agent("b", "30Gi")).settle()
    world.patch("a", gpu={"memory": "60Gi"}).settle()
    assert world.names("Pod") == ["a-1", "b-1"]
    pending = world.status("a")["pending"]
    assert pending["reason"] == "NoGPUFits"
    assert "50Gi" in pending["smallestChange"]
    assert world.status("a")["podName"] == "a-1"
    assert world.ready("a")
    assert world.condition("a", "Reconciling") == ("True", "NoGPUFits")
    spoken_of = {c["type"]: c["observedGeneration"] for c in world.status("a")["conditions"]}
    assert (spoken_of["Ready"], spoken_of["Accepted"]) == (1, 2), "who waits for Ready of the new spec waits on"
    world.delete("Agent", "b").settle()
    assert world.ready("a")
    assert world.names("Pod") == ["a-2"]


def test_an_edit_of_what_has_no_pod_yet_does_not_make_the_old_pod():
    world = one_gpu().apply(agent("a", "40Gi"))
    while not world.names("AgentRuntime"):
        world.operate()
    world.patch("a", gpu={"memory": "200Gi"}).settle()
    assert world.names("Pod") == []
    assert world.names("ResourceClaim") == []
    assert world.condition("a", "Placed") == ("False", "LargerThanAnyGPU")
    world.apply(agent("b", "80Gi")).settle()
    assert world.ready("b"), "the order that can't be carried out holds nothing"


def test_stopped_releases_everything_and_running_is_the_next_attempt():
    world = one_gpu().apply(agent("a", "40Gi")).settle()
    world.patch("a", operatingMode="Stopped").settle()
    assert world.names("Pod") == world.names("ResourceClaim") == []
    assert world.condition("a", "Ready") == ("False", "Stopped")
    assert "gpu" not in world.status("a")
    assert world.apply(agent("b", "80Gi")).settle().ready("b")
    world.delete("Agent", "b").settle()
    world.patch("a", operatingMode="Running").settle()
    assert world.ready("a")
    assert world.names("Pod") == ["a-2"]


@pytest.mark.parametrize("policy", ["OnFailure", "Never"])
def test_an_agent_that_ends_well_is_completed_its_share_is_free_and_its_log_stays(policy: str):
    world = one_gpu()
    world.exits["job"] = EXIT_0
    world.apply(agent("job", "80Gi", restartPolicy=policy)).settle()
    assert world.condition("job", "Completed") == ("True", "Completed")
    assert world.condition("job", "Ready") == ("False", "Completed")
    assert world.names("ResourceClaim") == []
    assert world.names("Pod") == ["job-1"]
    assert world.apply(agent("next", "80Gi")).settle().ready("next")
    assert world.wait(3600).status("job")["attempt"] == 1


def test_what_is_completed_runs_again_when_its_spec_changes_or_when_it_was_stopped():
    world = one_gpu()
    world.exits["job"] = EXIT_0
    world.apply(agent("job", "8Gi", restartPolicy="Never")).settle()
    del world.exits["job"]
    world.patch("job", gpu={"memory": "9Gi"}).settle()
    assert world.ready("job")
    world.exits["job"] = EXIT_0
    world.settle()
    del world.exits["job"]
    world.patch("job", operatingMode="Stopped").settle()
    assert world.condition("job", "Completed") == ("False", "NotCompleted")
    assert world.names("Pod") == []
    world.patch("job", operatingMode="Running").settle()
    assert world.ready("job")
    assert world.status("job")["attempt"] == 3


def test_an_agent_that_may_not_restart_and_fails_says_so_and_stays_down():
    world = one_gpu()
    world.exits["job"] = EXIT_3
    world.apply(agent("job", "8Gi", restartPolicy="Never")).settle()
    assert world.condition("job", "Completed") == ("True", "Failed")
    assert "3" in world.message("job", "Completed")
    assert world.condition("job", "Stalled") == ("True", "Failed")
    assert world.names("ResourceClaim") == []
    assert world.wait(3600).status("job")["attempt"] == 1


def test_failures_are_followed_by_attempts_with_a_growing_back_off_that_is_forgiven():
    world = one_gpu()
    world.exits["a"] = EXIT_3
    world.apply(agent("a", "8Gi", restartPolicy="OnFailure")).settle()
    waited = []
    for expected in (1, 2, 3, 4, 5, 6, 7):
        status = world.status("a")
        assert (status["attempt"], status["failedAttempts"], status["lastFailure"]["attempt"]) == (expected,) * 3
        assert world.condition("a", "Ready") == ("False", "BackOff")
        assert world.booked() == {}
        seconds = 0
        while world.status("a")["attempt"] == expected:
            world.wait(5)
            seconds += 5
        waited.append(seconds)
    assert waited == [10, 20, 40, 80, 160, 300, 300]
    del world.exits["a"]
    world.wait(300)
    assert world.ready("a")
    assert world.status("a")["failedAttempts"] == 8
    world.wait(599)
    assert world.status("a")["failedAttempts"] == 8
    world.wait(1)
    assert "failedAttempts" not in world.status("a")


def test_an_edit_ends_the_back_off():
    world = one_gpu()
    world.exits["a"] = EXIT_3
    world.apply(agent("a", "8Gi", restartPolicy="OnFailure")).settle().wait(10)
    assert world.status("a")["failedAttempts"] == 2
    del world.exits["a"]
    world.patch("a", gpu={"memory": "9Gi"}).settle()
    assert world.ready("a")
    assert "failedAttempts" not in world.status("a")


@pytest.mark.parametrize("policy", ["Always", "OnFailure", "Never"])
def test_a_start_that_the_node_refused_is_tried_again_and_not_charged(policy: str):
    world = one_gpu()
    world.exits["a"] = {"exitCode": 128, "reason": "StartError", "message": "hook refused: no fence"}
    world.apply(agent("a", "8Gi", restartPolicy=policy)).settle()
    assert world.status("a")["lastFailure"]["reason"] == "StartFailed"
    assert "no fence" in world.message("a", "Ready")
    assert "failedAttempts" not in world.status("a")
    del world.exits["a"]
    world.wait(10)
    assert world.ready("a")
    assert world.status("a")["attempt"] == 2


def test_the_last_words_of_a_container_are_told_by_their_end_however_long_they_are():
    world = one_gpu()
    world.exits["a"] = {"exitCode": 3, "reason": "Error", "message": "w" * 4000 + " the reason"}
    world.apply(agent("a", "16Gi", restartPolicy="Never")).settle()
    said = [each["message"] for each in world.get("Agent", "a")["status"]["conditions"]]
    assert max(map(len, said)) < 1500
    assert any("the reason" in each for each in said)
    assert len(json.dumps(world.get("Agent", "a"))) < 12_000


def test_an_image_that_does_not_exist_is_named_in_the_ready_condition():
    world = one_gpu()
    world.waits["a"] = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "localhost/no/such:1"'}
    world.apply(agent("a", "8Gi")).settle()
    assert world.condition("a", "Ready") == ("False", "ImagePull")
    assert "localhost/no/such:1" in world.message("a", "Ready")
    assert world.status("a")["attempt"] == 1


def test_a_template_that_the_api_server_refuses_is_not_accepted_and_holds_nothing():
    world = one_gpu()
    world.invalid["a"] = 'Pod "a-1" is invalid: spec.containers[0].image: Invalid value'
    world.apply(agent("a", "60Gi")).settle()
    assert world.condition("a", "Accepted") == ("False", "TemplateRefused")
    assert "spec.containers[0].image" in world.message("a", "Accepted")
    assert world.condition("a", "Stalled") == ("True", "TemplateRefused")
    assert world.names("ResourceClaim") == []
    assert world.apply(agent("b", "80Gi")).settle().ready("b")
    world.delete("Agent", "b").settle()
    assert world.forget().operate() == 0, "a restart does not try it again"
    world.invalid.clear()
    world.patch("a", gpu={"memory": "61Gi"}).settle()
    assert world.ready("a")
    assert world.condition("a", "Accepted") == ("True", "Accepted")


def test_a_spec_that_can_not_be_read_is_named_and_nothing_is_made():
    world = one_gpu().apply(agent("a", "a lot")).settle()
    assert world.condition("a", "Accepted") == ("False", "InvalidSpec")
    assert "a lot" in world.message("a", "Accepted")
    assert world.names("AgentRuntime") == []


def test_the_network_policy_is_kept_as_it_is_and_goes_with_the_last_agent():
    world = one_gpu().apply(agent("a"), agent("b")).settle()
    assert world.names("NetworkPolicy") == ["aios-agents"]
    world.get("NetworkPolicy", "aios-agents")["spec"]["egress"] = [{}]
    world.settle()
    assert not world.get("NetworkPolicy", "aios-agents")["spec"].get("egress"), "a way out that someone opened is closed"
    world.delete("Agent", "a").settle()
    assert world.names("NetworkPolicy") == ["aios-agents"]
    world.delete("Agent", "b").settle()
    assert world.names("NetworkPolicy") == []


def test_no_pod_is_made_before_the_network_policy_stands():
    world = one_gpu()
    world.policies_forbidden = True
    world.apply(agent("a")).rounds(10)
    assert world.names("AgentRuntime") == ["a"]
    assert world.names("Pod") == []
    world.policies_forbidden = False
    assert world.settle().ready("a")


@pytest.mark.parametrize("cycles", range(12))
def test_an_agent_deleted_in_each_stage_of_its_start_leaves_nothing(cycles: int):
    world = one_gpu().apply(agent("a", "60Gi"))
    world.rounds(cycles)
    world.delete("Agent", "a").settle()
    assert [kind for kind, _, _ in world.objects if kind not in ("Node", "ResourceSlice")] == []


def test_deletion_goes_from_pod_to_claim_to_order_to_agent():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.written.clear()
    world.delete("Agent", "a").settle()
    wanted = ["DeletePod", "DeleteClaim", "DeleteRuntime", "RemoveFinalizer", "DeletePolicy"]
    assert [w for w in writes(world) if w != "WriteStatus"] == wanted


@pytest.mark.parametrize("end", [lambda w: w.delete("Agent", "a"), lambda w: w.patch("a", operatingMode="Stopped")])
def test_a_claim_stays_until_the_pod_that_uses_it_is_gone(end: Callable[[World], World]):
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.kubelet_sleeps = True
    end(world).settle()
    assert "deletionTimestamp" in world.get("Pod", "a-1")["metadata"]
    assert "deletionTimestamp" not in world.get("ResourceClaim", "a-1")["metadata"]
    world.kubelet_sleeps = False
    world.settle()
    assert world.names("ResourceClaim") == []


def test_a_deletion_that_hangs_is_let_go_after_ten_minutes_with_an_event():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.kubelet_sleeps = True
    world.delete("Agent", "a").settle()
    world.wait(599)
    assert FINALIZER in world.get("Agent", "a")["metadata"]["finalizers"]
    world.wait(1)
    assert world.find("Agent", "a") is None
    assert any("pod a-1" in event.note and event.warning for event in world.events)


def test_an_agent_of_the_same_name_waits_for_what_the_former_left():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.kubelet_sleeps = True
    del world.objects["Agent", "team", "a"]  # its finalizer was removed by force
    world.apply(agent("a", "50Gi")).settle()
    assert world.names("Pod") == ["a-1"]
    world.kubelet_sleeps = False
    world.settle()
    assert world.ready("a")
    assert world.status("a")["gpu"]["memory"] == "50Gi"


def test_what_a_pod_of_the_kubelet_reports_does_not_count_for_another_attempt():
    world = one_gpu().apply(agent("a", "60Gi")).settle()
    world.get("AgentRuntime", "a")["status"]["claimUID"] = "another"
    world.operate()
    assert world.condition("a", "Ready") == ("False", "WaitingForNode")


def test_a_condition_keeps_its_time_while_its_status_does_not_change():
    world = one_gpu().apply(agent("a", "16Gi")).settle()
    times = {c["type"]: c["lastTransitionTime"] for c in world.status("a")["conditions"]}
    world.now += timedelta(hours=1)
    world.delete("Pod", "a-1").settle()
    after = {c["type"]: c["lastTransitionTime"] for c in world.status("a")["conditions"]}
    assert after["Accepted"] == times["Accepted"]
    assert after["Ready"] > times["Ready"]


def test_every_write_carries_the_uid_that_it_is_for():
    world = one_gpu().apply(agent("a", "16Gi")).settle()
    world.delete("Agent", "a").settle()
    for write in world.written:
        if isinstance(write, do.DeletePod | do.DeleteClaim | do.DeleteRuntime | do.WriteStatus | do.AddFinalizer | do.RemoveFinalizer):
            assert write.uid.startswith("uid-")

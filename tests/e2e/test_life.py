"""The life of an Agent on the real cluster: edited, stopped, completed, failed, deleted in every stage."""

import json
import subprocess
from contextlib import suppress

import pytest

from e2e.support import Space, eventually

CRASHES = """
import os, time
while not os.path.exists("/tmp/crash"):
    time.sleep(0.1)
raise SystemExit(1)
"""
"""Runs until it is told to crash, by a file that goes with its container. A signal could come before it is heeded."""


def test_an_edited_template_is_a_new_attempt_and_never_two_at_once(space: Space):
    space.apply(space.agent("a", memory="70Gi"))
    (before,) = space.ready("a")
    edited = space.agent("a", memory="72Gi")
    space.apply(edited)
    most = 0

    def replaced() -> bool:
        nonlocal most
        alive = [p for p in space.objects("pods", "aios.dev/agent=a") if p["status"]["phase"] == "Running"]
        most = max(most, len(alive))
        return any(p["metadata"]["name"] == "a-2" for p in alive)

    eventually(replaced, "the second attempt runs")
    (after,) = space.ready("a")
    assert most == 1
    assert (before["status"]["attempt"], after["status"]["attempt"]) == (1, 2)
    assert after["status"]["gpu"]["memory"] == "72Gi"
    assert space.get("pod", "a-1") is None


def test_stopped_releases_the_share_and_running_takes_it_again(space: Space):
    space.apply(space.agent("a", memory="40Gi"))
    space.ready("a")
    space.patch("a", {"operatingMode": "Stopped"})
    space.wait("a", "Ready", "False")
    eventually(lambda: not space.objects("pods") and not space.objects("resourceclaims"), "pod and claim are released")
    eventually(lambda: space.condition("a", "Ready")["reason"] == "Stopped", "that is said")
    space.patch("a", {"operatingMode": "Running"})
    (again,) = space.ready("a")
    assert again["status"]["attempt"] == 2


@pytest.mark.parametrize("policy", ["OnFailure", "Never"])
def test_an_agent_that_ends_well_is_completed_and_its_share_is_free(space: Space, policy: str):
    space.apply(space.agent("job", memory="8Gi", code="print('done')", restartPolicy=policy))
    space.wait("job", "Completed")
    eventually(lambda: not space.objects("resourceclaims"), "the claim is released")
    space.apply(space.agent("later", memory="8Gi"))
    space.ready("later")
    assert space.get("agent", "job")["status"]["attempt"] == 1, "what is completed is not started again"
    assert [each["metadata"]["name"] for each in space.objects("resourceclaims")] == ["later-1"]


def test_an_agent_that_may_not_restart_and_fails_says_so_and_stays_down(space: Space):
    space.apply(space.agent("job", code="raise SystemExit(3)", restartPolicy="Never"))
    space.wait("job", "Completed")
    condition = space.condition("job", "Completed")
    assert condition["reason"] == "Failed"
    assert "3" in condition["message"]


def test_after_its_deadline_an_agent_gives_its_share_back_and_a_later_one_lets_it_run_on(space: Space):
    space.apply(space.agent("a", memory="40Gi", activeDeadlineSeconds=3600))
    space.ready("a")
    space.patch("a", {"activeDeadlineSeconds": 5})  # counted from when its pod was bound
    space.wait("a", "DeadlineExceeded")
    eventually(lambda: not space.objects("pods") and not space.objects("resourceclaims"), "pod and claim are released")
    eventually(lambda: space.condition("a", "Ready")["reason"] == "DeadlineExceeded", "that is said")
    space.patch("a", {"activeDeadlineSeconds": 3600})
    (again,) = space.ready("a")
    assert again["status"]["attempt"] == 2


def test_a_crashing_container_is_restarted_in_the_same_pod_with_the_same_share(space: Space):
    space.apply(space.agent("a", memory="4Gi", code=CRASHES))
    (before,) = space.ready("a")
    with suppress(subprocess.CalledProcessError):  # what we run there may end with the container
        space.inside("a", "open('/tmp/crash', 'w')")
    pod = before["status"]["podName"]
    eventually(lambda: space.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"] == 1, "the kubelet restarted it")
    (after,) = space.ready("a")
    assert after["status"]["podName"] == pod
    assert after["status"]["gpu"]["uuid"] == before["status"]["gpu"]["uuid"]


def test_a_pod_deleted_by_hand_is_followed_by_the_next_attempt(space: Space):
    space.apply(space.agent("a", memory="4Gi"))
    space.ready("a")
    space.kubectl("delete", "pod", "a-1", "--wait=false")
    eventually(lambda: (space.get("agent", "a") or {})["status"].get("attempt") == 2, "the next attempt")
    space.ready("a")


@pytest.mark.parametrize("stage", ["applied", "ordered", "claimed", "scheduled", "prepared", "ready"])
def test_an_agent_deleted_in_each_stage_of_its_start_leaves_nothing(space: Space, stage: str):
    space.apply(space.agent("a", memory="4Gi"))
    reached = {
        "applied": lambda: space.get("agent", "a"),
        "ordered": lambda: space.get("agentruntime", "a"),
        "claimed": lambda: space.get("resourceclaim", "a-1"),
        "scheduled": lambda: ((space.get("pod", "a-1") or {}).get("spec") or {}).get("nodeName"),
        "prepared": lambda: space.condition("a", "Prepared", "agentruntime").get("status") == "True",
        "ready": lambda: space.condition("a", "Ready").get("status") == "True",
    }[stage]
    eventually(reached, stage, every_seconds=0.02)
    space.kubectl("delete", "agent", "a", "--timeout=60s")
    space.nothing_left()


def test_an_image_that_does_not_exist_is_said_by_name_and_nothing_is_lost(space: Space):
    space.apply(space.agent("a", memory="4Gi", image="localhost/no/such:image"))

    def told() -> bool:
        message = space.condition("a", "Ready").get("message", "")
        return "localhost/no/such:image" in message

    eventually(told, "the Ready condition names the image")
    space.apply(space.agent("a", memory="4Gi"))
    space.ready("a")


def test_an_agent_larger_than_any_gpu_waits_and_the_named_change_helps(space: Space):
    space.apply(space.agent("giant", memory="200Gi"))
    waiting = space.wait("giant", "Placed", "False")
    pending = waiting["status"]["pending"]
    assert "200Gi" in pending["message"]
    assert "80Gi" in pending["smallestChange"]
    assert space.objects("pods") == []
    space.patch("giant", {"gpu": {"memory": "80Gi"}})
    (placed,) = space.ready("giant")
    assert "pending" not in placed["status"]


def test_an_unknown_model_waits_and_says_which_there_are(space: Space):
    space.apply(space.agent("a", memory="4Gi", gpu={"models": ["NVIDIA Nothing 9000"]}))
    waiting = space.wait("a", "Placed", "False")
    assert "NVIDIA Nothing 9000" in waiting["status"]["pending"]["message"]
    assert "NVIDIA H100 80GB HBM3" in json.dumps(waiting["status"]["pending"])


def test_who_waits_starts_when_the_place_is_free(space: Space):
    space.apply(space.agent("first", memory="80Gi"))
    space.ready("first")
    space.apply(space.agent("second", memory="60Gi"))
    space.wait("second", "Placed", "False")
    space.kubectl("delete", "agent", "first", "--timeout=60s")
    space.ready("second")

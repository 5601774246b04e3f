"""The story of an Agent's life, on objects that a real cluster had."""

import io

import click
import pytest
from rich.console import Console

from aios_cli import telling
from aios_cli.explain import gather
from aios_cli.happenings import happenings
from aios_cli.story import Story
from aios_kube import resources
from aios_kube.fake import FakeCluster
from unit.cli.objects import NOW, RECORDED, look, quota, recorded, runtimes, steps, told


def text(life: Story, width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(telling.tell(life, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_ready_agent_has_every_step_behind_it_with_its_time():
    life = told("researcher")
    assert steps(life) == dict.fromkeys(
        ("applied", "accepted", "placed", "scheduled", "prepared", "fenced", "listening", "started", "ready"), "done"
    )
    times = [step.at for step in life.steps]
    assert None not in times
    assert life.standing.state.exit_code == 0
    placed = life.steps[2]
    assert placed.text == "attempt 1 on node-1, 24Gi of NVIDIA L40S GPU-00000000-0000-0000-0000-00000000000b"
    assert placed.at is not None
    assert placed.at.microsecond, "the event knows more than the condition's whole seconds"
    assert placed.details[0].startswith("best fit")
    assert placed.details[1] == "now 8Gi of its 48Gi are free; booked by quickstart/researcher 24Gi, quickstart/coder 16Gi"


def said(kind: str, status: str, message: str) -> dict[str, str]:
    time = "2026-11-23T05:49:00Z"
    return {"type": kind, "status": status, "reason": kind, "message": message, "lastTransitionTime": time}


def test_quota_and_enforcement_are_steps_where_the_operator_speaks_of_them():
    agent = recorded("agents", "researcher")
    agent["status"]["conditions"] += [said("QuotaReserved", "True", "holds 24Gi"), said("EnforcementVerified", "False", "cannot be read")]
    life = told("researcher", agent=agent)
    assert [step.name for step in life.steps][1:4] == ["accepted", "quota", "placed"]
    assert (life.steps[-1].name, life.steps[-1].mark, life.steps[-1].text) == ("enforced", "bad", "cannot be read")
    assert life.steps[-1].details == ()
    (runtime,) = [each for each in runtimes(researcher="12Gi") if each["metadata"]["name"] == "researcher"]
    assert told("researcher", agent=agent, runtime=runtime).steps[-1].details == ("it uses 12Gi of its 24Gi",)
    agent["status"]["conditions"] += [said("WithinShare", "False", "used 2Gi more than its 24Gi")]
    assert "used 2Gi more than its 24Gi" in told("researcher", agent=agent).steps[-1].text


def test_who_waits_for_quota_is_told_who_holds_it_and_not_which_gpus_there_are():
    agent = recorded("agents", "big")
    agent["status"]["pending"].update(reason="QuotaExhausted", message="asks for 12Gi", smallestChange="raise it to 52Gi")
    held = quota("quickstart", {"memory": {"nominal": "48Gi"}, "agents": 20}, reserved=("40Gi", 3))
    (placed,) = [step for step in told("big", agent=agent, picture=look(quotas=[held])).steps if step.name == "placed"]
    name = held["metadata"]["name"]
    assert placed.details == (
        "what would help: raise it to 52Gi",
        f"GPUQuota {name}: 40Gi of 48Gi VRAM and 3 of 20 Agents are held; VRAM by researcher 24Gi, coder 16Gi",
    )


def test_who_waits_is_told_why_what_would_help_and_who_holds_the_gpus():
    life = told("big")
    assert steps(life) == {"applied": "done", "accepted": "done", "placed": "now", "then": "next"}
    placed = life.steps[2]
    assert placed.text.startswith("waits (NoGPUFits): asks for 12Gi; the most free VRAM on one GPU is 8Gi")
    assert placed.details[0] == "what would help: lower spec.gpu.memory to 8Gi"
    assert len(placed.details) == 2, "only GPUs of a model that it accepts are named"
    assert "booked by quickstart/researcher 24Gi, quickstart/coder 16Gi" in placed.details[1]
    assert life.next == (
        "it starts by itself as soon as there is a place; nobody has to apply it again",
        "sooner: lower spec.gpu.memory to 8Gi",
    )
    assert life.standing.state.exit_code == 3


def test_without_the_right_to_see_gpus_the_story_is_told_without_them():
    assert told("big", picture=None).steps[2].details == ("what would help: lower spec.gpu.memory to 8Gi",)


def test_a_program_that_crashes_needs_somebody_and_the_way_to_its_log_is_shown():
    life = told("crasher")
    assert life.standing.state.exit_code == 1
    assert steps(life)["started"] == "bad"
    assert life.restarts[0].startswith("container main was restarted 5 times in its pod; it last ended")
    assert "why it ended: kubectl -n quickstart logs crasher-1 -c main --previous" in life.next


def test_an_image_that_is_not_there_is_told_once_and_no_log_is_promised():
    life = told("typo")
    assert steps(life)["started"] == "bad"
    assert steps(life)["then"] == "next"
    assert life.next[-1] == "see whether the image's name is right, and whether the node may pull it"
    assert sum("pulling image" in step.text for step in life.steps) == 1


def test_an_end_for_good_is_the_last_step():
    failed, completed = told("once"), told("worker")
    assert [step.name for step in failed.steps] == ["applied", "accepted", "failed"]
    assert (failed.standing.state.exit_code, completed.standing.state.exit_code) == (1, 0)
    assert completed.steps[-1].text == "every container ended with exit code 0"
    assert failed.last_failure is not None
    assert "attempt 1 at 2026-11-23T05:43:10Z, Failed: container main ended with exit code 3" in text(failed)


def test_facts_of_a_former_attempt_are_not_believed():
    runtime = recorded("runtimes", "researcher")
    runtime["status"]["claimUID"] = "another"
    life = told("researcher", runtime=runtime)
    assert [steps(life)[name] for name in ("prepared", "fenced", "listening")] == ["now"] * 3


def test_a_back_off_says_when_the_next_attempt_begins():
    agent, runtime = recorded("agents", "researcher"), recorded("runtimes", "researcher")
    status = agent["status"]
    status["lastFailure"] = {"attempt": 1, "reason": "PodFailed", "message": "exit code 1", "time": "2026-11-23T05:49:30Z"}
    status["failedAttempts"] = 3
    status["conditions"][1].update(status="False", reason="BackOff", message="exit code 1; the next attempt begins soon")
    status["conditions"][3].update(status="False", reason="BackOff")
    life = told("researcher", agent=agent, runtime=runtime, claims=[], pods=[])
    assert life.standing.state.value == "back-off"
    assert life.next[0] == "the next attempt begins at 05:50:10 UTC, in 10 s", "40 s after the third failure"
    assert "3 in a row; 0 again after ten minutes of Ready" in text(life)


def test_an_edit_that_waits_is_told_beside_the_attempt_that_runs_on():
    agent = recorded("agents", "researcher")
    agent["spec"]["gpu"]["memory"] = "400Gi"
    agent["metadata"]["generation"] = 2
    agent["status"]["pending"] = recorded("agents", "giant")["status"]["pending"]
    life = told("researcher", agent=agent)
    assert life.steps[0].details == ("its spec has changed since: generation 2", "the operator has taken up generation 1 so far")
    assert "what would help: lower spec.gpu.memory to 80Gi" in life.steps[2].details
    assert life.next[0].startswith("this attempt runs on until the changed spec has a place")


def test_an_agent_that_nobody_has_looked_at_points_to_the_operator():
    agent = recorded("agents", "big")
    del agent["status"]
    life = told("big", agent=agent)
    assert steps(life) == {"applied": "done", "accepted": "now", "then": "next"}
    assert "aios-operator" in life.next[0]
    assert life.standing.state.exit_code == 3


def test_an_agent_that_goes_away_says_what_is_left_to_do():
    agent = recorded("agents", "researcher")
    agent["metadata"]["deletionTimestamp"] = "2026-11-23T05:49:00Z"
    life = told("researcher", agent=agent)
    assert life.steps[-1].name == "deleting"
    assert life.next[0].startswith("its pod ends, then claim, order and Agent go")


def test_events_of_others_and_of_a_former_agent_of_the_name_are_left_out():
    agent = recorded("agents", "researcher")
    ours = happenings(agent, RECORDED["events"])
    assert {each.about for each in ours} == {"Agent researcher", "Pod researcher-1"}
    assert [each.reason for each in ours][:2] == ["Placed", "Scheduled"], "in the order of things within one second"
    agent["metadata"]["creationTimestamp"] = "2026-11-23T05:49:00Z"
    assert happenings(agent, RECORDED["events"]) == []


def test_json_says_the_same_with_the_exit_code():
    said = telling.as_json(told("giant"))
    assert (said["state"], said["exitCode"], said["reason"]) == ("waits", 3, "LargerThanAnyGPU")
    assert said["smallestChange"] == "lower spec.gpu.memory to 80Gi"
    assert [step["step"] for step in said["steps"]] == ["applied", "accepted", "placed", "then"]
    assert telling.as_json(told("researcher"))["events"][0]["reason"] == "Placed"


@pytest.mark.parametrize("name", ["researcher", "giant", "typo", "crasher"])
def test_lines_fit_the_terminal(name):
    assert max(len(line.rstrip()) for line in text(told(name), 80).splitlines()) <= 80


async def test_everything_is_gathered_and_an_agent_that_is_not_there_is_named():
    cluster = FakeCluster(clock=lambda: NOW)
    for resource, kind in ((resources.AGENTS, "agents"), (resources.AGENT_RUNTIMES, "runtimes"), (resources.PODS, "pods")):
        for each in RECORDED[kind]:
            cluster.put(resource, each)
    for each in RECORDED["slices"]:
        cluster.put(resources.RESOURCE_SLICES, each)
    evidence = await gather(cluster, "prod", "quickstart", "researcher")
    assert [pod["metadata"]["name"] for pod in evidence.pods] == ["researcher-1"]
    assert evidence.runtime is not None
    assert evidence.picture is not None
    assert len(evidence.picture.gpus) == len(look().gpus)
    assert (await gather(cluster, "prod", "quickstart", "giant")).runtime is None
    with pytest.raises(click.ClickException, match="there is no Agent nobody in namespace quickstart"):
        await gather(cluster, "prod", "quickstart", "nobody")


def test_who_ran_as_long_as_it_may_is_told_how_it_runs_on():
    agent, runtime = recorded("agents", "researcher"), next(r for r in RECORDED["runtimes"] if r["metadata"]["name"] == "researcher")
    agent["spec"]["activeDeadlineSeconds"] = 60
    agent["status"]["run"] = {"startTime": "2026-11-23T05:00:00Z", "templateDigest": runtime["spec"]["templateDigest"]}
    for each in agent["status"]["conditions"]:
        if each["type"] in ("Placed", "Ready"):
            each.update(status="False", reason="DeadlineExceeded")
    agent["status"]["conditions"].append(said("DeadlineExceeded", "True", "ran for spec.activeDeadlineSeconds, 60 s"))
    life = told("researcher", agent=agent, pods=[], claims=[])
    assert life.standing.state.value == "stopped"
    assert life.steps[-1].text == "ran for spec.activeDeadlineSeconds, 60 s"
    assert "raise spec.activeDeadlineSeconds" in life.next[1]


def test_who_waits_for_a_node_to_fall_silent_is_told_which_attempt_may_still_run_there():
    agent, runtime = recorded("agents", "researcher"), next(r for r in RECORDED["runtimes"] if r["metadata"]["name"] == "researcher")
    del agent["status"]["podName"]
    agent["status"]["leaving"] = {"nodeName": "node-9", "attempt": 0}
    for each in agent["status"]["conditions"]:
        if each["type"] == "Ready":
            each.update(status="False", reason="WaitingForMute", message="attempt 0 may still speak from node node-9")
    life = told("researcher", agent=agent, runtime=runtime, pods=[], claims=[])
    assert life.next[0] == "it starts by itself when node node-9 must have fallen silent: attempt 0 may still run there"
    assert "attempt 0 may still speak from node node-9" in text(life)

"""spec.activeDeadlineSeconds: what is counted, from when, and what follows when it has passed."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from aios_operator.decide import effects as do
from unit.decide.world import World, agent

EXIT_3 = {"exitCode": 3, "reason": "Error"}
EXIT_0 = {"exitCode": 0, "reason": "Completed"}


def one_gpu() -> World:
    return World().node("n1", {"GPU-a": "80Gi"})


def limited(seconds: int = 100, **spec: object) -> World:
    return one_gpu().apply(agent("a", "60Gi", activeDeadlineSeconds=seconds, **spec)).settle()


def test_after_its_deadline_an_agent_is_as_if_stopped_and_says_so():
    world = limited().wait(99)
    assert world.ready("a")
    assert world.condition("a", "DeadlineExceeded") == ("False", "WithinDeadline")
    assert "2026-01-01T00:01:40Z" in world.message("a", "DeadlineExceeded")
    world.wait(1)
    assert world.condition("a", "DeadlineExceeded") == ("True", "DeadlineExceeded")
    assert world.condition("a", "Ready") == world.condition("a", "Placed") == ("False", "DeadlineExceeded")
    assert world.condition("a", "Completed") == ("False", "NotCompleted")
    assert world.condition("a", "Reconciling") == world.condition("a", "Stalled") == ("", "")
    assert world.names("Pod") == world.names("ResourceClaim") == []
    assert "lastFailure" not in world.status("a")
    assert [e.note for e in world.events if e.reason == "DeadlineExceeded" and e.warning] == ["ran for spec.activeDeadlineSeconds, 100 s"]
    assert world.apply(agent("b", "80Gi")).settle().ready("b")
    assert world.wait(86400).status("a")["attempt"] == 1


def test_the_status_says_that_it_is_over_before_the_pod_is_ended():
    world = limited()
    world.written.clear()
    world.wait(100)
    assert [type(w).__name__ for w in world.written if isinstance(w, do.WriteStatus | do.DeletePod | do.DeleteClaim)][:3] == [
        "WriteStatus",
        "DeletePod",
        "DeleteClaim",
    ]


def test_the_planner_asks_to_be_woken_when_the_deadline_is_due():
    world = limited()
    assert [e.at for e in world.plans("a") if isinstance(e, do.PlanAgainAt)] == [world.now + timedelta(seconds=100)]


def test_without_a_deadline_an_agent_runs_for_ever_and_has_no_such_condition():
    world = one_gpu().apply(agent("a", "60Gi")).settle().wait(10**8)
    assert world.ready("a")
    assert world.condition("a", "DeadlineExceeded") == ("", "")


def test_the_wait_for_the_first_place_is_not_counted():
    world = one_gpu().apply(agent("first", "80Gi")).settle()
    world.apply(agent("a", "60Gi", activeDeadlineSeconds=100)).settle().wait(1000)
    assert world.condition("a", "DeadlineExceeded") == ("False", "WithinDeadline")
    world.delete("Agent", "first").settle().wait(99)
    assert world.ready("a")
    assert world.wait(1).condition("a", "DeadlineExceeded")[0] == "True"


def test_what_an_operator_forgets_or_an_attempt_that_is_lost_does_not_begin_it_anew():
    world = limited().wait(60)
    world.delete("Pod", "a-1").settle()
    assert world.status("a")["attempt"] == 2
    world.forget().wait(39)
    assert world.ready("a")
    assert world.wait(1).condition("a", "DeadlineExceeded")[0] == "True"


def test_it_passes_in_a_back_off_too_and_no_further_attempt_follows():
    world = one_gpu()
    world.exits["a"] = EXIT_3
    world.apply(agent("a", "60Gi", activeDeadlineSeconds=15, restartPolicy="OnFailure")).settle().wait(10)
    assert world.condition("a", "Ready") == ("False", "BackOff")
    assert world.status("a")["attempt"] == 2
    world.wait(5)
    assert world.condition("a", "Placed") == ("False", "DeadlineExceeded")
    assert sum(e.reason == "DeadlineExceeded" for e in world.events) == 1
    assert world.wait(3600).status("a")["attempt"] == 2
    assert world.get("Pod", "a-2")["status"]["phase"] == "Failed", "what has ended stays, for its log"
    assert world.names("ResourceClaim") == []


def test_it_passes_while_the_next_attempt_waits_for_a_place():
    world = limited().wait(50)
    world.apply(agent("greedy", "70Gi", priority=5))
    world.delete("ResourceSlice", "n1-slice")
    world.delete("Pod", "a-1").settle()
    assert "pending" in world.status("a")
    world.wait(50)
    assert world.condition("a", "Placed") == ("False", "DeadlineExceeded")
    assert "pending" not in world.status("a")


@pytest.mark.parametrize(("exit_state", "reason"), [(EXIT_0, "Completed"), (EXIT_3, "Failed")])
def test_who_came_to_an_end_before_is_completed_for_good(exit_state: dict[str, object], reason: str):
    world = limited(restartPolicy="Never").wait(99)
    world.exits["a"] = exit_state
    world.others()
    world.wait(1)
    assert world.condition("a", "Completed") == ("True", reason), "the pod had ended when the deadline was looked at"
    assert world.condition("a", "DeadlineExceeded") == ("False", "WithinDeadline")
    world.wait(1000)
    assert world.condition("a", "Completed") == ("True", reason)
    assert world.condition("a", "DeadlineExceeded") == ("False", "WithinDeadline")


def test_an_edit_is_in_force_on_the_running_pod():
    world = limited().wait(50).patch("a", activeDeadlineSeconds=200).settle().wait(149)
    assert world.ready("a")
    assert world.status("a")["attempt"] == 1
    world.patch("a", activeDeadlineSeconds=10).settle()
    assert world.condition("a", "DeadlineExceeded") == ("True", "DeadlineExceeded")


@pytest.mark.parametrize("deadline", [200, None])
def test_a_later_deadline_or_none_lets_it_run_on(deadline: int | None):
    world = limited().wait(150)
    assert world.names("Pod") == []
    world.patch("a", activeDeadlineSeconds=deadline).settle()
    assert world.ready("a")
    assert world.status("a")["attempt"] == 2
    world.wait(50)
    assert world.ready("a") is (deadline is None)


@pytest.mark.parametrize(
    "anew",
    [
        lambda w: w.patch("a", gpu={"memory": "50Gi"}).settle(),
        lambda w: w.patch("a", operatingMode="Stopped").settle().patch("a", operatingMode="Running").settle(),
    ],
    ids=["edited", "stopped and running"],
)
@pytest.mark.parametrize("before", [60, 160])
def test_a_changed_spec_or_another_start_begins_anew(anew: Callable[[World], World], before: int):
    world = anew(limited().wait(before))
    assert world.ready("a")
    world.wait(99)
    assert world.ready("a")
    assert world.wait(1).condition("a", "DeadlineExceeded")[0] == "True"


def test_an_edit_there_and_back_while_the_old_pod_runs_is_the_same_run():
    world = limited().wait(50)
    world.patch("a", gpu={"memory": "200Gi"}).settle().patch("a", gpu={"memory": "60Gi"}).settle().wait(49)
    assert world.ready("a")
    assert world.wait(1).condition("a", "DeadlineExceeded")[0] == "True"


def test_the_old_pod_of_an_edit_that_finds_no_place_ends_at_its_deadline_and_the_edit_waits_on():
    world = limited().patch("a", gpu={"memory": "200Gi"}).settle()
    assert world.names("Pod") == ["a-1"]
    world.wait(100)
    assert world.names("Pod") == []
    assert world.condition("a", "Placed") == ("False", "LargerThanAnyGPU")
    assert world.condition("a", "DeadlineExceeded") == ("False", "WithinDeadline")
    world.node("n2", {"GPU-b": "200Gi"}).settle()
    assert world.ready("a")


def test_at_rest_nothing_is_written_after_a_deadline():
    world = limited().wait(100)
    assert world.operate() == 0
    assert world.forget().operate() == 0

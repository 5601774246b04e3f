"""Quota in the life of Agents: who gets it and when, who keeps it, who gives it back, and what each is told."""

from datetime import timedelta

import pytest

from aios_api.quantity import MAX
from unit.decide.world import World, agent, gpu_quota

EXIT_3 = {"exitCode": 3, "reason": "Error"}


def cluster(*quotas: object) -> World:
    world = World().node("n1", {"GPU-a": "80Gi", "GPU-b": "80Gi"})
    for each in quotas:
        world.apply(each)  # type: ignore[arg-type]
        world.now += timedelta(seconds=1)
    return world


def pending(world: World, name: str) -> tuple[str, str, str]:
    told = world.status(name)["pending"]
    return told["reason"], told["message"], told["smallestChange"]


def test_agents_are_admitted_up_to_the_last_byte_and_the_next_is_told_what_would_help():
    world = cluster(gpu_quota(memory="40Gi", agents=9)).apply(agent("a", "24Gi"), agent("b", "16Gi")).settle()
    world.apply(agent("c", "1Mi")).settle()
    assert world.ready("a")
    assert world.ready("b")
    assert world.condition("c", "QuotaReserved") == world.condition("c", "Placed") == ("False", "QuotaExhausted")
    assert pending(world, "c") == (
        "QuotaExhausted",
        "asks for 1Mi and 1 Agent; of 40Gi and 9 Agents that GPUQuota quota grants Agents hold 40Gi and 2 Agents",
        "raise spec.memory.nominal to 40961Mi of GPUQuota quota, or stop Agents of the namespace that hold 1Mi",
    )
    assert world.message("a", "QuotaReserved") == "holds 24Gi and a place of GPUQuota quota"
    status = world.quota()
    assert status["reserved"] == status["used"] == {"memory": "40Gi", "agents": 2}
    assert status["waiting"] == {"memory": "1Mi", "agents": 1}
    assert (status["InForce"], status["Exceeded"]) == ("True", "False")


def test_the_number_of_agents_is_limited_with_and_without_a_gpu():
    world = cluster(gpu_quota(agents=1)).apply(agent("a")).settle().apply(agent("b")).settle()
    assert pending(world, "b")[0] == "QuotaExhausted"
    assert pending(world, "b")[2] == "raise spec.agents to 2 of GPUQuota quota, or stop Agents of the namespace that hold 1 Agent"
    assert world.delete("Agent", "a").settle().ready("b")


def test_a_quota_of_no_vram_admits_agents_without_a_gpu():
    world = cluster(gpu_quota(memory="0")).apply(agent("plain"), agent("large", "1Gi")).settle()
    assert world.ready("plain")
    reason, message, change = pending(world, "large")
    assert (reason, change) == ("LargerThanQuota", "raise spec.memory.nominal to 1Gi of GPUQuota quota")
    assert message == "asks for 1Gi; GPUQuota quota grants 0 in all"


def test_the_next_in_line_is_the_one_of_higher_priority_then_the_older():
    world = cluster(gpu_quota(memory="40Gi")).apply(agent("first", "40Gi")).settle()
    for name, priority in (("old", 0), ("young", 0), ("important", 5)):
        world.now += timedelta(seconds=1)
        world.apply(agent(name, "40Gi", priority=priority)).settle()
    for done, following in (("first", "important"), ("important", "old"), ("old", "young")):
        world.delete("Agent", done).settle()
        assert world.ready(following)


def test_a_priority_that_is_edited_counts_at_once_and_takes_nothing_from_who_runs():
    world = cluster(gpu_quota(memory="40Gi")).apply(agent("a", "40Gi"), agent("b", "40Gi")).settle()
    world.apply(agent("c", "40Gi")).settle().patch("c", priority=1000).settle()
    assert world.ready("a")
    assert world.status("a")["attempt"] == 1
    world.delete("Agent", "a").settle()
    assert world.ready("c")


def test_priority_orders_who_waits_for_a_place_too():
    world = cluster().apply(agent("a", "80Gi"), agent("b", "80Gi")).settle()
    world.apply(agent("low", "80Gi", priority=-1), agent("high", "80Gi", priority=1)).settle()
    assert world.delete("Agent", "a").settle().ready("high")
    assert not world.ready("low")


def test_what_fails_keeps_its_quota_through_its_back_off():
    world = cluster(gpu_quota(memory="40Gi"))
    world.exits["a"] = EXIT_3
    world.apply(agent("a", "40Gi", restartPolicy="OnFailure")).settle()
    world.apply(agent("b", "40Gi", priority=1000)).settle()
    for _ in range(4):
        assert world.condition("a", "Ready") == ("False", "BackOff")
        assert world.condition("a", "QuotaReserved") == ("True", "QuotaReserved")
        assert world.condition("b", "QuotaReserved") == ("False", "QuotaExhausted")
        assert world.quota()["reserved"] == {"memory": "40Gi", "agents": 1}
        assert world.quota()["used"] == {"memory": "0", "agents": 0}
        world.wait(300)
    del world.exits["a"]
    assert world.wait(300).ready("a")


@pytest.mark.parametrize("end", ["stop", "complete", "delete", "invalid"])
def test_what_ends_gives_its_quota_back(end: str):
    world = cluster(gpu_quota(memory="40Gi")).apply(agent("a", "40Gi", restartPolicy="Never"), agent("b", "40Gi")).settle()
    if end == "stop":
        world.patch("a", operatingMode="Stopped")
    elif end == "complete":
        world.exits["a"] = {"exitCode": 0, "reason": "Completed"}
    elif end == "delete":
        world.delete("Agent", "a")
    else:
        world.delete("Pod", "a-1").patch("a", gpu={"memory": "a lot"})
    assert world.settle().ready("b")
    assert world.quota()["reserved"] == {"memory": "40Gi", "agents": 1}
    if end != "delete":
        assert world.condition("a", "QuotaReserved")[0] == "False"


def test_what_is_going_away_holds_its_quota_until_its_claim_is_gone():
    world = cluster(gpu_quota(memory="40Gi")).apply(agent("a", "40Gi"), agent("b", "40Gi")).settle()
    world.kubelet_sleeps = True
    world.patch("a", operatingMode="Stopped").settle()
    assert world.condition("b", "QuotaReserved") == ("False", "QuotaExhausted")
    assert world.quota()["reserved"] == {"memory": "40Gi", "agents": 1}
    world.kubelet_sleeps = False
    assert world.settle().ready("b")


def test_an_agent_that_wants_more_runs_on_with_what_it_has_and_takes_only_the_difference():
    world = cluster(gpu_quota(memory="40Gi")).apply(agent("a", "24Gi"), agent("b", "8Gi")).settle()
    world.patch("a", gpu={"memory": "36Gi"}).settle()
    assert world.ready("a")
    assert world.status("a")["attempt"] == 1
    assert world.condition("a", "QuotaReserved") == ("True", "QuotaReserved")
    assert pending(world, "a")[2] == "raise spec.memory.nominal to 44Gi of GPUQuota quota, or stop Agents of the namespace that hold 4Gi"
    world.patch("a", gpu={"memory": "32Gi"}).settle()
    assert world.ready("a")
    assert (world.status("a")["attempt"], world.quota()["reserved"]["memory"]) == (2, "40Gi")
    world.patch("a", gpu={"memory": "8Gi"}).settle()
    assert (world.status("a")["attempt"], world.quota()["reserved"]["memory"]) == (3, "16Gi")


def test_a_quota_lowered_below_use_ends_nobody_and_both_say_so():
    world = cluster(gpu_quota(memory="40Gi")).apply(agent("a", "24Gi"), agent("b", "16Gi")).settle()
    world.apply(gpu_quota(memory="16Gi")).settle()
    for name in ("a", "b"):
        assert world.ready(name)
        assert world.condition(name, "QuotaReserved") == ("True", "QuotaExceeded")
    assert "grants less than Agents hold" in world.message("a", "QuotaReserved")
    assert world.quota()["Exceeded"] == "True"
    world.delete("Pod", "a-1").settle()
    assert world.ready("a"), "the next attempt of who holds its part needs no other"
    assert world.status("a")["attempt"] == 2
    world.apply(agent("c", "1Gi")).settle()
    assert world.condition("c", "QuotaReserved") == ("False", "QuotaExhausted")
    world.delete("Agent", "a").settle()
    assert world.condition("b", "QuotaReserved") == ("True", "QuotaReserved")
    assert world.quota()["Exceeded"] == "False"
    assert not world.ready("c")


@pytest.mark.parametrize("unlimited", [True, False])
def test_without_a_quota_it_is_the_cluster_that_decides(unlimited: bool):
    world = cluster()
    world.unlimited_without_quota = unlimited
    world.apply(agent("a", "16Gi")).settle()
    assert world.ready("a") is unlimited
    if unlimited:
        assert world.condition("a", "QuotaReserved") == ("True", "NoQuota")
        return
    reason, _, change = pending(world, "a")
    assert (reason, "spec.memory.nominal 16Gi and spec.agents 1" in change) == ("NoQuota", True)
    assert world.apply(gpu_quota(memory="16Gi", agents=1)).settle().ready("a")


@pytest.mark.parametrize("unlimited", [True, False])
def test_when_the_quota_is_deleted_who_runs_stays(unlimited: bool):
    world = cluster(gpu_quota(memory="16Gi"))
    world.unlimited_without_quota = unlimited
    world.apply(agent("a", "16Gi"), agent("b", "16Gi")).settle().delete("GPUQuota", "quota").settle()
    assert world.ready("a")
    assert world.condition("a", "QuotaReserved") == ("True", "NoQuota")
    assert world.ready("b") is unlimited
    world.delete("Pod", "a-1").settle()
    assert world.ready("a")


def test_the_oldest_quota_counts_and_the_second_says_so_until_its_turn_comes():
    world = cluster(gpu_quota("z-first", memory="16Gi"), gpu_quota("a-second", memory="80Gi"))
    world.apply(agent("a", "16Gi"), agent("b", "16Gi")).settle()
    assert not world.ready("b")
    second = world.quota("a-second")
    assert second["InForce"] == "False"
    assert "reserved" not in second
    assert "z-first" in second["conditions"][0]["message"]
    world.delete("GPUQuota", "z-first").settle()
    assert world.ready("b")
    assert world.quota("a-second")["InForce"] == "True"
    assert world.quota("a-second")["reserved"] == {"memory": "32Gi", "agents": 2}


def test_a_quota_that_can_not_be_read_admits_nobody_and_says_what_is_wrong():
    world = cluster(gpu_quota(memory="plenty")).apply(agent("a", "1Gi")).settle()
    reason, message, change = pending(world, "a")
    assert (reason, "spec.memory.nominal" in message, "plenty" in change) == ("InvalidSpec", True, True)
    assert world.quota()["InForce"] == "False"
    assert world.apply(gpu_quota(memory="1Gi")).settle().ready("a")


def test_sums_beyond_what_a_quantity_can_say_are_counted_and_written_as_the_largest_one():
    world = cluster(gpu_quota(memory="4Ei")).apply(*(agent(f"a{i:04}", "8Pi") for i in range(3)))
    for i in range(3):
        world.patch(f"a{i:04}", gpu={"memory": "4Ei"})
    world.settle()
    assert pending(world, "a0000")[0] == "LargerThanAnyGPU"
    world.apply(gpu_quota(memory="1Mi")).settle()
    assert world.quota()["waiting"] == {"memory": str(MAX), "agents": 3}
    assert pending(world, "a0000")[:1] == ("LargerThanQuota",)
    assert pending(world, "a0002")[2] == "ask for at most 1Mi", "no quota may be as large as what would help"


def test_who_has_no_place_holds_no_quota():
    world = cluster(gpu_quota(memory="200Gi")).apply(agent("huge", "90Gi", priority=9), agent("small", "80Gi")).settle()
    assert pending(world, "huge")[0] == "LargerThanAnyGPU"
    assert world.condition("huge", "QuotaReserved") == ("False", "LargerThanAnyGPU")
    assert world.ready("small")


def test_at_rest_nothing_is_written():
    world = cluster(gpu_quota(memory="40Gi"), gpu_quota("second", memory="1Gi"))
    world.apply(agent("a", "24Gi"), agent("b", "24Gi"), agent("c", "64Gi"), agent("d", operatingMode="Stopped")).settle()
    before = len(world.written)
    world.forget().settle().wait(3600)
    assert len(world.written) == before

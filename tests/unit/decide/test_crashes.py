"""An operator that is killed between any two writes comes to the same end as one that is not."""

from datetime import timedelta

import pytest

from unit.decide.world import World, agent


def one_gpu() -> World:
    return World().node("n1", {"GPU-a": "80Gi"})


def drive(world: World, budget: int | None) -> None:
    """A round in which the operator is killed after `budget` writes and starts anew without its memory."""
    world.operate(budget)
    if budget is not None:
        world.forget()
    world.others()


def past_its_deadline(world: World) -> World:
    world.now += timedelta(seconds=5)
    return world


STORIES = {
    "start": lambda w: w.apply(agent("a", "16Gi"), agent("b", "16Gi")),
    "edit": lambda w: w.apply(agent("a", "16Gi")).settle().patch("a", gpu={"memory": "20Gi"}),
    "stop": lambda w: w.apply(agent("a", "16Gi")).settle().patch("a", operatingMode="Stopped"),
    "delete": lambda w: w.apply(agent("a", "16Gi")).settle().delete("Agent", "a"),
    "vanish": lambda w: w.apply(agent("a", "16Gi")).settle().delete("Pod", "a-1"),
    "deadline": lambda w: past_its_deadline(w.apply(agent("a", "16Gi", activeDeadlineSeconds=5)).settle()),
    "unhealthy": lambda w: w.node("n2", {"GPU-b": "80Gi"}).apply(agent("a", "16Gi")).settle().taint_gpu("GPU-a"),
    "lost": lambda w: w.node("n2", {"GPU-b": "80Gi"}).apply(agent("a", "16Gi")).settle().lose_contact("n1").delete("Node", "n1"),
}


def summary(world: World) -> object:
    """The final state, apart from times and uids."""
    agents = {
        each["metadata"]["name"]: (
            {key: each["status"].get(key) for key in ("attempt", "nodeName", "podName", "gpu", "failedAttempts")},
            [(c["type"], c["status"], c["reason"], c["message"]) for c in each["status"]["conditions"]],
        )
        for each in world.all("Agent")
    }
    return agents, world.names("Pod"), world.names("ResourceClaim"), world.names("AgentRuntime"), world.booked()


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_an_operator_that_is_killed_after_every_few_writes_comes_to_the_same_end(story: str, budget: int):
    calm = STORIES[story](one_gpu()).settle()
    shaken = STORIES[story](one_gpu())
    for _ in range(40):
        drive(shaken, budget)
    assert summary(shaken.settle()) == summary(calm)


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("at", range(1, 9))
def test_one_crash_at_any_write_changes_nothing_of_the_end(story: str, at: int):
    calm = STORIES[story](one_gpu()).settle()
    shaken = STORIES[story](one_gpu())
    drive(shaken, at)
    assert summary(shaken.settle()) == summary(calm)

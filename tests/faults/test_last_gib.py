"""Two Agents race for the last GiB of a quota while the operator is killed again and again."""

import random

import pytest

from aios_operator.decide import effects as do
from unit.decide.test_quota import cluster, pending
from unit.decide.world import World, agent, gpu_quota


@pytest.mark.parametrize("seed", range(100))
def test_of_two_agents_that_race_for_the_last_gib_exactly_one_wins(seed: int):
    """Whoever is killed, whenever: never two orders at once for what is there once."""
    chance = random.Random(seed)
    world = cluster(gpu_quota(memory="9Gi")).apply(agent("runs", "8Gi")).settle()
    racers = ["a", "b"]
    chance.shuffle(racers)
    for name in racers:
        world.apply(agent(name, "1Gi", priority=chance.choice([-1, 0, 1])))
        for _ in range(chance.randrange(3)):
            step(world, chance)
    for _ in range(30):
        step(world, chance)
        ordered = {w.key.name for w in world.written if isinstance(w, do.ApplyRuntime)} & set(racers)
        assert len(ordered) < 2
    world.settle()
    assert sorted(map(world.ready, racers)) == [False, True]
    loser = next(name for name in racers if not world.ready(name))
    assert pending(world, loser)[0] == "QuotaExhausted"
    winner = next(name for name in racers if world.ready(name))
    assert world.delete("Agent", winner).settle().ready(loser)


def step(world: World, chance: random.Random) -> None:
    """The operator writes a few times, is perhaps killed, and everybody else perhaps comes to act."""
    world.operate(chance.choice([1, 2, 3, None]))
    if chance.random() < 0.5:
        world.forget()
    if chance.random() < 0.5:
        world.others()

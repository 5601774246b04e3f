"""Two Agents race for the last GiB of a quota while the operator is killed again and again."""

from __future__ import annotations

import random
from typing import Any

from aios_bench.faults.checkout import of_tests
from aios_bench.faults.scenario import Outcome, Scenario
from aios_operator.decide import effects as do

STEPS = 30
LIVES = {"small": 80, "long": 4000}


def race(chance: random.Random) -> Outcome:
    """One life. Whoever is killed, whenever: never two orders at once for what is there once, and who lost gets what is given back."""
    quota, world = of_tests("unit.decide.test_quota"), of_tests("unit.decide.world")
    cluster = quota.cluster(world.gpu_quota(memory="9Gi")).apply(world.agent("runs", "8Gi")).settle()
    racers = ["a", "b"]
    chance.shuffle(racers)
    kills = 0
    for name in racers:
        cluster.apply(world.agent(name, "1Gi", priority=chance.choice([-1, 0, 1])))
        for _ in range(chance.randrange(3)):
            kills += _step(cluster, chance)
    for _ in range(STEPS):
        kills += _step(cluster, chance)
        ordered = {each.key.name for each in cluster.written if isinstance(each, do.ApplyRuntime)} & set(racers)
        if len(ordered) == 2:
            return Outcome(kills, bytes_misbooked=2**30, notes=(f"after {kills} kills both {' and '.join(racers)} have an order",))
    cluster.settle()
    ready = sorted(racers, key=cluster.ready)
    if [cluster.ready(name) for name in ready] != [False, True]:
        raise AssertionError("of two that race for the last GiB exactly one must be ready at the end")
    loser, winner = ready
    if (reason := quota.pending(cluster, loser)[0]) != "QuotaExhausted":
        raise AssertionError(f"who lost must be told QuotaExhausted, not {reason}")
    if not cluster.delete("Agent", winner).settle().ready(loser):
        raise AssertionError("who lost must get what the winner gave back")
    return Outcome(kills)


def _step(cluster: Any, chance: random.Random) -> int:
    """The operator writes a few times, is perhaps killed, and everybody else perhaps comes to act. How often it was killed."""
    cluster.operate(chance.choice([1, 2, 3, None]))
    killed = chance.random() < 0.5
    if killed:
        cluster.forget()
    if chance.random() < 0.5:
        cluster.others()
    return int(killed)


def races(seed: int, size: str) -> Outcome:
    lives = (race(random.Random(f"{seed} {number}")) for number in range(LIVES[size]))  # noqa: S311 - which faults there are
    return sum(lives, Outcome())


SCENARIOS = (
    Scenario(
        "two-race-for-the-last-gib", "Two Agents want the last GiB of a quota while the operator is killed again and again.", "api", races
    ),
)

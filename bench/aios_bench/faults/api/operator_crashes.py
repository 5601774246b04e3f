"""The operator is killed after each of its writes; its successor comes to the same end as one that was never disturbed.

Three patterns: a crash after the k-th write, for every k; the same with a successor whose first look is at what was so some writes ago; and
an operator that sees neither every state nor every kind of object at the same time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, get_args

from aios_bench.faults.api.operator_story import OWNED, STORIES, Ending, Life, tell
from aios_bench.faults.scenario import Outcome, Scenario
from aios_kube.errors import ApiError, Unreachable
from aios_operator.decide import effects as do

Object = dict[str, Any]


class Killed(Life):
    """The process ends with its `at`-th write, which takes place: it does not hear of it, nor write or read anything more. The next one
    sees at first what was so `stale` writes ago."""

    def __init__(self, at: int, stale: int = 0) -> None:
        super().__init__()
        self.left = at
        self.stale = stale
        self.in_the_midst_of = ""
        """The effect that the process died in."""
        self._doing: Any = None
        self._once: list[list[Object]] = []
        self.cluster.lose.append(self._count)
        self.cluster.refuse.append(lambda _: Unreachable("killed") if self.left == 0 else None)
        self._watch_effects()

    def _watch_effects(self) -> None:
        perform = self.world.loop.executor.perform

        async def performed(effect: do.Write) -> None:
            self._doing = effect
            await perform(effect)

        self.world.loop.executor.perform = performed

    def _count(self, call: Any) -> ApiError | None:
        if not call.writes or self.left <= 0:
            return None
        self.left -= 1
        if self.left == self.stale and self.stale:
            self._once = [self.cluster.all(table.resource) for table in self.world.store.tables]
        if self.left:
            return None
        self.in_the_midst_of = type(self._doing).__name__
        return Unreachable("killed")

    async def operate(self) -> None:
        await super().operate()
        if self.left != 0:
            return
        self.left = -1
        self.world.operator()
        for table, objects in zip(self.world.store.tables, self._once, strict=False):
            for raw in objects:
                table.upsert(raw)
        if self._once:
            await self.world.loop.settle()
        await super().operate()


class Blind(Life):
    """The operator often sees nothing for a while, and often of some kinds of objects only."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.unseen = 0
        """How often something was not shown to it."""
        self._awake = True

    async def operate(self) -> None:
        if self._awake:
            await super().operate()

    async def rest(self, seconds: float = 0) -> None:
        """At the end it sees everything; before, what it sees is a matter of chance."""
        for _ in range(self.chance.randrange(3)):
            self._awake = False
            self.unseen += 1
            self._others()
        self._awake = True
        for _ in range(self.chance.randrange(3)):
            self._show_some()
            await self.world.loop.settle()
            self._others()
        await super().rest(seconds)

    def _show_some(self) -> None:
        for table in self.world.store.tables:
            if self.chance.random() < 0.5:
                self.unseen += 1
                continue
            self.world.show(table)


def compare(calm: list[Ending], shaken: list[Ending], life: Life, what: str) -> Outcome:
    """What the disturbed run lost, left over, or has twice. Raises when an object is there and another than it should be."""
    outcome = Outcome(faults_injected=1, double_identities=len(life.doubles), notes=tuple(f"{what}: {each}" for each in life.doubles))
    for before, after in zip(calm, shaken, strict=True):
        made = {kind.kind for kind in OWNED}
        lost, left = before.keys() - after.keys(), after.keys() - before.keys()
        notes = (f"{what}: lost {sorted(lost)}, left over {sorted(left)}",) if lost or left else ()
        outcome += Outcome(objects_lost=len(lost), orphans=len([each for each in left if each[0] in made]), notes=notes)
        for each in sorted(before.keys() & after.keys()):
            if before[each] != after[each]:
                raise AssertionError(f"{what}: {' '.join(each)} is not as in an undisturbed run: {_difference(before[each], after[each])}")
    return outcome


def _difference(before: Any, after: Any, where: str = "") -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                return _difference(before.get(key), after.get(key), f"{where}.{key}")
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            if one != other:
                return _difference(one, other, f"{where}[{number}]")
    return f"{where} is {after!r}, not {before!r}"


async def _calm(story: str, *, attempts: bool = True) -> tuple[int, list[Ending]]:
    life = Life()
    endings = await tell(story, life, attempts=attempts)
    return life.world.mark, endings


async def crashes(stale: Callable[[int], int] | None = None, sparse: int = 1) -> Outcome:
    """Every story with a crash after each write (of `sparse`, one); `stale`: how many writes old the successor's first picture is. What
    it learns from conflicts comes a moment later then, and who was placed meanwhile may have had one attempt less or more."""
    total, died_in, exact = Outcome(), set(), stale is None
    for story in STORIES:
        writes, calm = await _calm(story, attempts=exact)
        for at in range(1, writes + 1, sparse):
            life = Killed(at, stale(at) if stale is not None else 0)
            shaken = await tell(story, life, attempts=exact)
            assert life.left < 0, f"{story}: the process was to be killed at write {at} of {writes}"
            died_in.add(life.in_the_midst_of)
            total += compare(calm, shaken, life, f"{story}, killed at write {at}")
    if sparse == 1 and (never := {kind.__name__ for kind in get_args(do.Write)} - died_in):
        raise AssertionError(f"no crash in the midst of {', '.join(sorted(never))}: the stories must make each kind of write")
    return total


def killed(seed: int, size: str) -> Outcome:
    """Exhaustive: the seed changes nothing."""
    del seed, size
    return asyncio.run(crashes())


def stale(seed: int, size: str) -> Outcome:
    chance = random.Random(seed)  # noqa: S311 - which faults there are
    total = Outcome()
    for _ in range(1 if size == "small" else 20):
        total += asyncio.run(crashes(lambda at: chance.randrange(1, 9), sparse=3 if size == "small" else 1))
    return total


def unobserved(seed: int, size: str) -> Outcome:
    async def lives() -> Outcome:
        total = Outcome()
        for story in STORIES:
            _, calm = await _calm(story, attempts=False)
            for number in range(20 if size == "small" else 1000):
                life = Blind(random.Random(f"{seed} {number}"))  # noqa: S311 - as above
                shaken = await tell(story, life, attempts=False)
                total += compare(calm, shaken, life, f"{story}, blind life {number}")
                total += Outcome(faults_injected=life.unseen - 1)
        return total

    return asyncio.run(lives())


SCENARIOS = (
    Scenario("operator-killed-at-every-write", "The operator is killed after each of its writes, of every kind.", "api", killed),
    Scenario("operator-restarts-with-a-stale-picture", "Its successor's first look is at what was so some writes ago.", "api", stale),
    Scenario("operator-sees-too-little", "States pass unseen, and some kinds of objects are seen later than others.", "api", unobserved),
)

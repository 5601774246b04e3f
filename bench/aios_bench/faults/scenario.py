"""What a scenario is, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

Place = Literal["api", "node", "cluster"]
"""What a scenario needs: nothing but an API server, real or in memory; a machine on which a node agent can run; a whole cluster."""
SIZES = ("small", "long")


class Failed(Exception):
    """A promise was broken, or the scenario could not be run; the message says which, and how to see it again."""


@dataclass(frozen=True)
class Outcome:
    """What was done to the system, and what came of it. All but the first number are 0 when every promise was kept."""

    faults_injected: int = 0
    objects_lost: int = 0
    """Objects that are there in an undisturbed run and not in this one."""
    orphans: int = 0
    """Objects, files, tables, sockets that are there and that nothing answers for."""
    double_identities: int = 0
    """How often an identity could have spoken from two places."""
    unfenced_starts: int = 0
    context_items_lost: int = 0
    """Of those that were acknowledged."""
    bytes_misbooked: int = 0
    """By how much what is booked differs from the sum of claims."""
    notes: tuple[str, ...] = ()
    """For a person: what else there is to know of the run."""

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(Outcome)})

    @property
    def broken(self) -> dict[str, int]:
        """Every number that should be 0 and is not."""
        numbers = {each.name: getattr(self, each.name) for each in fields(Outcome) if each.name not in ("faults_injected", "notes")}
        return {name: number for name, number in numbers.items() if number}


@dataclass(frozen=True)
class Scenario:
    """One kind of fault, in one place."""

    name: str
    about: str
    """One sentence."""
    place: Place
    work: Callable[[int, str], Outcome]
    """Given the seed and the size; raises what it finds broken, or counts it."""
    lacking: Callable[[], str | None] = lambda: None
    """Why this machine can't run it; None when it can."""

    def run(self, seed: int, size: str = "small") -> Outcome:
        """What came of it. Raises `Failed`, which names the seed and the command that replays it, when a promise was broken."""
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, not {size!r}")
        replay = f"replay: aiosctl bench faults --scenario {self.name} --seed {seed}" + (" --size long" if size == "long" else "")
        try:
            outcome = self.work(seed, size)
        except Exception as error:
            raise Failed(f"{self.name}, seed {seed}: {str(error) or repr(error)}\n{replay}") from error
        if outcome.broken:
            raise Failed("\n".join((f"{self.name}, seed {seed}: {outcome.broken}", *outcome.notes, replay)))
        return outcome

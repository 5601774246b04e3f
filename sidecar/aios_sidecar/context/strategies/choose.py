"""The three simple strategies, and what all of them fill: a room in tokens and items."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from aios_api.context import Extent
from aios_sidecar.context.units import Unit


class Reason(StrEnum):
    """Why a unit is in a window, or is not."""

    PINNED = "Pinned"
    FIRST = "First"
    NEWEST = "Newest"
    IMPORTANT = "Important"
    NEW = "New"
    """It came after the last eviction, and there is still room."""
    KEPT = "Kept"
    """It stayed at the last eviction."""
    RECALLED = "Recalled"
    """The question found it."""
    NO_ROOM = "NoRoom"
    TOO_LARGE = "TooLarge"
    """It alone is more than the room for its like."""
    EVICTED = "Evicted"
    """It left the window before, or lies outside what was looked at; a question finds it."""
    EXPIRED = "Expired"
    """It stayed in its tier as long as the tier's retention says."""
    NO_TIER = "NoTier"
    """No tier selects it."""
    SOURCES_SHOWN = "SourcesShown"
    """A summary of what is in the window itself."""
    CALL_WITHOUT_RESULT = "CallWithoutResult"
    RESULT_WITHOUT_CALL = "ResultWithoutCall"


class Candidate(NamedTuple):
    """A unit that may be shown."""

    unit: Unit
    cost: int
    """In tokens, at most."""


@dataclass
class Room:
    """What may still be filled."""

    tokens: int
    items: int | None = None
    """None: any number."""

    def fits(self, candidate: Candidate) -> bool:
        return candidate.cost <= self.tokens and (self.items is None or len(candidate.unit.items) <= self.items)

    def take(self, candidate: Candidate) -> None:
        self.tokens -= candidate.cost
        if self.items is not None:
            self.items -= len(candidate.unit.items)

    def within(self, other: "Room") -> "Room":
        """As large as the smaller of both, in each unit."""
        both = [items for items in (self.items, other.items) if items is not None]
        return Room(min(self.tokens, other.tokens), min(both) if both else None)

    def less(self, tokens: int, items: int) -> "Room":
        return Room(max(0, self.tokens - tokens), None if self.items is None else max(0, self.items - items))


def room_of(extent: Extent | None, budget: int) -> Room:
    """The room that `extent` is of `budget` tokens; the whole of it where nothing is said."""
    if extent is None:
        return Room(budget)
    if extent.items is not None:
        return Room(budget, extent.items)
    tokens = extent.tokens if extent.tokens is not None else math.floor(budget * (extent.percent or 100) / 100)
    return Room(min(budget, tokens))


class Verdict(NamedTuple):
    """What became of a unit, and why."""

    candidate: Candidate
    reason: Reason
    tier: str | None = None
    """Where there are tiers."""
    importance: float | None = None
    """Where it was reckoned."""


@dataclass
class Chosen:
    """What a strategy took, and what it left outside."""

    taken: list[Verdict] = field(default_factory=list)
    left: list[Verdict] = field(default_factory=list)


Importance = Callable[[Unit], float]


def choose(kind: str, candidates: Sequence[Candidate], room: Room, importance: Importance, tier: str | None = None) -> Chosen:
    """What `kind` (fixed, sliding, importance) takes of `candidates`, which are in the order of the log. `room` is what is left
    afterwards."""
    chosen, whole = Chosen(), Room(room.tokens, room.items)
    if kind == "importance":
        scores: Mapping[int, float] = {each.unit.first: importance(each.unit) for each in candidates}
        for each in sorted(candidates, key=lambda each: (-scores[each.unit.first], -each.unit.first)):
            score = scores[each.unit.first]
            if room.fits(each):
                room.take(each)
                chosen.taken.append(Verdict(each, Reason.IMPORTANT, tier, score))
            else:
                chosen.left.append(Verdict(each, Reason.NO_ROOM if whole.fits(each) else Reason.TOO_LARGE, tier, score))
        return chosen
    full = False
    for each in candidates if kind == "fixed" else reversed(candidates):
        if not whole.fits(each):
            chosen.left.append(Verdict(each, Reason.TOO_LARGE, tier))
        elif full or not room.fits(each):
            # What comes after a gap would be read as if nothing were missing: the first that does not fit ends it.
            full = True
            chosen.left.append(Verdict(each, Reason.NO_ROOM, tier))
        else:
            room.take(each)
            chosen.taken.append(Verdict(each, Reason.FIRST if kind == "fixed" else Reason.NEWEST, tier))
    return chosen

"""What is in a window without a question: what was kept at the last eviction, and all that came since, until there is no room.

Then one eviction makes room for many items to come, down to a mark: between two evictions windows only grow at their end, and what a
provider has cached of their beginning stays good. What was kept is a small note beside the log (`Plan`), derived: without it the next
window evicts anew.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, NamedTuple

from aios_api.context import Strategy, Tier
from aios_sidecar.context.costs import CostTable
from aios_sidecar.context.formats.base import Format
from aios_sidecar.context.items import Item
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.scoring.base import Known
from aios_sidecar.context.scoring.importance import importance
from aios_sidecar.context.strategies import PRESETS, Candidate, Chosen, Room, choose, choose_by_tiers
from aios_sidecar.context.strategies.choose import Reason, Verdict, room_of
from aios_sidecar.context.strategies.tiers import ages
from aios_sidecar.context.tokens import TokenCounter
from aios_sidecar.context.units import Fault, Unit, cut_short, is_tool, units_of

PAGE: Final = 256
POOL_ITEMS: Final = 4096
"""The newest so many items are weighed when something must go by its importance or tier. What is older is found by a question."""
OLDEST_ITEMS: Final = 64
"""And so many of the oldest: what an agent was told first."""
RUNS_LIMIT: Final = 16
"""More runs than that are read by their numbers at once."""
KEEP_PERCENT: Final = 85
"""Of the trigger, where a strategy does not say. A stream of dialogue in 8,000 tokens then keeps 98 % of each prompt's tokens cached."""
FAULTS: Final = {Fault.NO_RESULT: Reason.CALL_WITHOUT_RESULT, Fault.NO_CALL: Reason.RESULT_WITHOUT_CALL}


@dataclass(frozen=True)
class Plan:
    """What was kept at the last eviction."""

    upto: int
    """Items after this number are new."""
    kept: tuple[int, ...]
    """The others that are in the window, ascending; calls that wait for their result among them."""
    until: datetime | None = None
    """When the first item leaves its tier by age; then the plan is made anew."""
    tiers: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Which of them each tier took, where there are tiers: said in receipts."""

    def encode(self) -> str:
        document: dict[str, Any] = {"upto": self.upto, "runs": runs(self.kept)}
        if self.tiers:
            document["tiers"] = {name: runs(seqs) for name, seqs in self.tiers}
        if self.until is not None:
            document["until"] = self.until.isoformat()
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def decode(cls, kept: str | None) -> "Plan | None":
        """The plan, or None when there is none, or it is not one of this version's: then it is made anew."""
        if kept is None:
            return None
        try:
            document = json.loads(kept)
            until = document.get("until")
            tiers = tuple((str(name), _numbers(ranges)) for name, ranges in document.get("tiers", {}).items())
            end = None if until is None else datetime.fromisoformat(until)
            return cls(int(document["upto"]), _numbers(document["runs"]), end, tiers)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def tier_of(self, seq: int) -> str | None:
        return self._tier_by_seq.get(seq)

    @cached_property
    def _tier_by_seq(self) -> Mapping[int, str]:
        return {seq: name for name, seqs in self.tiers for seq in seqs}


def _numbers(ranges: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(seq for first, last in ranges for seq in range(int(first), int(last) + 1))


def runs(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as pairs of first and last, without gaps between them."""
    found: list[tuple[int, int]] = []
    for seq in seqs:
        if found and found[-1][1] == seq - 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return found


@dataclass(frozen=True)
class Scene:
    """What a window is built in: who reads, counts, writes, and when."""

    reader: Reader
    session: str | None
    form: Format
    counter: TokenCounter
    costs: CostTable
    known: Known
    now: datetime

    def units(self, items: Iterable[Item]) -> list[Unit]:
        return units_of(items, self.reader.forks())

    def candidate(self, unit: Unit) -> Candidate:
        return Candidate(unit, self.costs.unit(unit, self.form, self.counter))

    def importance(self, unit: Unit) -> float:
        facts = self.known.of_items(unit.items)
        return max(importance(item, facts[item.seq].concrete, self.now) for item in unit.items)


@dataclass(frozen=True)
class Shown:
    """What a plan showed last, so that only what came since is read. Items never change; what is gone is noticed by `gone`."""

    plan: Plan
    upto: int
    """The newest entry that was looked at."""
    gone: int
    """How many entries of the log were erased or retired by then."""
    pinned: frozenset[int]
    items: Sequence[Item]
    taken: Sequence[Verdict]
    left: Sequence[Verdict]
    tokens: int


@dataclass
class Base:
    """The window without what a question recalls."""

    chosen: Chosen = field(default_factory=Chosen)
    plan: Plan | None = None
    """Set when it changed."""
    shown: Shown | None = None
    """What the next call may begin from."""
    looked_from: int = 1
    """Items before this number were not looked at, beside those that are named."""


class _Read(NamedTuple):
    items: Sequence[Item]
    complete: bool
    """Nothing older is left."""


def base_window(
    scene: Scene, strategy: Strategy, plan: Plan | None, before: Shown | None, room: Room, available: int, pinned: frozenset[int]
) -> Base:
    """What `strategy` shows in `room`; units with items in `pinned` are left to the caller."""
    if room.tokens <= 0:
        return Base(looked_from=scene.reader.last_seq() + 1)
    if strategy.type == "fixed":
        return _fixed(scene, room_of(strategy.trigger, available).within(room), pinned)
    trigger = room_of(strategy.trigger, available).within(room)
    if plan is not None and (plan.until is None or scene.now < plan.until):
        continued = _continue(scene, plan, before, trigger, pinned)
        if continued is not None:
            return continued
    return _evict(scene, strategy, plan, trigger, _mark(strategy, trigger, available), pinned)


def _mark(strategy: Strategy, trigger: Room, available: int) -> Room:
    if strategy.keep is not None:
        return room_of(strategy.keep, available).within(trigger)
    return Room(trigger.tokens * KEEP_PERCENT // 100, None if trigger.items is None else trigger.items * KEEP_PERCENT // 100)


def _fixed(scene: Scene, room: Room, pinned: frozenset[int]) -> Base:
    """The first that fit. Nothing is ever evicted: what comes later does not come in."""
    base, after = Base(), 0
    whole = Room(room.tokens, room.items)
    items: list[Item] = []
    while True:
        page = scene.reader.oldest(PAGE, after, scene.session)
        items.extend(page)
        if len(page) < PAGE:
            break
        after = page[-1].seq
        if sum(scene.candidate(unit).cost for unit in scene.units(items)) > whole.tokens or (
            whole.items is not None and len(items) > whole.items + PAGE
        ):
            break
    shown, base.chosen.left = _showable(scene, scene.units(items), pinned)
    picked = choose("fixed", shown, room, scene.importance)
    base.chosen.taken, base.chosen.left = picked.taken, [*base.chosen.left, *picked.left]
    return base


def _continue(scene: Scene, plan: Plan, before: Shown | None, trigger: Room, pinned: frozenset[int]) -> Base | None:
    """The plan with all that came since; None when that is more than there is room for."""
    last = scene.reader.last_seq()
    gone = last - scene.reader.count()
    current = before is not None and (before.plan, before.gone, before.pinned) == (plan, gone, pinned)
    begun = before if current else None
    new = _newer(scene, plan.upto if begun is None else begun.upto, last, trigger)
    if new is None:
        return None
    if begun is not None and not any(map(is_tool, new)):
        added, left = _showable(scene, scene.units(new), pinned)
        taken = [*begun.taken, *(Verdict(each, Reason.NEW) for each in added)]
        left = [*begun.left, *left]
        tokens = begun.tokens + sum(each.cost for each in added)
        items = [*begun.items, *new]
    else:
        items = [*(_read_kept(scene, plan) if begun is None else begun.items), *new]
        shown, left = _showable(scene, scene.units(items), pinned)
        taken = [_verdict(plan, each) for each in shown]
        tokens = sum(each.cost for each in shown)
    if tokens > trigger.tokens or (trigger.items is not None and sum(len(each.candidate.unit.items) for each in taken) > trigger.items):
        return None
    shown_now = Shown(plan, last, gone, pinned, items, taken, left, tokens)
    return Base(Chosen(taken, left), shown=shown_now, looked_from=plan.upto + 1)


def _verdict(plan: Plan, each: Candidate) -> Verdict:
    first = each.unit.items[0].seq
    return Verdict(each, Reason.NEW) if first > plan.upto else Verdict(each, Reason.KEPT, plan.tier_of(first))


def _newer(scene: Scene, upto: int, last: int, trigger: Room) -> Sequence[Item] | None:
    """All items after `upto`; None when they alone are surely more than there is room for."""
    if last - upto <= PAGE:
        return scene.reader.range(upto + 1, last, scene.session) if last > upto else []
    limit = PAGE
    new = scene.reader.newest(limit, session=scene.session)
    while len(new) == limit and new[0].seq > upto + 1:
        if sum(scene.candidate(unit).cost for unit in scene.units(new)) > trigger.tokens:
            return None
        limit *= 4
        new = scene.reader.newest(limit, session=scene.session)
    start = next((index for index, item in enumerate(new) if item.seq > upto), len(new))
    return new[start:]


def _read_kept(scene: Scene, plan: Plan) -> Sequence[Item]:
    ranges = runs(plan.kept)
    if len(ranges) > RUNS_LIMIT:
        return scene.reader.by_seq(plan.kept)
    return [item for first, last in ranges for item in scene.reader.range(first, last)]


def _evict(scene: Scene, strategy: Strategy, plan: Plan | None, trigger: Room, mark: Room, pinned: frozenset[int]) -> Base:
    read = _pool(scene, strategy, trigger)
    shown, left = _showable(scene, scene.units(read.items if read.complete else cut_short(read.items)), pinned)
    everything = sum(each.cost for each in shown) <= trigger.tokens and (
        trigger.items is None or sum(len(each.unit.items) for each in shown) <= trigger.items
    )
    # What was never evicted from is not evicted from before it must be.
    room = trigger if read.complete and everything else mark
    tiers = _tiers(strategy)
    if tiers is not None:
        oldest = [] if read.complete else _oldest(scene, read.items, pinned)
        chosen = choose_by_tiers(tiers, [*oldest, *shown], Room(room.tokens, room.items), scene.importance, scene.now)
    else:
        chosen = _choose(scene, strategy.type, shown, Room(room.tokens, room.items))
    waiting = [each.candidate.unit for each in left if each.reason is Reason.CALL_WITHOUT_RESULT]
    chosen.left.extend(left)
    kept = sorted(item.seq for unit in [*(each.candidate.unit for each in chosen.taken), *waiting] for item in unit.items)
    upto = scene.reader.last_seq()
    if not read.items:
        return Base(chosen)  # without a plan: an empty session may become a fork, which begins with older items
    made = Plan(upto, tuple(kept), _until(tiers, chosen), _by_tier(chosen))
    looked_from = 1 if read.complete or not read.items else read.items[0].seq
    return Base(chosen, None if made == plan else made, looked_from=looked_from)


def _choose(scene: Scene, kind: str, shown: Sequence[Candidate], room: Room) -> Chosen:
    if kind != "importance" or not shown or not room.fits(shown[-1]):
        return choose(kind, shown, room, scene.importance)
    # What was said last is what an answer is due to, however little there is in it.
    room.take(shown[-1])
    chosen = choose(kind, shown[:-1], room, scene.importance)
    chosen.taken.append(Verdict(shown[-1], Reason.NEWEST))
    return chosen


def _tiers(strategy: Strategy) -> Sequence[Tier] | None:
    if strategy.preset is not None:
        return PRESETS[strategy.preset]
    return strategy.tiers


def _by_tier(chosen: Chosen) -> tuple[tuple[str, tuple[int, ...]], ...]:
    found: dict[str, list[int]] = {}
    for each in chosen.taken:
        if each.tier is not None:
            found.setdefault(each.tier, []).extend(item.seq for item in each.candidate.unit.items)
    return tuple((name, tuple(sorted(seqs))) for name, seqs in found.items())


def _until(tiers: Sequence[Tier] | None, chosen: Chosen) -> datetime | None:
    """When the first unit that is shown is past its tier's age."""
    if tiers is None or not ages(tiers):
        return None
    by_name = {tier.name: tier for tier in tiers}
    ends = []
    for each in chosen.taken:
        retention = by_name[each.tier].retention if each.tier is not None else None
        if retention is not None and retention.age_seconds is not None:
            ends.append(each.candidate.unit.items[-1].time + timedelta(seconds=retention.age_seconds, microseconds=1))
    return min(ends, default=None)


def _pool(scene: Scene, strategy: Strategy, trigger: Room) -> _Read:
    """What is weighed: for a sliding window until it is surely full; else the newest `POOL_ITEMS`."""
    items: list[Item] = []
    before: int | None = None
    while True:
        page = scene.reader.newest(PAGE, before, scene.session)
        items[:0] = page
        if len(page) < PAGE:
            return _Read(items, True)
        before = page[0].seq
        if len(items) >= POOL_ITEMS:
            return _Read(items, False)
        if strategy.type == "sliding" and (
            sum(scene.candidate(unit).cost for unit in scene.units(cut_short(items))) > trigger.tokens
            or (trigger.items is not None and len(items) > trigger.items + PAGE)
        ):
            return _Read(items, False)


def _oldest(scene: Scene, pool: Sequence[Item], pinned: frozenset[int]) -> list[Candidate]:
    oldest = [item for item in scene.reader.oldest(OLDEST_ITEMS, 0, scene.session) if item.seq < pool[0].seq]
    shown, _ = _showable(scene, scene.units(oldest), pinned)
    return shown


def _showable(scene: Scene, units: Iterable[Unit], pinned: frozenset[int]) -> tuple[list[Candidate], list[Verdict]]:
    """Those that a strategy may choose from, and those with a fault. Pinned ones are in neither."""
    shown: list[Candidate] = []
    left: list[Verdict] = []
    for unit in units:
        if pinned and not pinned.isdisjoint(item.seq for item in unit.items):
            continue
        if unit.fault is None:
            shown.append(scene.candidate(unit))
        else:
            left.append(Verdict(scene.candidate(unit), FAULTS[unit.fault]))
    return shown, left

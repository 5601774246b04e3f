"""The hierarchical strategy: tiers take units in their order, each within its room, each by a strategy of its own."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from aios_api.context import Extent, Tier, TierRetention, TierSelector
from aios_sidecar.context.strategies.choose import Candidate, Chosen, Importance, Reason, Room, Verdict, choose, room_of
from aios_sidecar.context.units import Unit

PRESETS: Final[Mapping[str, tuple[Tier, ...]]] = {
    "CoreWorkingArchive": (
        Tier(name="core", select=TierSelector(roles=["system"]), max=Extent(percent=50), strategy="fixed"),
        Tier(name="working", share=60, strategy="sliding"),
        Tier(name="archive", strategy="importance"),
    )
}
"""core: what the agent was told. working: what is going on. archive: what most likely matters of the rest."""


class _Context(NamedTuple):
    """What tiers judge by."""

    importance: Importance
    now: datetime


def choose_by_tiers(tiers: Sequence[Tier], candidates: Sequence[Candidate], room: Room, importance: Importance, now: datetime) -> Chosen:
    """What the tiers take of `candidates`, which are in the order of the log. `room` is what is left afterwards.

    First each tier takes within its share, its min and its max, and leaves what the tiers after it are promised. Then what no tier used is
    offered once more, in the same order, up to each tier's max.
    """
    context = _Context(importance, now)
    budget = room.tokens
    promised = [_promise(tier, budget) for tier in tiers]
    remaining = list(candidates)
    chosen = Chosen()
    members: dict[str, list[Candidate]] = {}
    held: dict[str, Room] = {}
    verdicts: dict[int, Verdict] = {}
    for index, tier in enumerate(tiers):
        own = [each for each in remaining if _belongs(tier, each.unit, context)]
        staying, expired = _retained(tier.retention, own, now)
        verdicts.update((each.unit.first, Verdict(each, Reason.EXPIRED, tier.name)) for each in expired)
        later = sum(promised[index + 1 :])
        free = Room(max(0, room.tokens - later), room.items)
        size = _size(tier, budget, free)
        before = Room(size.tokens, size.items)
        picked = choose(tier.strategy, staying, size, importance, tier.name)
        used = Room(before.tokens - size.tokens, sum(len(each.candidate.unit.items) for each in picked.taken))
        room.tokens -= used.tokens
        if room.items is not None:
            room.items -= used.items or 0
        chosen.taken += picked.taken
        held[tier.name] = used
        members[tier.name] = [each.candidate for each in picked.left]
        verdicts.update((each.candidate.unit.first, each) for each in picked.left)
        gone = {each.candidate.unit.first for each in picked.taken}
        if not tier.demote:
            gone |= {each.unit.first for each in own}
        remaining = [each for each in remaining if each.unit.first not in gone]
    _offer_again(tiers, members, held, room, budget, chosen, importance)
    shown = {each.candidate.unit.first for each in chosen.taken}
    for each in candidates:
        if each.unit.first not in shown:
            chosen.left.append(verdicts.get(each.unit.first, Verdict(each, Reason.NO_TIER)))
    return chosen


def _offer_again(
    tiers: Sequence[Tier],
    members: Mapping[str, Sequence[Candidate]],
    held: Mapping[str, Room],
    room: Room,
    budget: int,
    chosen: Chosen,
    importance: Importance,
) -> None:
    shown = {each.candidate.unit.first for each in chosen.taken}
    for tier in tiers:
        most = room_of(tier.max, budget)
        used = held[tier.name]
        free = room.within(most.less(used.tokens, used.items or 0))
        before = free.tokens
        again = [each for each in members[tier.name] if each.unit.first not in shown]
        picked = choose(tier.strategy, again, free, importance, tier.name)
        room.tokens -= before - free.tokens
        if room.items is not None:
            room.items -= sum(len(each.candidate.unit.items) for each in picked.taken)
        chosen.taken += picked.taken
        shown |= {each.candidate.unit.first for each in picked.taken}


def _promise(tier: Tier, budget: int) -> int:
    """Tokens that no tier before this one may take. Items have no tokens before they are counted: they promise nothing."""
    return 0 if tier.min is None or tier.min.items is not None else room_of(tier.min, budget).tokens


def _size(tier: Tier, budget: int, free: Room) -> Room:
    """The tier's room in the first round."""
    wanted = free.tokens if tier.share is None else budget * tier.share // 100
    wanted = max(wanted, _promise(tier, budget))
    return Room(wanted).within(room_of(tier.max, budget)).within(free)


def _belongs(tier: Tier, unit: Unit, context: _Context) -> bool:
    if tier.select is None or _selects(tier.select, unit):
        return True
    up = tier.promote
    if up is None:
        return False
    return (up.accesses is not None and sum(item.accesses[0] for item in unit.items) >= up.accesses) or (
        up.importance is not None and context.importance(unit) * 100 >= up.importance
    )


def _selects(select: TierSelector, unit: Unit) -> bool:
    """One item of the unit has all that is asked for: then the whole unit comes."""
    return any(
        (select.kinds is None or item.kind in select.kinds)
        and (select.roles is None or item.role in select.roles)
        and (select.labels is None or select.labels.items() <= item.labels.items())
        for item in unit.items
    )


def _retained(retention: TierRetention | None, own: Sequence[Candidate], now: datetime) -> tuple[list[Candidate], list[Candidate]]:
    """Who stays in the tier and who has been there long enough; both in the order of the log."""
    if retention is None:
        return list(own), []
    staying: list[Candidate] = []
    items = tokens = 0
    over = False
    for each in reversed(own):
        items += len(each.unit.items)
        tokens += each.cost
        old = retention.age_seconds is not None and (now - each.unit.items[-1].time).total_seconds() > retention.age_seconds
        over = (
            over
            or (retention.items is not None and items > retention.items)
            or (retention.tokens is not None and tokens > retention.tokens)
        )
        if not over and not old:
            staying.append(each)
    kept = {each.unit.first for each in staying}
    return staying[::-1], [each for each in own if each.unit.first not in kept]


def ages(tiers: Sequence[Tier]) -> list[int]:
    """The ages after which items leave a tier."""
    return [tier.retention.age_seconds for tier in tiers if tier.retention is not None and tier.retention.age_seconds is not None]

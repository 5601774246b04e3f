"""What is in a window together or not at all: a tool call with its results, calls that were made at once with all of theirs."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from aios_sidecar.context.items import Item, Kind
from aios_sidecar.context.reader import Forks, Reader

NO_FORKS: Final[Forks] = {}
NEIGHBOURS: Final = 16
"""Read at once beside a call, to see which were made with it."""


class Fault(StrEnum):
    """Why a unit can't be shown as what it is."""

    NO_RESULT = "CallWithoutResult"
    NO_CALL = "ResultWithoutCall"


class Unit(NamedTuple):
    """Items that providers accept only together; most units are one message."""

    items: tuple[Item, ...]
    """Calls first, then their results, each in the order of the log."""
    fault: Fault | None = None

    @property
    def first(self) -> int:
        """Its place in the log: that of its first item."""
        return self.items[0].seq

    @property
    def last(self) -> int:
        """Its newest item."""
        return self.items[-1].seq

    @property
    def pinned(self) -> bool:
        """One of its items is pinned: then all of them stay."""
        return any(item.pinned for item in self.items)

    @property
    def calls(self) -> tuple[Item, ...]:
        """Its tool calls; empty for a message."""
        return tuple(item for item in self.items if item.kind is Kind.TOOL_CALL)


def is_tool(item: Item) -> bool:
    """It needs others beside it: a call its results, a result its call."""
    return item.kind is Kind.TOOL_CALL or item.kind is Kind.TOOL_RESULT


def units_of(items: Iterable[Item], forks: Forks = NO_FORKS) -> list[Unit]:
    """The units of items in the order of the log. A call whose result is not among them, and a result without its call, have a fault."""
    found: list[Unit | list[Item]] = []
    awaited: dict[tuple[str, str | None], list[tuple[int, list[Item]]]] = {}
    for item in items:
        if item.kind is Kind.TOOL_CALL:
            group = found[-1] if found and isinstance(found[-1], list) else []
            if not (group and _goes_on(group, item)):
                group = []
                found.append(group)
            group.append(item)
            awaited.setdefault((item.session, item.call_id), []).append((item.seq, group))
        elif item.kind is not Kind.TOOL_RESULT:
            found.append(Unit((item,)))
        elif group := _awaiting(awaited, forks, item):
            group.append(item)
        else:
            found.append(Unit((item,), Fault.NO_CALL))
    return [each if isinstance(each, Unit) else _group(each) for each in found]


def _awaiting(awaited: Mapping[tuple[str, str | None], Sequence[tuple[int, list[Item]]]], forks: Forks, result: Item) -> list[Item]:
    """The group of the newest call with its id that the session of `result` has, or shares with what it was forked from."""
    session, upto = result.session, result.seq
    while True:
        for seq, group in reversed(awaited.get((session, result.call_id), ())):
            if seq <= upto:
                return group
        if session not in forks:
            return []
        session, last = forks[session]
        upto = min(upto, last)


def is_in_line(forks: Forks, session: str, item: Item) -> bool:
    """Whether the item is in this session or in what that shares with the one it was forked from."""
    upto = item.seq
    while item.session != session and session in forks:
        session, last = forks[session]
        upto = min(upto, last)
    return item.session == session and item.seq <= upto


def _goes_on(group: Sequence[Item], call: Item) -> bool:
    """`call` was made at once with those of `group`: its number follows theirs. So it is clear from the items themselves, whatever is
    read."""
    last = group[-1]
    return (
        last.kind is Kind.TOOL_CALL
        and last.seq == call.seq - 1
        and last.session == call.session
        and all(other.call_id != call.call_id for other in group)
    )


def _group(items: Sequence[Item]) -> Unit:
    called = {item.call_id for item in items if item.kind is Kind.TOOL_CALL}
    answered = {item.call_id for item in items if item.kind is Kind.TOOL_RESULT}
    return Unit(tuple(items), None if called <= answered else Fault.NO_RESULT)


def cut_short(items: Sequence[Item]) -> Sequence[Item]:
    """`items` without the calls and results at their beginning: those may belong to a unit that began before. With several sessions at
    once, what is left of such a unit has a fault, or is whole by itself."""
    start = next((index for index, item in enumerate(items) if not is_tool(item)), len(items))
    return items[start:] if start else items


def complete(reader: Reader, items: Sequence[Item], session: str | None = None) -> list[Unit]:
    """The whole units that `items` belong to, each once, in the order of the log; with `session`, as far as that has them."""
    forks = reader.forks()
    found = {unit.first: unit for unit in units_of(item for item in items if not is_tool(item))}
    complete_already = set[int]()
    for item in items:
        if is_tool(item) and item.seq not in complete_already:
            unit = _unit_with(reader, item, session, forks)
            complete_already.update(each.seq for each in unit.items)
            found[unit.first] = unit
    return [found[first] for first in sorted(found)]


def _unit_with(reader: Reader, item: Item, session: str | None, forks: Forks) -> Unit:
    call = item if item.kind is Kind.TOOL_CALL else reader.call_of(item)
    if call is None:
        return Unit((item,), Fault.NO_CALL)
    around = _made_at_once(reader, call)
    for each in list(around.values()):
        around.update((answer.seq, answer) for answer in reader.answers(each))
    if session is not None:
        around = {seq: each for seq, each in around.items() if is_in_line(forks, session, each)}
    whole = units_of((around[seq] for seq in sorted(around)), forks)
    return next(unit for unit in whole if any(each.seq == item.seq for each in unit.items))


def _made_at_once(reader: Reader, call: Item) -> dict[int, Item]:
    """The calls whose numbers follow one another, `call` among them."""
    found, edges = {call.seq: call}, [call.seq]
    while edges:
        edge = edges.pop()
        calls = {each.seq: each for each in reader.neighbours(edge, NEIGHBOURS) if each.kind is Kind.TOOL_CALL}
        for step in (-1, 1):
            seq = edge + step
            while seq in calls and seq not in found:
                found[seq] = calls[seq]
                seq += step
            if abs(seq - edge) > NEIGHBOURS:
                edges.append(seq - step)
    return found

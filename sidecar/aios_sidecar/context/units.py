"""What is in a window together or not at all: a tool call with its results, calls that were made at once with all of theirs."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from aios_sidecar.context.items import Item, Kind
from aios_sidecar.context.reader import Reader

PARALLEL_LIMIT: Final = 16
"""Calls made at once that a single item is completed to. Longer runs are completed when they are read in a row."""


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


def units_of(items: Iterable[Item], one_line: bool = False) -> list[Unit]:
    """The units of items in the order of the log. A call whose result is not among them, and a result without its call, have a fault.

    With `one_line` they are one conversation whatever their session: a fork begins with the items of what it was forked from.
    """
    found: list[Unit | list[Item]] = []
    awaited: dict[tuple[str, str | None], list[Item]] = {}
    for item in items:
        session = "" if one_line else item.session
        if item.kind is Kind.TOOL_CALL:
            group = found[-1] if found and isinstance(found[-1], list) else []
            if not (group and _goes_on(group, item, one_line)):
                group = []
                found.append(group)
            group.append(item)
            awaited[session, item.call_id] = group
        elif item.kind is not Kind.TOOL_RESULT:
            found.append(Unit((item,)))
        elif group := awaited.get((session, item.call_id), []):
            group.append(item)
        else:
            found.append(Unit((item,), Fault.NO_CALL))
    return [each if isinstance(each, Unit) else _group(each) for each in found]


def _goes_on(group: Sequence[Item], call: Item, one_line: bool) -> bool:
    """`call` was made at once with those of `group`: its number follows theirs. So it is clear from the items themselves, whatever is
    read."""
    last = group[-1]
    return (
        last.kind is Kind.TOOL_CALL
        and last.seq == call.seq - 1
        and (one_line or last.session == call.session)
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


def complete(reader: Reader, items: Sequence[Item]) -> list[Unit]:
    """The whole units that `items` belong to, each once, in the order of the log."""
    found = {unit.first: unit for unit in units_of(item for item in items if not is_tool(item))}
    for item in items:
        if is_tool(item):
            unit = _unit_with(reader, item)
            found[unit.first] = unit
    return [found[first] for first in sorted(found)]


def _unit_with(reader: Reader, item: Item) -> Unit:
    partners = [each for each in reader.by_call([item.call_id or ""]) if each.session == item.session and is_tool(each)]
    around = {each.seq: each for each in (item, *partners)}
    for call in [each for each in partners if each.kind is Kind.TOOL_CALL]:
        around.update((each.seq, each) for each in reader.neighbours(call.seq, PARALLEL_LIMIT))
    ids = {each.call_id for each in around.values() if each.call_id is not None and is_tool(each)}
    around.update((each.seq, each) for each in reader.by_call(ids) if each.session == item.session)
    whole = units_of(around[seq] for seq in sorted(around))
    return next(unit for unit in whole if any(each.seq == item.seq for each in unit.items))

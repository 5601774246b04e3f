"""What units cost, reckoned once: items never change."""

from typing import Final

from aios_sidecar.context.formats.base import Format, line_cost
from aios_sidecar.context.items import Item
from aios_sidecar.context.tokens import TokenCounter
from aios_sidecar.context.units import Unit, is_tool

COSTS_LIMIT: Final = 100_000
"""Of one context, counter and format: about 10 MiB. Then they are reckoned anew."""
TABLES_LIMIT: Final = 8
"""Pairs of counter and format of one context."""
UnitKey = int | tuple[int, ...]


class CostTable:
    """Costs in one format by one counter."""

    def __init__(self) -> None:
        self._units: dict[UnitKey, int] = {}
        self._lines: dict[int, int] = {}

    def unit(self, unit: Unit, form: Format, counter: TokenCounter) -> int:
        """What `unit` adds at most, as part of the window itself."""
        items = unit.items
        key: UnitKey = items[0].seq if len(items) == 1 else tuple(item.seq for item in items)
        cost = self._units.get(key)
        if cost is None:
            if len(self._units) >= COSTS_LIMIT:
                self._units.clear()
            cost = self._units[key] = form.cost(unit, counter)
        return cost

    def known_line(self, seq: int) -> int | None:
        """What the item costs as a recalled line, if that was reckoned before; None for calls and results, which do not come alone."""
        return self._lines.get(seq)

    def line(self, item: Item, counter: TokenCounter) -> int:
        cost = self._lines.get(item.seq)
        if cost is None:
            cost = line_cost(Unit((item,)), counter)
            if not is_tool(item):
                if len(self._lines) >= COSTS_LIMIT:
                    self._lines.clear()
                self._lines[item.seq] = cost
        return cost


class Costs:
    """The tables of one context. For one thread at a time."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], CostTable] = {}

    def table(self, form: Format, counter: TokenCounter) -> CostTable:
        key = (form.name, counter.name)
        table = self._tables.pop(key, None) or CostTable()
        self._tables[key] = table
        while len(self._tables) > TABLES_LIMIT:
            del self._tables[next(iter(self._tables))]
        return table

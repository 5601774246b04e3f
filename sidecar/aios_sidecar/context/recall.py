"""What a question brings into a window: the best that a scorer finds, as many as fit, written at the window's end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from aios_sidecar.context.eviction import Scene
from aios_sidecar.context.formats.base import line_cost
from aios_sidecar.context.items import Item
from aios_sidecar.context.scoring.base import Scored, Scorer
from aios_sidecar.context.units import Unit, complete, is_tool

CHUNK: Final = 128
MISSES_LIMIT: Final = 64
"""So many in a row that do not fit end the search for smaller ones."""
LEFT_LIMIT: Final = 64
"""So many that were found and left out are named in the receipt, the best of them."""


class Recalled(NamedTuple):
    """A unit that the question found."""

    unit: Unit
    cost: int
    scored: Scored


@dataclass
class Recall:
    """What came, in the order of the log, and what was found and left out, best first."""

    taken: list[Recalled] = field(default_factory=list)
    left: list[Scored] = field(default_factory=list)
    cost: int = 0
    """Of all that came, with the message around it."""


def recall(scene: Scene, question: str, scorer: Scorer, room_tokens: int, shown: set[int]) -> Recall:
    """The best items for `question` that are not in `shown` and fit into `room_tokens`; what does not fit is skipped."""
    found = Recall()
    around = scene.form.recall_cost(scene.counter)
    packing = _Packing(scene, room_tokens - around, set(shown))
    if packing.left <= 0:
        return found
    ranked = (scored for scored in scorer.score(question, scene.reader, scene.known, scene.session) if scored.seq not in shown)
    while packing.misses < MISSES_LIMIT and (chunk := list(islice(ranked, CHUNK))):
        packing.offer(chunk)
    found.taken = packing.recalled()
    found.left = packing.skipped[:LEFT_LIMIT]
    found.cost = around + sum(each.cost for each in found.taken) if found.taken else 0
    return found


class _Packing:
    def __init__(self, scene: Scene, room_tokens: int, shown: set[int]) -> None:
        self._scene = scene
        self.left = room_tokens
        self.misses = 0
        self.skipped: list[Scored] = []
        self._shown = shown
        self._units: dict[int, Recalled] = {}
        self._by_cost: list[tuple[Scored, int]] = []
        """Messages whose cost was known: they are read once it is clear that they come."""

    def offer(self, chunk: Sequence[Scored]) -> None:
        costs = self._scene.costs
        unknown = [scored.seq for scored in chunk if costs.known_line(scored.seq) is None]
        items = {item.seq: item for item in self._scene.reader.by_seq(unknown)} if unknown else {}
        for scored in chunk:
            if scored.seq in self._shown:
                continue
            item = items.get(scored.seq)
            if item is not None and is_tool(item):
                self._offer_unit(scored, item)
                continue
            cost = costs.known_line(scored.seq) if item is None else costs.line(item, self._scene.counter)
            if cost is None:
                continue  # it was erased since it was found
            if self._fits(scored, cost):
                self._shown.add(scored.seq)
                if item is None:
                    self._by_cost.append((scored, cost))
                else:
                    self._units[scored.seq] = Recalled(Unit((item,)), cost, scored)

    def _offer_unit(self, scored: Scored, item: Item) -> None:
        unit = complete(self._scene.reader, [item], self._scene.session)[0]
        seqs = {each.seq for each in unit.items}
        if self._shown.isdisjoint(seqs):
            cost = line_cost(unit, self._scene.counter)
            if self._fits(scored, cost):
                self._shown |= seqs
                self._units[unit.first] = Recalled(unit, cost, scored)

    def _fits(self, scored: Scored, cost: int) -> bool:
        if cost > self.left:
            self.misses += 1
            self.skipped.append(scored)
            return False
        self.misses = 0
        self.left -= cost
        return True

    def recalled(self) -> list[Recalled]:
        """In the order of the log."""
        by_seq = {scored.seq: (scored, cost) for scored, cost in self._by_cost}
        for item in self._scene.reader.by_seq(by_seq):
            scored, cost = by_seq[item.seq]
            self._units[item.seq] = Recalled(Unit((item,)), cost, scored)
        return [self._units[seq] for seq in sorted(self._units)]

"""The interface of a scorer, and what is known of items without reading them again."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from aios_sidecar.context.formats.base import text
from aios_sidecar.context.items import Item
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.scoring.importance import concreteness, features

KNOWN_LIMIT: Final = 65_536
"""Items of one context whose facts are kept between calls: about 15 MiB."""
LINES_LIMIT: Final = 64
"""Sessions of one context whose order is kept between calls."""


class Scored(NamedTuple):
    """An item and why it is worth showing."""

    seq: int
    score: float
    values: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def parts(self) -> Mapping[str, float]:
        """What the score is the sum of."""
        return {name: round(value, 4) for name, value in zip(self.names, self.values, strict=True) if value}


class Facts(NamedTuple):
    """Of one item; they never change."""

    session: str
    author: str
    """In lower case; empty where the role tells who spoke."""
    concrete: float
    """How much of it may be asked for later: see `importance.concreteness`."""
    asks: bool
    """It ends with a question."""
    timed: bool
    """It names a time."""


class Vectors:
    """Those of one context's items by one model. For one thread at a time."""

    def __init__(self) -> None:
        self.name = ""
        """The model that they are by."""
        self.rows: dict[int, Any] = {}
        self.new: dict[int, bytes] = {}
        """Those that were made and are not kept with the context yet."""

    def under(self, name: str) -> dict[int, Any]:
        """The rows that are by this model. Those by another are forgotten."""
        if name != self.name:
            self.name, self.rows, self.new = name, {}, {}
        return self.rows

    def take_new(self) -> tuple[str, Mapping[int, bytes]] | None:
        """What is to be kept with the context, with the model's name, once."""
        new, self.new = self.new, {}
        return (self.name, new) if new else None


class Known:
    """The facts of one context's items, each read once. For one thread at a time."""

    def __init__(self) -> None:
        self.vectors = Vectors()
        self._facts: dict[int, Facts] = {}
        self._lines: dict[str | None, tuple[int, int, list[int]]] = {}

    def learn(self, items: Iterable[Item]) -> None:
        for item in items:
            if item.seq not in self._facts:
                found = features(text(item))
                self._facts[item.seq] = Facts(item.session, (item.author or "").lower(), concreteness(found), found.asks, found.times > 0)

    def of_items(self, items: Sequence[Item]) -> dict[int, Facts]:
        """Facts of items that are at hand."""
        self._make_room()
        self.learn(items)
        return {item.seq: self._facts[item.seq] for item in items}

    def of(self, reader: Reader, seqs: Collection[int]) -> dict[int, Facts]:
        """Facts of those of `seqs` that there are."""
        there = reader.there(seqs)
        return self._facts_of(reader, [seq for seq in seqs if seq in there])

    def of_line(self, reader: Reader, session: str | None) -> dict[int, Facts]:
        """Facts of all items of a session, or of all, in the order of the log."""
        return self._facts_of(reader, self._line(reader, session))

    def _facts_of(self, reader: Reader, seqs: Sequence[int]) -> dict[int, Facts]:
        self._make_room()
        known = self._facts
        unknown = [seq for seq in seqs if seq not in known]
        if unknown:
            self.learn(reader.by_seq(unknown))
        return {seq: known[seq] for seq in seqs}

    def _line(self, reader: Reader, session: str | None) -> Sequence[int]:
        upto, gone, line = self._lines.pop(session, (0, 0, []))
        last = reader.last_seq()
        if (gone_now := last - reader.count()) != gone:  # it may be something of what is known
            upto, gone, line = 0, gone_now, []
        if last > upto:
            new = reader.range(upto + 1, last, session)
            self.learn(new)
            line.extend(item.seq for item in new)
        self._lines[session] = (last if line else 0, gone, line)  # an empty session may become a fork, which begins with older items
        while len(self._lines) > LINES_LIMIT:
            del self._lines[next(iter(self._lines))]
        return line

    def _make_room(self) -> None:
        while len(self._facts) > KNOWN_LIMIT:
            del self._facts[next(iter(self._facts))]


class Scorer(Protocol):
    """Finds what answers a question."""

    def score(self, question: str, reader: Reader, known: Known, session: str | None) -> Iterable[Scored]:
        """Items that are worth showing, best first; each at most once. Items that are not named are worth nothing."""

"""How much a context may hold, and what is removed to keep it so. Pure: the back end says what there is, this says what goes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, NamedTuple

from aios_sidecar.context.items import Kind

MIB: Final = 1 << 20
DAY_SECONDS: Final = 86_400
LOW_MARK: Final = 0.95
"""Retention by number or bytes removes down to this share: once in many appends, not at each."""
LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
STAY: Final = "stay, being pinned or a call or results of what is"
"""Of items, in refusals."""


@dataclass(frozen=True)
class Retention:
    """What is kept of some kinds of items. The oldest go first; pinned items never go; a tool call and its results go together."""

    kinds: frozenset[Kind] = frozenset(Kind)
    age_seconds: int | None = None
    items: int | None = None
    content_bytes: int | None = None


@dataclass(frozen=True)
class Limits:
    """Of one agent's context. Retention makes room where it may; what would still be beyond a limit is refused."""

    items: int = 200_000
    """Two years of 250 items a day; windows over 100,000 stay fast (bench context)."""
    content_bytes: int = 256 * MIB
    """Of all contents together. The file takes two to three times as much: text, index, free pages."""
    age_seconds: int = 365 * DAY_SECONDS
    """An item older than this goes: nothing is kept for ever unless someone asks for it."""
    item_bytes: int = 256 * 1024
    """Of one content. A window of 128,000 tokens is about twice that."""
    batch: int = 1000
    """Items in one append."""
    sessions: int = 1024
    pins: int = 1024
    """Pins survive retention: without a limit they would undo it."""
    tiers: tuple[Retention, ...] = (
        Retention(frozenset({Kind.TOOL_CALL, Kind.TOOL_RESULT, Kind.OBSERVATION}), age_seconds=90 * DAY_SECONDS),
    )
    """Further rules for some kinds: by default what tools and sensors said goes after 90 days, what was talked of stays a year."""

    @cached_property
    def by_age_alone(self) -> bool:
        """Whether every rule but the last, over all kinds, goes by age alone."""
        return all(rule.items is None and rule.content_bytes is None for rule in self.tiers)

    @cached_property
    def rules(self) -> tuple[Retention, ...]:
        """All retention that is in force: the limits themselves are the last rule, over all kinds."""
        return (*self.tiers, Retention(age_seconds=self.age_seconds, items=self.items, content_bytes=self.content_bytes))


class Total(NamedTuple):
    """What there is of some kinds."""

    items: int = 0
    content_bytes: int = 0

    def less(self, other: "Total") -> "Total":
        return Total(self.items - other.items, self.content_bytes - other.content_bytes)


class Old(NamedTuple):
    """A unit that may go: one item, or a tool call and its results."""

    seqs: Sequence[int]
    kinds: Sequence[Kind]
    sizes: Sequence[int]
    """In bytes; of each item, as its kind."""
    first: datetime
    """Of its oldest item."""
    time: datetime
    """Of its youngest: this counts."""

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Kind, int, datetime]], latest: datetime) -> "Old":
        """Of the number, kind, size and time of each item. Times after `latest` count only when there is no other."""
        seqs, kinds, sizes, times = zip(*parts, strict=True)
        believed = [time for time in times if time <= latest] or [min(times)]
        return cls(seqs, kinds, sizes, min(believed), max(believed))


@dataclass
class Excess:
    """How far one rule is exceeded: what must go, and what should go besides so that the next appends need not remove anything."""

    rule: Retention
    must_items: int = 0
    must_bytes: int = 0
    should_items: int = 0
    should_bytes: int = 0
    before: datetime | None = None
    """Items older than this should go."""

    @property
    def by_age_alone(self) -> bool:
        """Whether what is not too old may stay."""
        return not (self.pressing or self.should_items > 0 or self.should_bytes > 0)

    @property
    def pressing(self) -> bool:
        """Whether something must go."""
        return self.must_items > 0 or self.must_bytes > 0

    def wants(self, old: Old) -> bool:
        """Whether this unit goes by this rule. One that is larger than what should go besides stays: it may be the newest."""
        own = self._own(old)
        if not own.items:
            return False
        if self.pressing or (self.before is not None and old.time < self.before):
            return True
        return self.should_items >= own.items or self.should_bytes >= max(1, own.content_bytes)

    def take(self, old: Old) -> None:
        """It goes."""
        own = self._own(old)
        self.must_items -= own.items
        self.should_items -= own.items
        self.must_bytes -= own.content_bytes
        self.should_bytes -= own.content_bytes

    def _own(self, old: Old) -> Total:
        """What of the unit the rule is about."""
        sizes = [size for kind, size in zip(old.kinds, old.sizes, strict=True) if kind in self.rule.kinds]
        return Total(len(sizes), sum(sizes))


def excess(rule: Retention, total: Total, now: datetime) -> Excess:
    """By how much `total` of the rule's kinds is more than the rule keeps."""
    found = Excess(rule)
    if rule.items is not None and total.items > rule.items:
        found.must_items = total.items - rule.items
        found.should_items = total.items - int(rule.items * LOW_MARK)
    if rule.content_bytes is not None and total.content_bytes > rule.content_bytes:
        found.must_bytes = total.content_bytes - rule.content_bytes
        found.should_bytes = total.content_bytes - int(rule.content_bytes * LOW_MARK)
    if rule.age_seconds is not None:
        found.before = now - timedelta(seconds=rule.age_seconds)
    return found


class Going(NamedTuple):
    """What goes now."""

    seqs: Sequence[int]
    oldest: datetime
    """What stays is not older than this: before it is too old there is nothing to be done by age."""


def going(olds: Iterable[Old], beyond: Excess, at_once: int, now: datetime) -> Going:
    """Those of `olds` (oldest first, none pinned) that go: all that must, and of those that should as many as make `at_once` items. No more
    of `olds` are taken than that needs: where things go by age alone, up to the first that is too young."""
    seqs: list[int] = []
    staying = [now]
    for old in olds:
        if len(seqs) >= at_once and not beyond.pressing:
            staying.append(LONG_AGO)  # there may be more
            break
        if beyond.by_age_alone and (beyond.before is None or old.first >= beyond.before):
            staying.append(old.first)
            break
        if beyond.wants(old):
            beyond.take(old)
            seqs += old.seqs
        elif not beyond.rule.kinds.isdisjoint(old.kinds):
            staying.append(old.time)
    return Going(seqs, min(staying))


def dated(olds: Iterable[Old], latest: datetime) -> Iterator[Old]:
    """`olds`, none of them from after `latest`: such a one, which a wrong clock gave its time, is as old as the next."""
    ahead: list[Old] = []
    for old in olds:
        if old.time > latest:
            ahead.append(old)
            continue
        yield from (each._replace(first=min(each.first, old.first), time=old.first) for each in ahead)
        ahead.clear()
        yield old
    yield from (each._replace(first=min(each.first, latest), time=latest) for each in ahead)

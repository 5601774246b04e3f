"""A context store in memory: the simplest that does all that `store` asks for. What others are held against, and nothing outlives it."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from aios_sidecar.context.errors import Conflict, Fenced, LimitReached, NotThere, Unwritable
from aios_sidecar.context.items import (
    ACCESS_TIMES,
    NAME,
    Accesses,
    Draft,
    InvalidItem,
    Item,
    Kind,
    Usage,
    latest,
    microseconds,
    stamp,
    utc,
    weight,
)
from aios_sidecar.context.limits import STAY, Limits, Old, Total, dated, excess, going
from aios_sidecar.context.memory import MemoryReader
from aios_sidecar.context.prepared import Batch, prepare
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.store import AgentKey, Appended, Description, Receipt, Scope, Snapshot, ranges
from aios_sidecar.context.units import is_tool

T = TypeVar("T")


@dataclass
class _Log:
    """What one agent has."""

    first_attempt: int
    fence: int
    limits: Limits
    lock: threading.RLock = field(default_factory=threading.RLock)
    items: dict[int, Item] = field(default_factory=dict)
    last_seq: int = 0
    last_time: datetime | None = None
    keys: dict[str, tuple[bytes, Appended]] = field(default_factory=dict)
    forks: dict[str, tuple[str, int]] = field(default_factory=dict)
    usage: list[Usage] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    vectors: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    erased: set[int] = field(default_factory=set)
    retired: int = 0

    def sessions(self) -> set[str]:
        return {item.session for item in self.items.values()} | self.forks.keys() | {parent for parent, _ in self.forks.values()}

    def pinned(self) -> list[Item]:
        return [item for item in self.items.values() if item.pinned]


class VolatileContext:
    """See `Context`."""

    def __init__(self, log: _Log, attempt: int, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._attempt = attempt
        self._clock = clock

    def append(self, drafts: Sequence[Draft], key: str | None = None, durable: bool = True) -> Appended:
        batch = prepare(drafts, key, self._log.limits)
        with self._writing() as log:
            if key is not None and key in log.keys:
                digest, before = log.keys[key]
                if digest != batch.digest:
                    raise Conflict(f"the idempotency key {key} was used for other items; a key must be used for one append only")
                return before._replace(replayed=True)
            self._require_room(batch)
            first = log.last_seq + 1
            for ready in batch.ready:
                self._add(ready.draft)
            appended = Appended(first, log.last_seq)
            if key is not None:
                log.keys[key] = (batch.digest, appended)
            return appended

    def submit(self, drafts: Sequence[Draft], key: str | None = None, durable: bool = True) -> "Future[Appended]":
        prepare(drafts, key, self._log.limits)
        done: Future[Appended] = Future()
        try:
            done.set_result(self.append(drafts, key, durable))
        except Exception as refusal:  # noqa: BLE001  whoever waits for the future is told
            done.set_exception(refusal)
        return done

    def _require_room(self, batch: Batch) -> None:
        log = self._log
        items, content_bytes = self._stays()
        if items + len(batch.ready) > log.limits.items:
            raise LimitReached(f"a context may hold {log.limits.items} items, and {items} {STAY}; unpin some")
        if content_bytes + batch.content_bytes > log.limits.content_bytes:
            raise LimitReached(f"contents may have {log.limits.content_bytes} bytes, and {content_bytes} {STAY}; unpin or send less")
        known = log.sessions()
        if len(known | {ready.draft.session for ready in batch.ready}) > max(log.limits.sessions, len(known)):
            raise LimitReached(f"a context may have {log.limits.sessions} sessions; go on in one of them or erase one")
        sources = {source for ready in batch.ready for source in ready.draft.derived_from}
        if any(not 0 < source <= log.last_seq for source in sources):
            raise InvalidItem("derivedFrom must name items that there are")
        if gone := sources & log.erased:
            raise Conflict(f"derivedFrom names item {min(gone)}, which was erased; what was made from it can't be kept")

    def _add(self, draft: Draft) -> None:
        log = self._log
        log.last_seq += 1
        newest = 0 if log.last_time is None else microseconds(log.last_time)
        given = None if draft.time is None else microseconds(draft.time)
        log.last_time = utc(stamp(newest, given, microseconds(self._clock()), 0))
        fields = (draft.role, draft.kind, draft.content, draft.author, draft.call_id, draft.derived_from, draft.labels, draft.tokens)
        log.items[log.last_seq] = Item(log.last_seq, draft.session, log.last_time, *fields)

    def pin(self, seqs: Collection[int], pinned: bool = True) -> None:
        with self._writing() as log:
            wanted = self._require_items(seqs)
            after = {item.seq: item for item in log.pinned()} | {item.seq: item for item in wanted}
            if pinned and len(after) > log.limits.pins:
                raise LimitReached(f"at most {log.limits.pins} items may be pinned; unpin some")
            new = [item.seq for item in wanted if not item.pinned]
            if pinned and new and 2 * self._stays(new).content_bytes > log.limits.content_bytes:
                raise LimitReached(
                    f"what is pinned, calls with their results, may have half of {log.limits.content_bytes} bytes; unpin some"
                )
            log.items.update((item.seq, item._replace(pinned=pinned)) for item in wanted)

    def weigh(self, seqs: Collection[int], importance: float | None) -> None:
        with self._writing() as log:
            if importance is not None and not 0 <= importance <= 1:
                raise InvalidItem("importance must be 0 to 1, or null for none of its own")
            log.items.update((item.seq, item._replace(importance=importance)) for item in self._require_items(seqs))

    def accessed(self, seqs: Collection[int]) -> None:
        with self._writing() as log:
            for item in [log.items[seq] for seq in set(seqs) if seq in log.items]:
                last = (self._clock(), *item.accesses.last)[:ACCESS_TIMES]
                log.items[item.seq] = item._replace(accesses=Accesses(item.accesses.times + 1, last))

    def report(self, usage: Usage) -> None:
        if NAME.fullmatch(usage.model) is None:
            raise InvalidItem(f"model must match {NAME.pattern}")
        with self._writing() as log:
            log.usage.append(usage)

    def keep_vectors(self, name: str, values: Mapping[int, bytes]) -> None:
        if NAME.fullmatch(name) is None:
            raise InvalidItem(f"the name of a vector must match {NAME.pattern}")
        with self._writing() as log:
            log.vectors.update((seq, (name, value)) for seq, value in values.items() if seq in log.items)

    def keep_state(self, values: Mapping[str, str]) -> None:
        with self._writing() as log:
            log.state.update(values)

    def fork(self, at: int, into: str) -> None:
        with self._writing() as log:
            if NAME.fullmatch(into) is None:
                raise InvalidItem(f"into must match {NAME.pattern}")
            if at not in log.items:
                raise NotThere(f"there is no item {at}")
            if into in log.sessions():
                raise Conflict(f"there is a session {into}; a fork needs a new one")
            if len(log.sessions()) >= log.limits.sessions:
                raise LimitReached(f"a context may have {log.limits.sessions} sessions; go on in one of them or erase one")
            log.forks[into] = (log.items[at].session, at)

    def erase(self, scope: Scope) -> Receipt:
        with self._log.lock:
            log = self._log
            self._require_attempt()
            named = {seq for seq, item in log.items.items() if _is_in(scope, item)}
            seqs = set(named)
            while made := {item.seq for item in log.items.values() if not seqs.isdisjoint(item.derived_from)} - seqs:
                seqs |= made
            self._remove(seqs)
            if scope.session is not None:
                self._drop_session(scope.session)
            log.erased |= seqs
            for key in [key for key, (_, at) in log.keys.items() if not seqs.isdisjoint(range(at.first, at.last + 1))]:
                del log.keys[key]
            log.state.clear()
            if scope.everything:
                log.usage.clear()
                log.forks.clear()
            return Receipt(self._clock(), len(seqs), ranges(seqs), {"items": len(named), "derived": len(seqs) - len(named)})

    def snapshot(self) -> Snapshot:
        raise Unwritable("a context in memory has no file to be copied")

    def retire(self) -> int:
        with self._log.lock:
            before = self._log.retired
            self._retire()
            return self._log.retired - before

    def _retire(self) -> None:
        log, now = self._log, self._clock()
        for rule in log.limits.rules:
            beyond = excess(rule, _total(rule.kinds, log.items.values()), now)
            if beyond.pressing and rule is not log.limits.rules[-1]:
                beyond = excess(rule, _total(rule.kinds, log.items.values()).less(_total(rule.kinds, self._staying())), now)
            gone = going(dated(self._units(now), self._latest(now)), beyond, len(log.items), now).seqs
            self._remove(gone)
            log.retired += len(gone)

    def _latest(self, now: datetime) -> datetime:
        return utc(latest(microseconds(now), 0))

    def _remove(self, seqs: Collection[int]) -> None:
        log = self._log
        for session in {log.items.pop(seq).session for seq in seqs}:
            self._drop_session(session)

    def _drop_session(self, session: str) -> None:
        """A fork without own items is none any more, unless another was forked from it; then what it was forked from may be none either."""
        log = self._log
        if any(item.session == session for item in log.items.values()) or any(parent == session for parent, _ in log.forks.values()):
            return
        if (fork := log.forks.pop(session, None)) is not None:
            self._drop_session(fork[0])

    def _stays(self, more: Collection[int] = ()) -> Total:
        return _total(Kind, self._staying(more))

    def _staying(self, more: Collection[int] = ()) -> list[Item]:
        units = [self._unit(item) for item in self._log.items.values() if item.pinned or item.seq in more]
        return list({item.seq: item for unit in units for item in unit}.values())

    def _unit(self, item: Item) -> list[Item]:
        reader = MemoryReader(self._log.items.values(), forks=self._log.forks)
        if not is_tool(item):
            return [item]
        call = item if item.kind is Kind.TOOL_CALL else reader.call_of(item)
        return [item] if call is None else [call, *reader.answers(call)]

    def _units(self, now: datetime) -> Iterator[Old]:
        given: set[int] = set()
        for item in list(self._log.items.values()):
            if item.seq in given:
                continue
            unit = self._unit(item)
            given.update(each.seq for each in unit)
            if not any(each.pinned for each in unit):
                yield Old.of([(each.seq, each.kind, weight(each), each.time) for each in unit], self._latest(now))

    def limit(self, limits: Limits) -> None:
        self._log.limits = limits

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        log = self._log
        with log.lock:
            reader = MemoryReader(log.items.values(), tuple(log.usage), dict(log.state), dict(log.forks), dict(log.vectors))
            reader.last = log.last_seq
        yield reader

    def describe(self) -> Description:
        log = self._log
        size = sum(weight(item) for item in log.items.values())
        return Description(
            items=len(log.items),
            content_bytes=size,
            file_bytes=0,
            sessions=len(log.sessions()),
            pinned=len(log.pinned()),
            last_seq=log.last_seq,
            erased=len(log.erased),
            retired=log.retired,
            last_append=log.last_time,
            first_attempt=log.first_attempt,
            fence=log.fence,
            limits=log.limits,
        )

    def _require_items(self, seqs: Collection[int]) -> list[Item]:
        if not 0 < len(set(seqs)) <= self._log.limits.batch:
            raise InvalidItem(f"items must name 1 to {self._log.limits.batch} numbers")
        if missing := [seq for seq in sorted(set(seqs)) if seq not in self._log.items]:
            raise NotThere(f"there is no item {missing[0]}")
        return [self._log.items[seq] for seq in sorted(set(seqs))]

    @contextmanager
    def _writing(self) -> Iterator[_Log]:
        """Whatever becomes of the write, what is too old or too much is gone afterwards."""
        with self._log.lock:
            try:
                self._require_attempt()
                yield self._log
            finally:
                self._retire()

    def _require_attempt(self) -> None:
        fence = self._log.fence
        if self._attempt < fence:
            raise Fenced(f"attempt {fence} of this agent writes its context, or will; attempt {self._attempt} may not any more")


class VolatileStore:
    """See `ContextStore`."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._logs: dict[str, _Log] = {}

    def context(self, key: AgentKey, attempt: int, limits: Limits | None = None) -> VolatileContext:
        log = self._logs.setdefault(key.uid, _Log(attempt, attempt, limits or Limits()))
        if attempt < log.fence:
            raise Fenced(f"attempt {log.fence} of this agent writes its context, or will; attempt {attempt} may not any more")
        log.fence = attempt
        log.limits = limits or log.limits
        return VolatileContext(log, attempt, self._clock)

    def existing(self, key: AgentKey, attempt: int) -> VolatileContext:
        return VolatileContext(self._logs.setdefault(key.uid, _Log(attempt, attempt, Limits())), attempt, self._clock)

    def holds(self, key: AgentKey) -> bool:
        return key.uid in self._logs

    def ages(self) -> datetime:
        return self._clock()

    def rest(self, key: AgentKey) -> None:
        """Nothing is ever open here."""

    def close(self) -> None:
        self._logs.clear()


def _total(kinds: Collection[Kind] | type[Kind], items: Iterable[Item]) -> Total:
    sizes = [weight(item) for item in items if item.kind in kinds]
    return Total(len(sizes), sum(sizes))


def _is_in(scope: Scope, item: Item) -> bool:
    if scope.label is not None:
        return item.labels.get(scope.label[0]) == scope.label[1]
    return (
        scope.everything
        or item.seq in scope.items
        or scope.session == item.session
        or (item.author is not None and scope.author == item.author)
    )

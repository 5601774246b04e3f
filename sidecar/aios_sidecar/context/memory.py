"""A context in memory: what tests and benches build windows from, and the simplest thing that is a Reader."""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from aios_sidecar.context.fulltext import Index
from aios_sidecar.context.items import Draft, Item, Kind, Usage, text_of
from aios_sidecar.context.reader import Forks, Hit, Session

DAWN: Final = datetime(2026, 1, 1, tzinfo=UTC)


class MemoryReader:
    """A Reader over these items; erased ones among them are never shown. `forks` says where a session that is a fork begins."""

    def __init__(
        self,
        items: Iterable[Item],
        usage: Sequence[Usage] = (),
        state: Mapping[str, str] | None = None,
        forks: Forks | None = None,
        vectors: Mapping[int, tuple[str, bytes]] | None = None,
    ) -> None:
        known = sorted(items)
        self.generation = 0
        self.last = known[-1].seq if known else 0
        self._items = [item for item in known if not item.erased]
        self._forks = forks or {}
        self._vectors = vectors or {}
        self._usage = usage
        self._state = state or {}

    @classmethod
    def of(cls, drafts: Iterable[Draft], start: datetime = DAWN) -> "MemoryReader":
        """Over the items that these drafts become, one a minute from `start` where they name no time."""
        return cls(numbered(drafts, start))

    @cached_property
    def _by_seq(self) -> dict[int, Item]:
        return {item.seq: item for item in self._items}

    @cached_property
    def _index(self) -> Index:
        return Index((item.seq, text_of(item.content)) for item in self._items)

    def _of(self, session: str | None) -> list[Item]:
        if session is None:
            return self._items
        bounds, last = {session: self.last}, self.last
        while session in self._forks:
            session, at = self._forks[session]
            bounds[session] = last = min(last, at)
        return [item for item in self._items if item.seq <= bounds.get(item.session, 0)]

    def count(self, session: str | None = None) -> int:
        return len(self._of(session))

    def last_seq(self) -> int:
        return self.last

    def sessions(self) -> Sequence[Session]:
        by_name: dict[str, list[Item]] = {}
        for item in self._items:
            by_name.setdefault(item.session, []).append(item)
        found = [Session(name, len(own), own[0].seq, own[-1].seq, own[-1].time) for name, own in by_name.items()]
        found += [Session(name, 0, 0, 0, self._time(at)) for name, (_, at) in self._forks.items() if name not in by_name]
        return sorted(found, key=lambda session: -session.last)

    def _time(self, seq: int) -> datetime:
        """Of this item, or of what there still is from before it."""
        return max((item.time for item in self._items if item.seq <= seq), default=DAWN)

    def newest(self, limit: int, before: int | None = None, session: str | None = None) -> Sequence[Item]:
        own = [item for item in self._of(session) if before is None or item.seq < before]
        return own[max(0, len(own) - limit) :]

    def oldest(self, limit: int, after: int = 0, session: str | None = None) -> Sequence[Item]:
        return [item for item in self._of(session) if item.seq > after][: max(0, limit)]

    def range(self, first: int, last: int, session: str | None = None) -> Sequence[Item]:
        return [item for item in self._of(session) if first <= item.seq <= last]

    def by_seq(self, seqs: Collection[int]) -> Sequence[Item]:
        return [self._by_seq[seq] for seq in sorted(set(seqs)) if seq in self._by_seq]

    def there(self, seqs: Collection[int]) -> Set[int]:
        return self._by_seq.keys() & set(seqs)

    def forks(self) -> Forks:
        return self._forks

    def call_of(self, result: Item) -> Item | None:
        calls = [each for each in self._of(result.session) if each.kind is Kind.TOOL_CALL and each.call_id == result.call_id]
        return max((each for each in calls if each.seq < result.seq), default=None, key=lambda each: each.seq)

    def answers(self, call: Item) -> Sequence[Item]:
        results = [item for item in self._items if item.kind is Kind.TOOL_RESULT and item.call_id == call.call_id]
        return [item for item in results if self.call_of(item) == call]

    def pinned(self, session: str | None = None) -> Sequence[Item]:
        return [item for item in self._of(session) if item.pinned]

    def neighbours(self, seq: int, n: int) -> Sequence[Item]:
        if seq not in self._by_seq:
            return []
        own = [item for item in self._items if item.session == self._by_seq[seq].session]
        at = next(index for index, item in enumerate(own) if item.seq == seq)
        return [*own[max(0, at - n) : at], *own[at + 1 : at + 1 + n]]

    def made_from(self, seqs: Collection[int]) -> Sequence[Item]:
        wanted = set(seqs)
        return [item for item in self._items if not wanted.isdisjoint(item.derived_from)]

    def search(self, words: Collection[str], limit: int, session: str | None = None) -> Sequence[Hit]:
        hits = self._index.search(words)
        within = {item.seq for item in self._of(session)}
        return [hit for hit in hits if hit.seq in within][: max(0, limit)]

    def document_frequencies(self, words: Collection[str]) -> Mapping[str, int]:
        return {word: self._index.frequency(word) for word in words}

    def usage(self, model: str) -> Sequence[Usage]:
        return [report for report in self._usage if report.model == model]

    def vectors(self, name: str, seqs: Collection[int]) -> Mapping[int, bytes]:
        found = ((seq, self._vectors.get(seq)) for seq in seqs if seq in self._by_seq)
        return {seq: kept[1] for seq, kept in found if kept is not None and kept[0] == name}

    def state(self, key: str) -> str | None:
        return self._state.get(key)


def numbered(drafts: Iterable[Draft], start: datetime = DAWN) -> list[Item]:
    """The items that these drafts become in an empty log, one a minute from `start` where they name no time."""
    items: list[Item] = []
    newest = start
    for seq, draft in enumerate(drafts, 1):
        newest = max(newest, draft.time or start + timedelta(minutes=seq))
        items.append(
            Item(
                seq,
                draft.session,
                newest,
                draft.role,
                draft.kind,
                draft.content,
                draft.author,
                draft.call_id,
                draft.derived_from,
                draft.labels,
                draft.tokens,
            )
        )
    return items

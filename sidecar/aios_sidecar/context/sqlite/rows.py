"""Rows of an agent's file as items, and a Reader over one transaction."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from functools import cached_property
from typing import Any, Final

from aios_sidecar.context.errors import Damaged
from aios_sidecar.context.fulltext import match_any
from aios_sidecar.context.items import NO_ACCESSES, NO_LABELS, NO_TOKENS, Accesses, Item, Role, Usage, utc
from aios_sidecar.context.reader import Forks, Hit, Session
from aios_sidecar.context.sqlite.calls import Calls
from aios_sidecar.context.sqlite.schema import KINDS
from aios_sidecar.context.sqlite.sums import checksum

ROLES: Final = tuple(Role)
CHUNK: Final = 500
"""Parameters in one statement; SQLite's own bound was 999 for a long time."""
DEPTH: Final = 16
"""How often a session may be a fork of a fork."""

_COLUMNS: Final = """i.seq, i.session, i.time, i.role, i.kind, i.parts, i.content, i.author, i.call_id, i.derived, i.labels, i.tokens,
 i.sum, m.pinned, m.importance, m.times, m.last FROM items i LEFT JOIN marks m ON m.seq = i.seq"""

Segments = Sequence[tuple[int, int | None]]
"""A session and those that it was forked from, newest first, each with the last number that belongs to it (None: all)."""


class SqliteReader:
    """A Reader over what `connection` sees in its transaction."""

    def __init__(self, connection: sqlite3.Connection, generation: int = 0) -> None:
        self._base = connection
        self.generation = generation
        self._calls = Calls(connection)
        self._sessions: dict[int, str] = dict(connection.execute("SELECT id, name FROM sessions"))

    def count(self, session: str | None = None) -> int:
        if session is None:
            return int(self._one("SELECT coalesce(sum(items), 0) FROM sessions"))
        return sum(
            int(self._one("SELECT count(*) FROM items WHERE session = ? AND seq <= ?", own, 2**62 if last is None else last))
            for own, last in self._segments(session)
        )

    def last_seq(self) -> int:
        return int(self._one("SELECT last_seq FROM about"))

    def sessions(self) -> Sequence[Session]:
        found = self._base.execute(
            "SELECT name, items, first, last, time FROM sessions WHERE items > 0 OR parent IS NOT NULL ORDER BY last DESC, id"
        )
        return [Session(name, items, first, last, utc(time)) for name, items, first, last, time in found]

    def newest(self, limit: int, before: int | None = None, session: str | None = None) -> Sequence[Item]:
        bound = 2**62 if before is None else before - 1
        if limit <= 0:
            return []
        if session is None:
            return self._items("WHERE i.seq <= ? ORDER BY i.seq DESC LIMIT ?", bound, limit)[::-1]
        found: list[Item] = []
        for own, last in self._segments(session):
            upto = bound if last is None else min(bound, last)
            found += self._items("WHERE i.session = ? AND i.seq <= ? ORDER BY i.seq DESC LIMIT ?", own, upto, limit - len(found))
            if len(found) >= limit:
                break
        return found[::-1]

    def oldest(self, limit: int, after: int = 0, session: str | None = None) -> Sequence[Item]:
        if limit <= 0:
            return []
        if session is None:
            return self._items("WHERE i.seq > ? ORDER BY i.seq LIMIT ?", after, limit)
        found: list[Item] = []
        for own, last in reversed(self._segments(session)):
            found += self._items(
                "WHERE i.session = ? AND i.seq > ? AND i.seq <= ? ORDER BY i.seq LIMIT ?",
                own,
                after,
                2**62 if last is None else last,
                limit - len(found),
            )
            if len(found) >= limit:
                break
        return found

    def range(self, first: int, last: int, session: str | None = None) -> Sequence[Item]:
        if session is None:
            return self._items("WHERE i.seq BETWEEN ? AND ? ORDER BY i.seq", first, last)
        found: list[Item] = []
        for own, upto in reversed(self._segments(session)):
            bound = last if upto is None else min(last, upto)
            found += self._items("WHERE i.session = ? AND i.seq BETWEEN ? AND ? ORDER BY i.seq", own, first, bound)
        return found

    def by_seq(self, seqs: Collection[int]) -> Sequence[Item]:
        return self._in("WHERE i.seq IN ({}) ORDER BY i.seq", sorted(set(seqs)))

    def there(self, seqs: Collection[int]) -> Set[int]:
        found: set[int] = set()
        for chunk in chunks(sorted(set(seqs))):
            found.update(seq for (seq,) in self._base.execute(f"SELECT seq FROM items WHERE seq IN ({blanks(chunk)})", chunk))  # noqa: S608
        return found

    def forks(self) -> Forks:
        return self._forks

    @cached_property
    def _forks(self) -> Forks:
        found = self._base.execute("SELECT s.name, p.name, s.parent_last FROM sessions s JOIN sessions p ON p.id = s.parent")
        return {name: (parent, last) for name, parent, last in found}

    def call_of(self, result: Item) -> Item | None:
        found = self._calls.call_of(self._session(result), result.seq, result.call_id or "")
        return None if found is None else self.by_seq([found])[0]

    def answers(self, call: Item) -> Sequence[Item]:
        return self.by_seq(self._calls.answers(self._session(call), call.seq, call.call_id or ""))

    def pinned(self, session: str | None = None) -> Sequence[Item]:
        found = self._items("WHERE i.seq IN (SELECT seq FROM marks WHERE pinned) ORDER BY i.seq")
        return found if session is None else self._within(found, session)

    def neighbours(self, seq: int, n: int) -> Sequence[Item]:
        row = self._base.execute("SELECT session FROM items WHERE seq = ?", (seq,)).fetchone()
        if row is None or n <= 0:
            return []
        before = self._items("WHERE i.session = ? AND i.seq < ? ORDER BY i.seq DESC LIMIT ?", row[0], seq, n)
        return [*before[::-1], *self._items("WHERE i.session = ? AND i.seq > ? ORDER BY i.seq LIMIT ?", row[0], seq, n)]

    def made_from(self, seqs: Collection[int]) -> Sequence[Item]:
        found = self._in("WHERE i.seq IN (SELECT item FROM links WHERE source IN ({}))", sorted(set(seqs)))
        return sorted({item.seq: item for item in found}.values(), key=_seq)

    def search(self, words: Collection[str], limit: int, session: str | None = None) -> Sequence[Hit]:
        match = match_any(words)
        if match is None or limit <= 0:
            return []
        if session is None:
            found = self._base.execute("SELECT rowid, rank FROM words(?) ORDER BY rank LIMIT ?", (match, limit))
        else:
            segments = self._segments(session)
            within = " OR ".join("(i.session = ? AND i.seq <= ?)" for _ in segments) or "0"
            bounds = [value for own, last in segments for value in (own, 2**62 if last is None else last)]
            found = self._base.execute(
                f"SELECT i.seq, w.rank FROM words(?) w CROSS JOIN items i ON i.seq = w.rowid WHERE {within} ORDER BY w.rank LIMIT ?",  # noqa: S608
                (match, *bounds, limit),
            )
        return [Hit(seq, -rank) for seq, rank in found]

    def document_frequencies(self, words: Collection[str]) -> Mapping[str, int]:
        found = {}
        for word in words:
            match = match_any([word])
            found[word] = 0 if match is None else int(self._one("SELECT count(*) FROM words(?)", match))
        return found

    def usage(self, model: str) -> Sequence[Usage]:
        found = self._base.execute("SELECT time, messages, bytes, tokens FROM usage WHERE model = ? ORDER BY id DESC LIMIT 256", (model,))
        return [Usage(model, utc(time), messages, json.loads(content), tokens) for time, messages, content, tokens in found][::-1]

    def state(self, key: str) -> str | None:
        row = self._base.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def vectors(self, name: str, seqs: Collection[int]) -> Mapping[int, bytes]:
        found: dict[int, bytes] = {}
        for chunk in chunks(sorted(set(seqs))):
            statement = f"SELECT item, value FROM vectors WHERE name = ? AND item IN ({blanks(chunk)})"  # noqa: S608
            found.update(self._base.execute(statement, (name, *chunk)))
        return found

    def _segments(self, session: str) -> Segments:
        row = self._base.execute("SELECT id, parent, parent_last FROM sessions WHERE name = ?", (session,)).fetchone()
        if row is None:
            return []
        found: list[tuple[int, int | None]] = [(row[0], None)]
        while row is not None and row[1] is not None and len(found) <= DEPTH:
            last = row[2] if found[-1][1] is None else min(row[2], found[-1][1])
            found.append((row[1], last))
            row = self._base.execute("SELECT id, parent, parent_last FROM sessions WHERE id = ?", (row[1],)).fetchone()
        return found

    def _within(self, items: Iterable[Item], session: str) -> list[Item]:
        bounds = {self._sessions.get(own): last for own, last in self._segments(session)}
        return [item for item in items if item.session in bounds and item.seq <= (bounds[item.session] or 2**62)]

    def _session(self, item: Item) -> int:
        return int(self._one("SELECT session FROM items WHERE seq = ?", item.seq))

    def _one(self, statement: str, *values: Any) -> Any:
        return self._base.execute(statement, values).fetchone()[0]

    def _in(self, where: str, values: Sequence[Any]) -> list[Item]:
        return [item for chunk in chunks(values) for item in self._items(where.format(blanks(chunk)), *chunk)]

    def _items(self, where: str, *values: Any) -> list[Item]:
        names = self._sessions
        found = []
        for row in self._base.execute(f"SELECT {_COLUMNS} {where}", values):
            if row[12] is not None and not _is_sound(row):
                raise Damaged(f"item {row[0]} is not as it was written: its checksum differs")
            seq, session, time, role, kind, parts, content, author, call_id, derived, labels, tokens, _, pinned, importance, times, last = (
                row
            )
            found.append(
                Item(
                    seq,
                    names[session],
                    utc(time),
                    ROLES[role],
                    KINDS[kind],
                    tuple(json.loads(content)) if parts else content,
                    author,
                    call_id,
                    tuple(json.loads(derived)) if derived else (),
                    json.loads(labels) if labels else NO_LABELS,
                    json.loads(tokens) if tokens else NO_TOKENS,
                    bool(pinned),
                    importance,
                    False,
                    Accesses(times, tuple(utc(int(at)) for at in last.split(","))) if times else NO_ACCESSES,
                )
            )
        return found


def require_sound(base: sqlite3.Connection) -> None:
    """Every item is as it was written. Raises Damaged, sqlite3.Error."""
    said = "seq, session, time, role, kind, parts, content, author, call_id, derived, labels, tokens, sum"
    for row in base.execute(f"SELECT {said} FROM items WHERE sum IS NOT NULL"):  # noqa: S608
        if not _is_sound(row):
            raise Damaged(f"item {row[0]} is not as it was written: its checksum differs")


def _is_sound(row: Sequence[Any]) -> bool:
    try:
        return bool(checksum(*row[:12]) == row[12])
    except (TypeError, AttributeError, UnicodeEncodeError):
        return False


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """`values` in pieces that fit one statement."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def blanks(values: Sequence[Any]) -> str:
    """A place in a statement for each of `values`."""
    return ",".join("?" * len(values))


def _seq(item: Item) -> int:
    return item.seq

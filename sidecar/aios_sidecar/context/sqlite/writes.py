"""Everything that changes an agent's file, each inside a transaction that someone else opens and ends.

The rule that group commit relies on: a refusal (a ContextError) is raised before anything is written.
"""

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from aios_sidecar.context.errors import Conflict, Fenced, LimitReached, NotThere
from aios_sidecar.context.items import ACCESS_TIMES, NAME, InvalidItem, Kind, Usage, latest, microseconds, stamp, text_of, utc
from aios_sidecar.context.limits import STAY, Limits, Old, Retention, Total, dated, excess, going
from aios_sidecar.context.prepared import Batch, compact
from aios_sidecar.context.sqlite.calls import Calls
from aios_sidecar.context.sqlite.rows import DEPTH, ROLES, blanks, chunks
from aios_sidecar.context.sqlite.schema import KINDS
from aios_sidecar.context.sqlite.sums import checksum
from aios_sidecar.context.sqlite.totals import SessionRow, Totals
from aios_sidecar.context.store import (
    ANNOTATIONS_KEPT,
    KEYS_KEPT,
    STATE_KEYS,
    STATE_LENGTH,
    USAGE_KEPT,
    USAGE_MODELS,
    Appended,
    in_ranges,
    ranges,
)

_ROLE_NUMBER: Final = {role: number for number, role in enumerate(ROLES)}
_KIND_NUMBER: Final = {kind: number for number, kind in enumerate(KINDS)}
_WORDS: Final = "INSERT INTO words(rowid, text) VALUES (?, ?)"
_ITEM: Final = "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INDEX_AT_ONCE: Final = 128
"""Items that wait for the index at most. A reader that searches has them indexed first."""
RETIRE_AT_ONCE: Final = 512
"""Items that one append may remove of what should go: some 20 ms. What must go always goes."""


NEVER: Final = 2**62
"""When what no rule of age is about is due."""
TRIM_EVERY: Final = 100
"""So many more than are kept may be there: trimming costs as much as what is kept."""


class Writes:
    """The open transaction. `totals` are those of its end."""

    def __init__(self, base: sqlite3.Connection, totals: Totals, limits: Limits, now: int, expected: int) -> None:
        """`expected` is what the clock should show: see `items.latest`."""
        self._base = base
        self.totals = totals
        self._limits = limits
        self.now = now
        self._expected = expected
        self._unpinned = False

    def require_attempt(self, attempt: int) -> None:
        """This attempt of the agent may write. Raises Fenced."""
        if attempt == self.totals.fence and self.totals.moved:
            raise Fenced(f"the context was handed over: attempt {attempt} writes it on another node")
        if attempt < self.totals.fence:
            raise Fenced(f"attempt {self.totals.fence} of this agent writes its context, or will; attempt {attempt} may not any more")

    def require_writer(self, attempt: int) -> None:
        """This attempt may write, or who visits a context that is here. Raises Fenced."""
        self.require_attempt(attempt)
        if self.totals.moved:
            raise Fenced(f"the context was handed over to attempt {self.totals.fence}, which writes it on another node")

    def raise_fence(self, attempt: int) -> None:
        """Attempts before this one may not write any more."""
        self.totals.fence = max(self.totals.fence, attempt)
        self.totals.moved = 0

    def hand_over(self, attempt: int) -> None:
        """This attempt begins elsewhere: none before it writes here any more, nor does it itself."""
        self.totals.fence = attempt
        self.totals.moved = 1

    def append(self, batch: Batch) -> Appended:
        if batch.key is not None and (before := self._appended(batch.key, batch.digest)):
            return before
        self._require_room(batch)
        self._require_sources(batch)
        totals, seq = self.totals, self.totals.last_seq
        items: list[tuple[object, ...]] = []
        words, links, labels = [], [], []
        for draft, time, content, size, text in batch.ready:
            seq += 1
            kind = _KIND_NUMBER[draft.kind]
            totals.last_time = stamp(totals.last_time, time, self.now, self._expected)
            session = totals.sessions.get(draft.session) or self._new_session(draft.session, totals.last_time)
            session.items, session.last, session.time = session.items + 1, seq, totals.last_time
            session.first = session.first or seq
            totals.touched.add(draft.session)
            totals.add(kind, 1, size)
            role = _ROLE_NUMBER[draft.role]
            parts = not isinstance(draft.content, str)
            said = (content, draft.author, draft.call_id, compact(draft.derived_from), compact(draft.labels), compact(draft.tokens))
            summed = checksum(seq, session.id, totals.last_time, role, kind, parts, *said)
            items.append((seq, session.id, totals.last_time, role, kind, size, parts, *said, summed))
            words.append((seq, text))
            links += [(source, seq) for source in draft.derived_from]
            labels += [(key, value, seq) for key, value in draft.labels.items()]
        first, totals.last_seq = totals.last_seq + 1, seq
        self._base.executemany(_ITEM, items)
        self._index_new(words)
        if links:
            self._base.executemany("INSERT OR IGNORE INTO links VALUES (?, ?)", links)
        if labels:
            self._base.executemany("INSERT INTO labels VALUES (?, ?, ?)", labels)
        if batch.key is not None:
            self._remember(batch.key, batch.digest, first, seq)
        return Appended(first, seq)

    def _index_new(self, words: Sequence[tuple[int, str]]) -> None:
        """A large batch goes into the index at once; small ones wait until some are together, which costs a tenth."""
        if len(words) < INDEX_AT_ONCE:
            if self.totals.last_seq - self.totals.indexed >= INDEX_AT_ONCE:
                self.index()
            return
        if self.totals.indexed < words[0][0] - 1:
            self.index()
            return
        self._base.executemany(_WORDS, words)
        self.totals.indexed = words[-1][0]

    def index(self) -> None:
        """Every item is in the index."""
        rows = self._base.execute("SELECT seq, parts, content FROM items WHERE seq > ? ORDER BY seq", (self.totals.indexed,))
        self._base.executemany(_WORDS, [(seq, _text(parts, content)) for seq, parts, content in rows])
        self.totals.indexed = self.totals.last_seq

    def _appended(self, key: str, digest: bytes) -> Appended | None:
        row = self._base.execute("SELECT digest, first, last FROM keys WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if row[0] != digest:
            raise Conflict(f"the idempotency key {key} was used for other items; a key must be used for one append only")
        return Appended(row[1], row[2], replayed=True)

    def _remember(self, key: str, digest: bytes, first: int, last: int) -> None:
        self._base.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?)", (key, digest, first, last, self.now))
        self.totals.keys += 1
        if self.totals.keys >= KEYS_KEPT + TRIM_EVERY:
            oldest = "SELECT key FROM keys ORDER BY time DESC LIMIT -1 OFFSET ?"
            gone = self._base.execute(f"DELETE FROM keys WHERE key IN ({oldest})", (KEYS_KEPT,)).rowcount  # noqa: S608
            self.totals.keys -= gone

    def _require_room(self, batch: Batch) -> None:
        limits, totals = self._limits, self.totals
        if totals.items + len(batch.ready) > limits.items or totals.content_bytes + batch.content_bytes > limits.content_bytes:
            stays = self._stays()
            if stays.items + len(batch.ready) > limits.items:
                raise LimitReached(f"a context may hold {limits.items} items, and {stays.items} {STAY}; unpin some")
            if stays.content_bytes + batch.content_bytes > limits.content_bytes:
                raise LimitReached(f"contents may have {limits.content_bytes} bytes, and {stays.content_bytes} {STAY}; unpin or send less")
        new = {ready.draft.session for ready in batch.ready} - totals.sessions.keys()
        self._require_sessions(len(new))

    def _stays(self, more: Iterable[int] = (), kinds: Collection[Kind] = KINDS) -> Total:
        """What of these kinds retention may not remove when `more` are pinned too: what is pinned, and what must stay with it."""
        calls = Calls(self._base)
        tools = "SELECT seq, session, kind, call_id FROM items WHERE call_id IS NOT NULL AND seq"
        pinned = {seq for (seq,) in self._base.execute("SELECT seq FROM marks WHERE pinned")} | set(more)
        seqs = set(pinned)
        together = set[int]()
        for chunk in chunks(sorted(pinned)):
            for seq, session, kind, call_id in self._among(tools, chunk).fetchall():
                if seq not in together:
                    together.update(calls.unit(session, seq, kind, call_id))
        seqs |= together
        rows = [row for chunk in chunks(sorted(seqs)) for row in self._among("SELECT kind, bytes FROM items WHERE seq", chunk)]
        sizes = [size for kind, size in rows if KINDS[kind] in kinds]
        return Total(len(sizes), sum(sizes))

    def _require_sessions(self, more: int) -> None:
        if more and len(self.totals.sessions) + more > self._limits.sessions:
            raise LimitReached(f"a context may have {self._limits.sessions} sessions; go on in one of them or erase one")

    def _require_sources(self, batch: Batch) -> None:
        """What was erased must not come back by a summary that was under way meanwhile."""
        sources = {source for ready in batch.ready for source in ready.draft.derived_from}
        if not sources:
            return
        unknown = [source for source in sources if not 0 < source <= self.totals.last_seq]
        if unknown:
            raise InvalidItem(f"derivedFrom must name items that there are; {min(unknown)} is none")
        there = {row[0] for chunk in chunks(sorted(sources)) for row in self._among("SELECT seq FROM items WHERE seq", chunk)}
        missing = sorted(sources - there)
        if not missing:
            return
        for (erased,) in self._base.execute("SELECT seqs FROM annotations WHERE what = 'erased'"):
            for numbers in in_ranges(erased):
                at = bisect_left(missing, numbers.start)
                if at < len(missing) and missing[at] in numbers:
                    raise Conflict(f"derivedFrom names item {missing[at]}, which was erased; what was made from it can't be kept")

    def _new_session(self, name: str, time: int, parent: int | None = None, parent_last: int | None = None) -> SessionRow:
        made = self._base.execute("INSERT INTO sessions VALUES (NULL, ?, 0, 0, 0, ?, ?, ?)", (name, time, parent, parent_last))
        assert made.lastrowid is not None
        row = self.totals.sessions[name] = SessionRow(made.lastrowid, time=time)
        return row

    def fork(self, at: int, into: str) -> None:
        if NAME.fullmatch(into) is None:
            raise InvalidItem(f"into must match {NAME.pattern}")
        row = self._base.execute("SELECT session, time FROM items WHERE seq = ?", (at,)).fetchone()
        if row is None:
            raise NotThere(f"there is no item {at}")
        if into in self.totals.sessions:
            raise Conflict(f"there is a session {into}; a fork needs a new one")
        self._require_sessions(1)
        depth, parent = 1, row[0]
        while parent is not None and depth <= DEPTH:
            found = self._base.execute("SELECT parent FROM sessions WHERE id = ?", (parent,)).fetchone()
            depth, parent = depth + 1, None if found is None else found[0]
        if depth > DEPTH:
            raise LimitReached(f"a session may be a fork of a fork {DEPTH} times")
        self._new_session(into, row[1], row[0], at)

    def pin(self, seqs: Collection[int], pinned: bool) -> None:
        wanted = self._require_items(seqs)
        changing = wanted.keys() - self._pinned(wanted) if pinned else wanted.keys() & self._pinned(wanted)
        sign = 1 if pinned else -1
        count = self.totals.pinned + sign * len(changing)
        size = self.totals.pinned_bytes + sign * sum(wanted[seq] for seq in changing)
        if pinned and count > self._limits.pins:
            raise LimitReached(f"at most {self._limits.pins} items may be pinned; unpin some")
        if pinned and changing and 2 * self._stays(changing).content_bytes > self._limits.content_bytes:
            raise LimitReached(f"what is pinned, calls with their results, may have half of {self._limits.content_bytes} bytes; unpin some")
        self.totals.pinned, self.totals.pinned_bytes = count, size
        self._base.executemany(
            "INSERT INTO marks(seq, pinned) VALUES (?, ?) ON CONFLICT DO UPDATE SET pinned = excluded.pinned",
            [(seq, pinned) for seq in sorted(changing)],
        )
        self._annotate("pin" if pinned else "unpin", changing)
        self._unpinned |= not pinned and bool(changing)

    def weigh(self, seqs: Collection[int], importance: float | None) -> None:
        if importance is not None and not 0 <= importance <= 1:
            raise InvalidItem("importance must be 0 to 1, or null for none of its own")
        wanted = self._require_items(seqs)
        self._base.executemany(
            "INSERT INTO marks(seq, importance) VALUES (?, ?) ON CONFLICT DO UPDATE SET importance = excluded.importance",
            [(seq, importance) for seq in wanted],
        )
        self._annotate("importance", wanted, importance)

    def accessed(self, seqs: Collection[int]) -> None:
        for chunk in chunks(sorted(set(seqs))):
            there = [row[0] for row in self._among("SELECT seq FROM items WHERE seq", chunk)]
            marks = {seq: (times, last) for seq, times, last in self._among("SELECT seq, times, last FROM marks WHERE seq", there)}
            rows = []
            for seq in there:
                times, last = marks.get(seq, (0, None))
                rows.append((seq, times + 1, ",".join([str(self.now), *(last.split(",") if last else [])][:ACCESS_TIMES])))
            statement = (
                "INSERT INTO marks(seq, times, last) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET times=excluded.times, last=excluded.last"
            )
            self._base.executemany(statement, rows)

    def report(self, usage: Usage) -> None:
        if NAME.fullmatch(usage.model) is None:
            raise InvalidItem(f"model must match {NAME.pattern}")
        values = (usage.model, microseconds(usage.time), usage.messages, json.dumps(dict(usage.content_bytes)), usage.tokens)
        self._base.execute("INSERT INTO usage VALUES (NULL, ?, ?, ?, ?, ?)", values)
        old = "SELECT id FROM usage WHERE model = ? ORDER BY id DESC LIMIT -1 OFFSET ?"
        self._base.execute(f"DELETE FROM usage WHERE id IN ({old})", (usage.model, USAGE_KEPT))  # noqa: S608
        recent = "SELECT model FROM usage GROUP BY model ORDER BY max(id) DESC LIMIT ?"
        self._base.execute(f"DELETE FROM usage WHERE model NOT IN ({recent})", (USAGE_MODELS,))  # noqa: S608

    def keep_state(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            if len(key) > STATE_LENGTH or len(value) > STATE_LENGTH:
                raise InvalidItem(f"a state must have at most {STATE_LENGTH} characters")
        statement = "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, time = excluded.time"
        self._base.executemany(statement, [(key, value, self.now) for key, value in values.items()])
        old = "SELECT key FROM state ORDER BY time DESC, key LIMIT -1 OFFSET ?"
        self._base.execute(f"DELETE FROM state WHERE key IN ({old})", (STATE_KEYS,))  # noqa: S608

    def keep_vectors(self, name: str, values: Mapping[int, bytes]) -> None:
        if NAME.fullmatch(name) is None:
            raise InvalidItem(f"the name of a vector must match {NAME.pattern}")
        there = [row[0] for chunk in chunks(sorted(values)) for row in self._among("SELECT seq FROM items WHERE seq", chunk)]
        self._base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", [(seq, name, values[seq]) for seq in there])

    def retire(self, due: dict[int, int], now: int) -> int:
        """Remove what retention no longer keeps; how many items went. `now` is the time by which things age. `due` says, for each rule,
        before which time nothing is too old: it is looked up and kept up to date, so that most appends need not look for the oldest."""
        limits, totals = self._limits, self.totals
        if self._unpinned:
            due.clear()
        within = totals.items <= limits.items and totals.content_bytes <= limits.content_bytes
        if within and limits.by_age_alone and len(due) == len(limits.rules) and now < min(due.values()):
            return 0
        count = 0
        for number, rule in enumerate(limits.rules):
            beyond = excess(rule, totals.of(rule.kinds), utc(now))
            if beyond.pressing and rule is not limits.rules[-1]:  # the last one makes sure of it before anything is appended
                beyond = excess(rule, totals.of(rule.kinds).less(self._stays(kinds=rule.kinds)), utc(now))
            if beyond.by_age_alone and now < due.get(number, 0):
                continue
            found = going(dated(self._oldest(rule), utc(self._latest)), beyond, RETIRE_AT_ONCE, utc(now))
            self.remove(found.seqs)
            totals.retired += len(found.seqs)
            count += len(found.seqs)
            if rule.age_seconds is not None:
                due[number] = microseconds(found.oldest) + rule.age_seconds * 1_000_000
            elif beyond.by_age_alone:
                due[number] = NEVER
        return count

    def _oldest(self, rule: Retention) -> Iterator[Old]:
        """Units that may go, oldest first. Read in pieces, since removing them ends the reading."""
        kinds = ",".join(str(_KIND_NUMBER[kind]) for kind in sorted(rule.kinds))
        statement = f"""SELECT seq, session, kind, time, bytes, call_id FROM items i WHERE seq > ? AND kind IN ({kinds})
          AND NOT EXISTS (SELECT 1 FROM marks m WHERE m.seq = i.seq AND m.pinned) ORDER BY seq LIMIT 512"""  # noqa: S608
        after, given, calls = 0, set[int](), Calls(self._base)
        while rows := self._base.execute(statement, (after,)).fetchall():
            for seq, session, kind, time, size, call_id in rows:
                after = seq
                if call_id is None:
                    yield Old((seq,), (KINDS[kind],), (size,), utc(time), utc(time))
                elif seq not in given:
                    seqs = calls.unit(session, seq, kind, call_id)
                    given.update(seqs)
                    if (unit := self._unit(seqs)) is not None:
                        yield unit

    def _unit(self, seqs: Sequence[int]) -> Old | None:
        """The call and its results; None when one of them is pinned."""
        statement = "SELECT i.seq, kind, bytes, time, coalesce(m.pinned, 0) FROM items i LEFT JOIN marks m ON m.seq = i.seq WHERE i.seq"
        rows = sorted(row for chunk in chunks(seqs) for row in self._among(statement, chunk))
        if any(row[4] for row in rows):
            return None
        return Old.of([(seq, KINDS[kind], size, utc(time)) for seq, kind, size, time, _ in rows], utc(self._latest))

    @property
    def _latest(self) -> int:
        return latest(self.now, self._expected)

    def remove(self, seqs: Collection[int]) -> None:
        """These items are in no table any more. Their numbers stay used."""
        names = {row.id: name for name, row in self.totals.sessions.items()}
        sessions = set()
        pinned = self._pinned(seqs)
        for chunk in chunks(sorted(set(seqs))):
            rows = list(self._among("SELECT seq, session, kind, bytes, parts, content FROM items WHERE seq", chunk))
            indexed = [row for row in rows if row[0] <= self.totals.indexed]
            words = [(seq, _text(parts, content)) for seq, _, _, _, parts, content in indexed]
            self._base.executemany("INSERT INTO words(words, rowid, text) VALUES ('delete', ?, ?)", words)
            for table, column in (
                ("items", "seq"),
                ("marks", "seq"),
                ("links", "item"),
                ("links", "source"),
                ("labels", "item"),
                ("vectors", "item"),
            ):
                self._base.execute(f"DELETE FROM {table} WHERE {column} IN ({blanks(chunk)})", chunk)  # noqa: S608
            for seq, session, kind, size, _, _ in rows:
                self.totals.add(kind, -1, -size)
                self.totals.sessions[names[session]].items -= 1
                sessions.add(names[session])
                if seq in pinned:
                    self.totals.pinned -= 1
                    self.totals.pinned_bytes -= size
        for name in sessions:
            self._after_removal(name)

    def _after_removal(self, name: str) -> None:
        row = self.totals.sessions.get(name)
        if row is None or (row.items == 0 and self.drop_session(name)):
            return
        ends = "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM items WHERE session = ?"
        row.first, row.last = self._base.execute(ends, (row.id,)).fetchone()
        self.totals.touched.add(name)

    def drop_session(self, name: str) -> bool:
        """A session without items is gone, and so are those that it was forked from and that have none either; but none that another one
        was forked from. Whether this one is."""
        row = self.totals.sessions.get(name)
        if row is None or row.items or self._base.execute("SELECT 1 FROM sessions WHERE parent = ?", (row.id,)).fetchone() is not None:
            return False
        parent = "SELECT p.name FROM sessions s JOIN sessions p ON p.id = s.parent WHERE s.id = ?"
        found = self._base.execute(parent, (row.id,)).fetchone()
        del self.totals.sessions[name]
        self._base.execute("DELETE FROM sessions WHERE id = ?", (row.id,))
        if found is not None:
            self.drop_session(found[0])
        return True

    def _annotate(self, what: str, seqs: Collection[int], value: float | None = None) -> None:
        if not seqs:
            return
        made = self._base.execute("INSERT INTO annotations VALUES (NULL, ?, ?, ?, ?)", (self.now, what, ranges(seqs), value))
        if made.lastrowid is not None and made.lastrowid % 100 == 0:
            old = "SELECT id FROM annotations WHERE what <> 'erased' ORDER BY id DESC LIMIT -1 OFFSET ?"
            self._base.execute(f"DELETE FROM annotations WHERE id IN ({old})", (ANNOTATIONS_KEPT,))  # noqa: S608

    def mark_erased(self, seqs: Collection[int]) -> None:
        """The log says from now on that these numbers were erased."""
        self._annotate("erased", seqs)
        self.totals.erased += len(seqs)

    def _require_items(self, seqs: Collection[int]) -> dict[int, int]:
        """The items with their sizes. Raises NotThere when one is missing."""
        wanted = sorted(set(seqs))
        if not 0 < len(wanted) <= self._limits.batch:
            raise InvalidItem(f"items must name 1 to {self._limits.batch} numbers")
        found = {seq: size for chunk in chunks(wanted) for seq, size in self._among("SELECT seq, bytes FROM items WHERE seq", chunk)}
        if missing := [seq for seq in wanted if seq not in found]:
            raise NotThere(f"there is no item {missing[0]}")
        return found

    def _pinned(self, seqs: Iterable[int]) -> set[int]:
        wanted = sorted(set(seqs))
        return {row[0] for chunk in chunks(wanted) for row in self._among("SELECT seq FROM marks WHERE pinned AND seq", chunk)}

    def _among(self, statement: str, values: Sequence[int]) -> sqlite3.Cursor:
        return self._base.execute(f"{statement} IN ({blanks(values)})", values)


def _text(parts: int, content: str) -> str:
    return text_of(tuple(json.loads(content))) if parts else content

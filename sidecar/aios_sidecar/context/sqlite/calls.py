"""Which call a tool result answers, found by the index of an agent's file. Sessions are named by their rows."""

import sqlite3
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from aios_sidecar.context.items import Kind
from aios_sidecar.context.sqlite.schema import KINDS

_CALL: Final = KINDS.index(Kind.TOOL_CALL)
_RESULT: Final = KINDS.index(Kind.TOOL_RESULT)
_OWN: Final = "FROM items WHERE call_id = ? AND session = ? AND kind = ?"
_LAST_NUMBER: Final = 2**62


class Calls:
    """Of the sessions that there are at the first question."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base

    @cached_property
    def _parents(self) -> dict[int, tuple[int, int]]:
        rows = self._base.execute("SELECT id, parent, parent_last FROM sessions WHERE parent IS NOT NULL")
        return {session: (parent, last) for session, parent, last in rows}

    @cached_property
    def _children(self) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = {}
        for session, (parent, last) in self._parents.items():
            found.setdefault(parent, []).append((session, last))
        return found

    def call_of(self, session: int, result: int, call_id: str) -> int | None:
        """See `Reader.call_of`."""
        upto = result
        while True:
            found = self._one(f"SELECT max(seq) {_OWN} AND seq <= ?", call_id, session, _CALL, upto)
            if found is not None or session not in self._parents:
                return found
            session, last = self._parents[session]
            upto = min(upto, last)

    def answers(self, session: int, call: int, call_id: str) -> Sequence[int]:
        """See `Reader.answers`."""
        found: list[int] = []
        sessions = [session]
        while sessions:
            own = sessions.pop()
            until = self._one(f"SELECT min(seq) {_OWN} AND seq > ?", call_id, own, _CALL, call) or _LAST_NUMBER
            rows = self._base.execute(f"SELECT seq {_OWN} AND seq > ? AND seq < ?", (call_id, own, _RESULT, call, until))
            found += [seq for (seq,) in rows]
            sessions += [child for child, last in self._children.get(own, ()) if call <= last < until]
        return sorted(found)

    def unit(self, session: int, seq: int, kind: int, call_id: str | None) -> Sequence[int]:
        """The call that the item is or answers, and what answers that; the item alone when it is no call and answers none."""
        if call_id is None or kind not in (_CALL, _RESULT):
            return [seq]
        call = seq if kind == _CALL else self.call_of(session, seq, call_id)
        if call is None:
            return [seq]
        (own,) = self._base.execute("SELECT session FROM items WHERE seq = ?", (call,)).fetchone()
        return [call, *self.answers(own, call, call_id)]

    def _one(self, statement: str, *values: object) -> int | None:
        found: int | None = self._base.execute(statement, values).fetchone()[0]
        return found

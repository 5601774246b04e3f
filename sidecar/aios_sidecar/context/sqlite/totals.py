"""What an agent's file holds, in numbers: kept in memory beside the file, and written with every commit."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from aios_sidecar.context.items import Kind
from aios_sidecar.context.limits import Total
from aios_sidecar.context.sqlite.schema import KINDS

_NUMBERS: Final = ("last_seq", "last_time", "indexed", "pinned", "pinned_bytes", "erased", "retired", "fence", "first_attempt", "moved")


@dataclass
class SessionRow:
    """One row of `sessions`."""

    id: int
    items: int = 0
    first: int = 0
    last: int = 0
    time: int = 0


@dataclass
class Totals:
    """All that a write must know before it starts."""

    last_seq: int = 0
    last_time: int = 0
    indexed: int = 0
    """Items up to this number are in the index; the newest few may wait."""
    pinned: int = 0
    pinned_bytes: int = 0
    erased: int = 0
    retired: int = 0
    fence: int = 0
    first_attempt: int = 0
    moved: int = 0
    """1 when it was handed over to the attempt `fence`, which writes on another node."""
    kinds: list[Total] = field(default_factory=lambda: [Total()] * len(KINDS))
    items: int = 0
    content_bytes: int = 0
    """Of all kinds together."""
    keys: int = 0
    """Idempotency keys: counted when the file is opened, not written with each commit."""
    sessions: dict[str, SessionRow] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    """Sessions whose row is not written yet."""

    @classmethod
    def load(cls, base: sqlite3.Connection) -> "Totals":
        row = base.execute("SELECT totals FROM about").fetchone()
        numbers, kinds = json.loads(row[0])
        found = cls(**dict(zip(_NUMBERS, numbers, strict=True)), kinds=[Total(*pair) for pair in kinds])
        found.items, found.content_bytes = (sum(amounts) for amounts in zip(*found.kinds, strict=True))
        found.keys = base.execute("SELECT count(*) FROM keys").fetchone()[0]
        found.sessions = {name: SessionRow(*row) for name, *row in base.execute("SELECT name, id, items, first, last, time FROM sessions")}
        return found

    def save(self, base: sqlite3.Connection) -> None:
        """Into the open transaction."""
        base.execute("UPDATE about SET last_seq = ?, totals = ?", (self.last_seq, self.encode()))
        rows = [self.sessions[name] for name in self.touched if name in self.sessions]
        base.executemany(
            "UPDATE sessions SET items = ?, first = ?, last = ?, time = ? WHERE id = ?",
            [(row.items, row.first, row.last, row.time, row.id) for row in rows],
        )
        self.touched.clear()

    def encode(self) -> str:
        """What `load` reads."""
        numbers = ",".join([str(getattr(self, name)) for name in _NUMBERS])  # JSON by hand: it is written with every commit
        return f"[[{numbers}],[{','.join([f'[{items},{size}]' for items, size in self.kinds])}]]"

    def of(self, kinds: Iterable[Kind]) -> Total:
        """What there is of these kinds together."""
        picked = [self.kinds[KINDS.index(kind)] for kind in kinds]
        return Total(sum(each.items for each in picked), sum(each.content_bytes for each in picked))

    def add(self, kind: int, items: int, content_bytes: int) -> None:
        before = self.kinds[kind]
        self.kinds[kind] = Total(before.items + items, before.content_bytes + content_bytes)
        self.items += items
        self.content_bytes += content_bytes

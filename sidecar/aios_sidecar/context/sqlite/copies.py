"""Copies of one agent's file: snapshots, and the two halves of a move (a snapshot, and the tail of what came after it).

A digest of what a file says (not of its bytes, which depend on how it came about) proves that both ends of a move have the same.
"""

import base64
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from aios_sidecar.context.errors import Conflict, TooMuch
from aios_sidecar.context.sqlite import schema
from aios_sidecar.context.sqlite.folder import sync
from aios_sidecar.context.sqlite.rows import blanks, chunks
from aios_sidecar.context.sqlite.totals import Totals
from aios_sidecar.context.store import in_ranges, ranges

Tail = Mapping[str, Any]
WHOLE: Final = ("sessions", "annotations", "marks", "keys", "usage", "state")
"""Tables that a tail has in full: small, or changed in place."""
BY_ITEM: Final = (("items", "seq"), ("links", "item"), ("labels", "item"), ("vectors", "item"))
"""Tables whose rows come and go with items: a tail has those of items that came after the snapshot."""
CHUNK_BYTES: Final = 1 << 20


def write(base: sqlite3.Connection, path: Path) -> str:
    """A copy of the file as it is now is at `path`, durably; its SHA-256 is returned."""
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    base.execute("VACUUM INTO ?", (str(partial),))
    digest = of_bytes(partial)
    sync(partial)
    partial.rename(path)
    sync(path.parent)
    return digest


def of_bytes(path: Path) -> str:
    """The SHA-256 of the file's bytes."""
    digest = hashlib.sha256()
    for piece in pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def pieces(path: Path) -> Iterator[bytes]:
    """What is in the file, a MiB at a time."""
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK_BYTES):
            yield piece


def install(copy: Iterable[bytes], into: Path, expected: str) -> None:
    """The copy, which comes in pieces, is at `into`, durably, and can be opened there. Raises Conflict when it has another digest."""
    partial = into.with_name(into.name + ".part")
    digest = hashlib.sha256()
    with partial.open("wb") as target:
        for piece in copy:
            digest.update(piece)
            target.write(piece)
    if digest.hexdigest() != expected:
        partial.unlink()
        raise Conflict(f"the copy must have the digest {expected}; it has {digest.hexdigest()}")
    with closing(schema.writer(partial)) as base:  # a copy by VACUUM INTO has no log beside it
        base.execute("PRAGMA journal_mode = WAL")
    sync(partial)
    partial.rename(into)
    sync(into.parent)


def digest(base: sqlite3.Connection) -> str:
    """Of all that the file says. How far the index is, vectors, which are made anew where they are missing, and that it was handed over are
    not part of it."""
    found = hashlib.sha256()
    for table in (*WHOLE, *(name for name, _ in BY_ITEM if name != "vectors")):
        columns = len(base.execute(f"SELECT * FROM {table} LIMIT 0").description)  # noqa: S608
        order = ",".join(map(str, range(1, columns + 1)))
        for row in base.execute(f"SELECT * FROM {table} ORDER BY {order}"):  # noqa: S608
            found.update(repr((table, *row)).encode())
    found.update(_said(Totals.load(base)).encode())
    return found.hexdigest()


def _said(totals: Totals) -> str:
    indexed, moved, totals.indexed, totals.moved = totals.indexed, totals.moved, 0, 0
    said = totals.encode()
    totals.indexed, totals.moved = indexed, moved
    return said


def said(path: Path) -> str:
    """The `digest` of the copy at `path`."""
    with closing(schema.reader(path, "rw")) as base:
        return digest(base)


def tail(base: sqlite3.Connection, after: int, most_bytes: int, copy: str | None = None) -> Tail:
    """What a copy that was made when the log ended with item `after` lacks, and how it is to read then: nothing, when the copy says all
    already (`copy` is its `digest`). Raises TooMuch when it would be more than `most_bytes`."""
    with _one_moment(base):
        found = digest(base)
        present = ranges([row[0] for row in base.execute("SELECT seq FROM items")])
        rows = {} if copy == found else _rows(base, after, most_bytes)
        return {"present": present, "totals": Totals.load(base).encode(), "rows": rows, "digest": found}


def _rows(base: sqlite3.Connection, after: int, most_bytes: int) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    size = 0
    newer = ((table, f"WHERE {column} > {after:d}") for table, column in BY_ITEM)
    for table, where in (*((table, "") for table in WHOLE), *newer):
        found[table] = []
        for row in base.execute(f"SELECT * FROM {table} {where}"):  # noqa: S608
            plain = [_plain(value) for value in row]
            size += len(json.dumps(plain, ensure_ascii=False).encode())
            if size > most_bytes:
                raise TooMuch(f"what came after item {after} is more than {most_bytes} bytes")
            found[table].append(plain)
    return found


def apply(path: Path, what: Tail) -> None:
    """The copy at `path` says what its source did when the tail was made. Safe to repeat. Raises Conflict when it does not."""
    with closing(schema.writer(path)) as base:
        base.execute("PRAGMA synchronous = FULL")
        base.execute("BEGIN IMMEDIATE")
        indexed = Totals.load(base).indexed
        kept = {seq for numbers in in_ranges(what["present"]) for seq in numbers}
        gone = [seq for (seq,) in base.execute("SELECT seq FROM items") if seq not in kept]
        for table, column in (*BY_ITEM, ("links", "source")):
            for chunk in chunks(gone):
                base.execute(f"DELETE FROM {table} WHERE {column} IN ({blanks(chunk)})", chunk)  # noqa: S608
        for table in (*WHOLE, *(name for name, _ in BY_ITEM)):
            _replace(base, table, what["rows"].get(table))
        base.execute("UPDATE about SET totals = ?", (what["totals"],))
        totals = Totals.load(base)
        totals.indexed, totals.moved = indexed, 0
        if gone:  # the index has no text of its own by which single items could be taken out
            base.execute("INSERT INTO words(words) VALUES ('delete-all')")
            totals.indexed = 0
        totals.save(base)
        if digest(base) != what["digest"]:
            base.execute("ROLLBACK")
            raise Conflict("the copy does not say what its source does: make the move anew, from a new snapshot")
        base.execute("COMMIT")
        if gone:  # free pages still have what was in them, and some of it may have been erased
            base.execute("PRAGMA temp_store = FILE")
            base.execute("VACUUM")
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _replace(base: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]] | None) -> None:
    """The table has these rows, in place of all or beside those of earlier items; without rows it stays as it is."""
    if rows is not None and table in WHOLE:
        base.execute(f"DELETE FROM {table}")  # noqa: S608
    if rows:
        insert = f"INSERT OR REPLACE INTO {table} VALUES ({blanks(rows[0])})"  # noqa: S608
        base.executemany(insert, [[_value(each) for each in row] for row in rows])


def encode(what: Tail) -> bytes:
    """A tail for the way to another node."""
    return json.dumps(what, ensure_ascii=False).encode()


def decode(content: bytes) -> Tail:
    """As `encode`, back."""
    found: Tail = json.loads(content)
    return found


@contextmanager
def _one_moment(base: sqlite3.Connection) -> Iterator[None]:
    base.execute("BEGIN")
    try:
        yield
    finally:
        base.execute("ROLLBACK")


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _value(plain: Any) -> Any:
    return base64.b64decode(plain["base64"]) if isinstance(plain, dict) else plain

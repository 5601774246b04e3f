"""Erasure: what goes is in no table, no index, no free page and no log of the file afterwards, nor in any other file of the context."""

import shutil
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import Path

from aios_sidecar.context.errors import Unwritable
from aios_sidecar.context.items import utc
from aios_sidecar.context.sqlite.file import OpenFile, with_log
from aios_sidecar.context.sqlite.folder import DAMAGED, SNAPSHOTS, remove_copies
from aios_sidecar.context.sqlite.rows import blanks, chunks
from aios_sidecar.context.store import Receipt, Scope, ranges


def erase(file: OpenFile, scope: Scope, attempt: int) -> Receipt:
    """See `Context.erase`. What is done in the end is that nothing is left to do: killed at any point, erasing again completes it."""

    def act(base: sqlite3.Connection) -> Receipt:
        file.writes().require_writer(attempt)
        return _erase(file, base, scope)

    receipt = file.alone(act)
    file.observer.erased(receipt.items)
    return receipt


def _erase(file: OpenFile, base: sqlite3.Connection, scope: Scope) -> Receipt:
    base.execute("PRAGMA secure_delete = ON")
    base.execute("BEGIN IMMEDIATE")
    named = _named(base, scope)
    derived = _derived(base, named)
    seqs = sorted(named | derived)
    writes = file.writes()
    places = _counts(base, seqs)
    writes.remove(seqs)
    if scope.session is not None:
        writes.drop_session(scope.session)
    places["state"] = base.execute("DELETE FROM state").rowcount  # a window's traces say something of what was there
    places["keys"] = _forget_keys(base, seqs)
    writes.totals.keys -= places["keys"]
    if scope.everything:
        places["usage"] = base.execute("DELETE FROM usage").rowcount
        places["sessions"] += _empty_sessions(file, base)
    writes.mark_erased(seqs)
    writes.totals.save(base)
    now = writes.now
    base.execute("COMMIT")
    base.execute("INSERT INTO words(words) VALUES ('optimize')")  # the index keeps what was deleted until its parts are merged
    base.execute("PRAGMA temp_store = FILE")  # as large as the context itself: nothing to hold in memory
    base.execute("VACUUM")  # free pages still have what was merged
    base.execute("PRAGMA temp_store = MEMORY")
    base.execute("PRAGMA secure_delete = OFF")
    busy, _, _ = base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise Unwritable("another program reads the file, so that its log can't be emptied: erase again")
    places["snapshots"] = _remove(file.path.parent / SNAPSHOTS)
    places["damaged"] = _remove(file.path.parent / DAMAGED)
    places["copies"] = remove_copies(file.path.parent)  # a move begins anew without them
    places["log"] = sum(path.stat().st_size for path in with_log(file.path)[1:2] if path.exists())
    return Receipt(utc(now), len(seqs), ranges(seqs), {"items": len(named), "derived": len(derived), **places})


def _forget_keys(base: sqlite3.Connection, seqs: list[int]) -> int:
    """Idempotency keys keep a digest of the items that they stand for: those of erased ones go."""
    keys = [
        (key,)
        for key, first, last in base.execute("SELECT key, first, last FROM keys")
        if bisect_left(seqs, first) < bisect_right(seqs, last)
    ]
    base.executemany("DELETE FROM keys WHERE key = ?", keys)
    return len(keys)


def _named(base: sqlite3.Connection, scope: Scope) -> set[int]:
    if scope.items:
        rows: Iterable[tuple[int]] = (
            row
            for chunk in chunks(scope.items)
            for row in base.execute(f"SELECT seq FROM items WHERE seq IN ({blanks(chunk)})", chunk)  # noqa: S608
        )
    elif scope.session is not None:
        rows = base.execute("SELECT i.seq FROM items i JOIN sessions s ON s.id = i.session WHERE s.name = ?", (scope.session,))
    elif scope.author is not None:
        rows = base.execute("SELECT seq FROM items WHERE author = ?", (scope.author,))
    elif scope.label is not None:
        rows = base.execute("SELECT item FROM labels WHERE key = ? AND value = ?", scope.label)
    else:
        rows = base.execute("SELECT seq FROM items")
    return {row[0] for row in rows}


def _derived(base: sqlite3.Connection, named: set[int]) -> set[int]:
    """All that was made from these, and from that, and so on."""
    found: set[int] = set()
    edge = named
    while edge:
        made = {
            row[0]
            for chunk in chunks(sorted(edge))
            for row in base.execute(f"SELECT item FROM links WHERE source IN ({blanks(chunk)})", chunk)  # noqa: S608
        }
        edge = made - found - named
        found |= edge
    return found


def _counts(base: sqlite3.Connection, seqs: list[int]) -> dict[str, int]:
    """How many pieces of these there are in each derived place, before they go."""
    places = {"index": len(seqs), "sessions": 0}
    for place, table, column in (("marks", "marks", "seq"), ("labels", "labels", "item"), ("embeddings", "vectors", "item")):
        places[place] = sum(
            base.execute(f"SELECT count(*) FROM {table} WHERE {column} IN ({blanks(chunk)})", chunk).fetchone()[0]  # noqa: S608
            for chunk in chunks(seqs)
        )
    return places


def _empty_sessions(file: OpenFile, base: sqlite3.Connection) -> int:
    file.totals.sessions.clear()
    return base.execute("DELETE FROM sessions").rowcount


def _remove(folder: Path) -> int:
    """The folder is gone; how many files were in it."""
    if not folder.exists():
        return 0
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return count

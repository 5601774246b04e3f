"""One agent's file while it is open: one connection that writes, some that read, and the numbers of what is in it."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from aios_sidecar.context.errors import ContextError, Damaged, Unwritable
from aios_sidecar.context.items import InvalidItem
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.sqlite import schema
from aios_sidecar.context.sqlite.queue import FileQueue, Work
from aios_sidecar.context.sqlite.rows import SqliteReader
from aios_sidecar.context.sqlite.totals import Totals
from aios_sidecar.context.sqlite.writes import Writes
from aios_sidecar.context.store import Observer

T = TypeVar("T")
IDLE_READERS: Final = 2
"""Connections that wait for the next reader; each holds up to a MiB of pages."""
_NO_TEXT: Final = "Could not decode to UTF-8"
_MALFORMED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Clocks(NamedTuple):
    """In microseconds since 1970."""

    clock: Callable[[], int]
    """By which items get their time."""
    ages: Callable[[], int]
    """By which they become too old."""
    expected: Callable[[], int]
    """What the clock should show."""


class OpenFile:
    """Opened by whoever creates it. Raises Damaged; a file that can be read and not written is open for reading."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        generation: int,
        clocks: "Clocks",
        pool: Executor,
        observer: Observer,
    ) -> None:
        self.path = path
        self.limits = limits
        self._generation = generation
        self._clocks = clocks
        self.observer = observer
        self._write = threading.Lock()
        self._due: dict[int, int] = {}
        self._aged = 0
        self._waits: bool | None = None
        self._readers: list[sqlite3.Connection] = []
        self._reading = 0
        self._wants_alone = False
        self._gate = threading.Condition()
        self.queue = FileQueue(self._commit, pool)
        with refusals(path):
            self._base, self.unwritable = _open(path)
            try:
                self.totals = Totals.load(self._base)
            except BaseException:
                self._base.close()
                raise

    def limit(self, limits: Limits) -> None:
        """These hold from the next write on."""
        with self._write:
            self.limits = limits
            self._due.clear()

    def close(self) -> None:
        """What was taken is written, and the connections are closed: the log beside the file (-wal) is part of it then."""
        self.queue.close()
        with self._write, self._alone():
            self._base.close()

    def abandon(self) -> None:
        """As `close`, for a file that is damaged: what is taken meanwhile fails."""
        self.unwritable = "the file of this context is damaged"
        self.close()

    def _commit(self, works: Sequence[Work[Any]]) -> None:
        """Write `works` in one transaction; the disk has it before a durable one is told."""
        with self._write:
            try:
                with refusals(self.path):
                    settled = self._transaction(works)
            except Exception as error:  # noqa: BLE001  whoever waits must be told, whatever it is
                self._forget_failed()
                for work in works:
                    work.done.set_exception(error)
                return
        for work, result, refusal in settled:
            if refusal is None:
                work.done.set_result(result)
            else:
                work.done.set_exception(refusal)

    def _transaction(self, works: Sequence[Work[Any]]) -> list[tuple[Work[Any], Any, Exception | None]]:
        if self.unwritable is not None:
            raise Unwritable(self.unwritable)
        self._wait_for_disk(any(work.durable for work in works))
        self._base.execute("BEGIN IMMEDIATE")
        writes = Writes(self._base, self.totals, self.limits, self._clocks.clock(), self._clocks.expected())
        before = self.totals.last_seq
        settled: list[tuple[Work[Any], Any, Exception | None]] = []
        for work in works:
            try:
                settled.append((work, work.apply(writes), None))
            except (ContextError, InvalidItem) as refusal:  # nothing of it was written
                settled.append((work, None, refusal))
        retired = 0 if self.totals.moved else writes.retire(self._due, self._age())
        self.totals.save(self._base)
        self._base.execute("COMMIT")
        self.observer.committed(len(works), self.totals.last_seq - before, retired)
        return settled

    def _age(self) -> int:
        now = self._clocks.ages()
        if now < self._aged:  # what is due was looked up by a clock that was ahead
            self._due.clear()
        self._aged = now
        return now

    def _wait_for_disk(self, yes: bool) -> None:
        """Whether the next commit returns only once the disk has it."""
        if yes != self._waits:
            self._base.execute(f"PRAGMA synchronous = {'FULL' if yes else 'NORMAL'}")
            self._waits = yes

    def _forget_failed(self) -> None:
        """The transaction is undone, also in the numbers. A file that can't even be read back says so at its next use."""
        with contextlib.suppress(sqlite3.Error):
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
        try:
            self.totals = Totals.load(self._base)
        except sqlite3.Error as error:
            self.unwritable = f"the context can't be read after a write that failed: {error}"

    def alone(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """What `act` does with the file while nobody else reads or writes. It ends its own transactions."""
        with self._write, self._alone(), refusals(self.path):
            if self.unwritable is not None:
                raise Unwritable(self.unwritable)
            self._wait_for_disk(True)
            try:
                return act(self._base)
            except BaseException:
                self._forget_failed()
                raise

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._gate:
            self._wants_alone = True
            self._gate.wait_for(lambda: self._reading == 0)
            for connection in self._readers:
                connection.close()
            self._readers.clear()
            try:
                yield
            finally:
                self._wants_alone = False
                self._gate.notify_all()

    def writes(self) -> Writes:
        """For `alone`: what changes the file within a transaction of `act`."""
        return Writes(self._base, self.totals, self.limits, self._clocks.clock(), self._clocks.expected())

    @contextlib.contextmanager
    def reading(self) -> Iterator[SqliteReader]:
        """A reader over the file as it is now. Nothing may be written and no second reader opened inside: who wants the file alone waits
        for the end of this, and keeps others from beginning."""
        with self._gate:
            self._gate.wait_for(lambda: not self._wants_alone)
            self._reading += 1
            connection = self._readers.pop() if self._readers else None
        kept = False
        try:
            with refusals(self.path):
                connection = connection or _open_to_read(self.path)
                connection.execute("BEGIN")
                yield SqliteReader(connection, self._generation)
                connection.execute("ROLLBACK")
                kept = True
        finally:
            with self._gate:
                self._reading -= 1
                if kept and connection is not None and len(self._readers) < IDLE_READERS:
                    self._readers.append(connection)
                elif connection is not None:
                    connection.close()
                self._gate.notify_all()

    def file_bytes(self) -> int:
        """What the file and its log take on the disk."""
        return sum(path.stat().st_size for path in with_log(self.path) if path.exists())


def with_log(path: Path) -> tuple[Path, Path, Path]:
    """The file and what SQLite keeps beside it."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _open(path: Path) -> tuple[sqlite3.Connection, str | None]:
    """A connection, and why it may not write."""
    try:
        base = schema.writer(path)
        try:
            base.execute("BEGIN IMMEDIATE")
            base.execute("ROLLBACK")
        except BaseException:
            base.close()
            raise
        return base, None
    except sqlite3.OperationalError as error:
        if _primary(error) in _MALFORMED:
            raise
        return _open_to_read(path), f"the disk takes nothing: {error}; make room or make it writable, then start the gateway anew"


def _open_to_read(path: Path) -> sqlite3.Connection:
    try:
        return schema.reader(path, "rw")
    except sqlite3.OperationalError as error:
        if _primary(error) in _MALFORMED:
            raise
    return schema.reader(path, "ro" if with_log(path)[1].exists() else "ro&immutable=1")


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What SQLite and the disk say becomes an error of ours."""
    try:
        yield
    except sqlite3.Error as error:
        if _primary(error) in _MALFORMED:
            raise Damaged(f"{path} is damaged: {error}") from error
        if str(error).startswith(_NO_TEXT):  # the message goes on with the text, which is nobody else's to read
            raise Damaged(f"{path} is damaged: {_NO_TEXT}") from None
        raise Unwritable(f"the disk does not take or give what is wanted of {path.name}: {error}") from error
    except OSError as error:
        raise Unwritable(f"the disk does not take or give what is wanted of {path.name}: {error.strerror or error}") from error


def _primary(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF

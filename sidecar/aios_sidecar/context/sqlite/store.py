"""The directory of all contexts of a node: one folder per agent, some of the files open."""

import contextlib
import fcntl
import itertools
import json
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from aios_sidecar.context.errors import Busy, Conflict, ContextError, Damaged, Fenced
from aios_sidecar.context.items import microseconds, utc
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.sqlite import copies, reclaim, schema
from aios_sidecar.context.sqlite.context import Holder, SqliteContext
from aios_sidecar.context.sqlite.file import Clocks, OpenFile, refusals, with_log
from aios_sidecar.context.sqlite.folder import (
    DAMAGED,
    FILE,
    IDENTITY,
    NEW,
    RELEASED,
    empty,
    read_released,
    remove_copies,
    sync,
    write_durably,
)
from aios_sidecar.context.sqlite.queue import Work
from aios_sidecar.context.sqlite.totals import Totals
from aios_sidecar.context.store import AgentKey, Observer

log = logging.getLogger(__name__)

_UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


class SqliteStore:
    """See `ContextStore`. One program at a time has the directory. Raises Busy while another has it, Unwritable.

    By `clock` items get their time; by `ages` they become too old, by default the same clock; `expected` is what the clock should show.
    """

    def __init__(
        self,
        root: Path,
        *,
        open_files: int = 64,
        writers: int = 16,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        ages: Callable[[], datetime] | None = None,
        expected: Callable[[], datetime] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._root = root
        self._open_files = open_files
        self._clock = lambda: microseconds(clock())
        self._ages: Callable[[], int] = self._clock if ages is None else lambda: microseconds(ages())
        self._expected: Callable[[], int] = (lambda: 0) if expected is None else lambda: microseconds(expected())
        self._observer = observer or Observer()
        self._lock = threading.Lock()
        self._closed = False
        self._holders: WeakValueDictionary[str, Holder] = WeakValueDictionary()
        """Of whom a context is used or a file is open: every user of one agent's file has the same one."""
        self._open: OrderedDict[str, Holder] = OrderedDict()
        self._generations = itertools.count(1)
        self._to_erase: set[str] = set()
        self._pool = ThreadPoolExecutor(writers, thread_name_prefix="context")
        with refusals(root):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held)
            raise Busy(f"another program has the contexts in {root}") from None
        with refusals(root):
            reclaim.complete(root)
            for path in root.glob("[!.]*/"):
                remove_copies(path)
        os.environ["SQLITE_TMPDIR"] = str(root)  # SQLite's only way to be told: what VACUUM copies stays on this disk

    @property
    def root(self) -> Path:
        return self._root

    def ages(self) -> datetime:
        """See `ContextStore.ages`."""
        return utc(self._ages())

    @property
    def open_files(self) -> int:
        return len(self._open)

    def context(self, key: AgentKey, attempt: int, limits: Limits | None = None) -> SqliteContext:
        """See `ContextStore.context`. Limits that are not given stay as they are."""
        holder = self._holder(key, limits)
        with self._used(holder, attempt) as file:
            file.writes().require_attempt(attempt)
            if limits is not None and limits != holder.limits:
                holder.limits = limits
                file.limit(limits)
            if attempt > file.totals.fence and file.unwritable is None:
                file.queue.do(Work(lambda writes: writes.raise_fence(attempt), durable=True))
        return SqliteContext(attempt, holder, self)

    def existing(self, key: AgentKey, attempt: int) -> SqliteContext:
        """See `ContextStore.existing`."""
        return SqliteContext(attempt, self._holder(key, None), self)

    def _holder(self, key: AgentKey, limits: Limits | None) -> Holder:
        if _UID.fullmatch(key.uid) is None:
            raise ContextError(f"the uid of an agent must match {_UID.pattern}")
        with self._lock:
            holder = self._holders.get(key.uid)
            if holder is None:
                holder = self._holders[key.uid] = Holder(key, limits or Limits(), next(self._generations))
            return holder

    def holds(self, key: AgentKey) -> bool:
        folder = self.folder(key.uid)
        return (folder / FILE).exists() or (folder / IDENTITY).exists()

    def rest(self, key: AgentKey) -> None:
        """See `ContextStore.rest`."""
        with self._lock:
            holder = self._holders.get(key.uid)  # also of one that is just being opened
        if holder is not None:
            with holder.opening:
                holder.resting = holder.users > 0
                self._close(holder)

    def restore(self, key: AgentKey, attempt: int, path: Path, digest: str) -> SqliteContext:
        """The agent's context is what the snapshot at `path` has. Raises Conflict when its bytes are not those of `digest`, or when there
        is a context that is not damaged and not empty: what is there is not thrown away."""
        holder = self._holder(key, None)
        folder = self.folder(key.uid)
        with holder.opening, refusals(folder):
            if (folder / FILE).exists():
                with self._used(holder, attempt) as file:
                    if file.totals.last_seq:
                        raise Conflict("there is a context already: erase everything before a snapshot is restored")
            self._close_unused(holder)
            folder.mkdir(mode=0o700, exist_ok=True)
            copies.install(copies.pieces(path), folder / NEW, digest)
            self._put(holder, folder / NEW)
        return self.existing(key, attempt)

    def adopt(self, key: AgentKey, incoming: Path) -> None:
        """The file `incoming`, in the agent's folder, is its context. Raises Conflict when there is one that was not handed over."""
        holder = self._holder(key, None)
        with holder.opening, refusals(incoming):
            if (self.folder(key.uid) / FILE).exists():
                with self._used(holder, 1) as file:
                    if file.totals.last_seq and not file.totals.moved:
                        raise Conflict("there is another context of this agent here, which was not handed over")
            self._close_unused(holder)
            self._put(holder, incoming)

    def supersede(self, key: AgentKey, *, keep_handed_over: bool) -> None:
        """What is here of the agent is its context no longer. It is kept as a snapshot, unless it was handed over and is not wanted: then
        it went on elsewhere. Raises Busy while it is used."""
        holder, path = self._holder(key, None), self.folder(key.uid) / FILE
        with contextlib.suppress(Damaged):  # that is kept where it is
            if path.exists():
                with self._used(holder, 1) as file:
                    wanted = bool(file.totals.last_seq) and (keep_handed_over or not file.totals.moved)
                if wanted:
                    self.existing(key, 1).snapshot()
        with holder.opening, refusals(path):
            self._close_unused(holder)
            path.with_name(IDENTITY).unlink(missing_ok=True)
            for old in with_log(path):
                old.unlink(missing_ok=True)

    def reclaim(self, key: AgentKey, *, erase: bool) -> None:
        """Whether what is here of the agent is to be erased once the agent is gone: a mark beside it, also beside what comes later."""
        holder, folder = self._holder(key, None), self.folder(key.uid)
        with holder.opening, refusals(folder):
            (self._to_erase.add if erase else self._to_erase.discard)(key.uid)
            if folder.exists():
                reclaim.mark(folder, key if erase else None)

    def reclaimable(self) -> list[AgentKey]:
        """Of whom what is here is to be erased once they are gone."""
        return reclaim.marked(self._root)

    def take_away(self, key: AgentKey) -> int:
        """Nothing of the agent is here any more, whatever state it was in; how many files went. Killed in between, the next store here
        completes it. Raises Busy while it is used."""
        holder, folder = self._holder(key, None), self.folder(key.uid)
        with holder.opening, refusals(folder):
            self._close_unused(holder)
            self._to_erase.discard(key.uid)
            return reclaim.take_away(folder)

    def _mark(self, key: AgentKey) -> None:
        """Before what is new in the folder counts."""
        if key.uid in self._to_erase:
            reclaim.mark(self.folder(key.uid), key)

    def close_off(self, key: AgentKey, attempt: int) -> None:
        """There is no context of the agent here, and no attempt up to this one begins one. Raises Conflict when there is one."""
        holder, folder = self._holder(key, None), self.folder(key.uid)
        with holder.opening, refusals(folder):
            if self.holds(key):
                raise Conflict("there is a context of this agent here")
            folder.mkdir(mode=0o700, exist_ok=True)
            self._mark(key)
            write_durably(folder / RELEASED, json.dumps(key._asdict() | {"attempt": attempt, "empty": True}))
            sync(self._root)

    def released(self, key: AgentKey) -> int:
        """To which attempt the context was handed over before it went from here; 0 when none did, or there was none."""
        found = read_released(self.folder(key.uid))
        return 0 if found.get("empty") else int(found["attempt"])

    def _put(self, holder: Holder, new: Path) -> None:
        """`new` is the agent's file; what was there is gone. Its own log must be empty."""
        key, path = holder.key, self.folder(holder.key.uid) / FILE
        holder.generation = next(self._generations)
        for old in with_log(path)[1:]:
            old.unlink(missing_ok=True)
        self._mark(key)
        new.rename(path)
        write_durably(path.with_name(IDENTITY), json.dumps(key._asdict()))
        path.with_name(RELEASED).unlink(missing_ok=True)
        sync(self._root)

    def remove(self, key: AgentKey, *, handed_over_to: int | None = None) -> int:
        """Nothing of the agent is here any more; how many files went. With `handed_over_to`, only what was handed over to that attempt:
        raises Conflict else; and no attempt up to that one begins another context here."""
        holder, folder = self._holder(key, None), self.folder(key.uid)
        with holder.opening, refusals(folder):
            if not folder.exists() or (handed_over_to is not None and not self.holds(key)):
                return 0
            if handed_over_to is not None and (folder / FILE).exists():
                with self._used(holder, 1) as file:
                    if not (file.totals.moved and file.totals.fence == handed_over_to):
                        raise Conflict(f"the context must be handed over to attempt {handed_over_to} before it is removed")
                self._close_unused(holder)
            self._close(holder)
            if handed_over_to is not None:
                write_durably(folder / RELEASED, json.dumps(key._asdict() | {"attempt": handed_over_to}))
            keep = {RELEASED, reclaim.MARK} if handed_over_to is not None else set()
            count = empty(folder, keep)
            sync(self._root)
            return count

    def agents(self) -> list[AgentKey]:
        """Whose contexts are here."""
        found = (self.key(path.parent.name) for path in sorted(self._root.glob(f"*/{IDENTITY}")))
        return [key for key in found if key is not None]

    def key(self, uid: str) -> AgentKey | None:
        """Of the agent with this uid; None when nothing of it is here. Without its names when what says them is damaged: it can be looked
        at and erased all the same, and is whole again once its agent was here."""
        path = self.folder(uid) / IDENTITY
        if _UID.fullmatch(uid) is None or not path.exists():
            return None
        try:
            key = AgentKey(**json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            return AgentKey("", "", uid)
        return key if key.uid == uid else AgentKey("", "", uid)

    def folder(self, uid: str) -> Path:
        """Where the agent's files are."""
        return self._root / uid

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for holder in list(self._holders.values()):
            self._close(holder)
        self._pool.shutdown()
        os.close(self._held)

    def use(self, holder: Holder) -> contextlib.AbstractContextManager[OpenFile]:
        """See `Files.use`."""
        return self._used(holder, 1)

    def begin_anew(self, holder: Holder, attempt: int) -> int:
        """See `Files.begin_anew`."""
        folder = self.folder(holder.key.uid)
        with holder.opening, refusals(folder):
            count = empty(folder, {reclaim.MARK})
            with self._used(holder, attempt):
                return count

    @contextlib.contextmanager
    def _used(self, holder: Holder, attempt: int) -> Iterator[OpenFile]:
        with holder.opening:
            file = holder.file
            if file is not None and file.unwritable is not None and holder.users == 0:
                file.close()  # the disk may be well again
                file = None
            if self._closed:
                raise Busy("the store is closed")
            if file is None:
                file = holder.file = self._opened(holder, attempt)
            holder.users += 1
        with self._lock:
            self._open[holder.key.uid] = holder
            self._open.move_to_end(holder.key.uid)
        broken: Damaged | None = None
        try:
            yield file
        except Damaged as error:
            broken = error
            raise
        finally:
            with holder.opening:
                holder.users -= 1
                if holder.resting and not holder.users:
                    holder.resting = False
                    if broken is None:
                        self._close(holder)
            if broken is not None:
                self._set_aside(holder, file, broken)
            self._close_some()

    def _opened(self, holder: Holder, attempt: int) -> OpenFile:
        folder = self.folder(holder.key.uid)
        try:
            self._exists(folder, holder, attempt)
            return OpenFile(
                folder / FILE, holder.limits, holder.generation, Clocks(self._clock, self._ages, self._expected), self._pool, self._observer
            )
        except Damaged as error:
            if (folder / FILE).exists():
                self._move_aside(folder, holder.key, str(error))
            raise

    def _exists(self, folder: Path, holder: Holder, attempt: int) -> None:
        """The context's file is there: found, or made when there was none ever."""
        path, identity = folder / FILE, folder / IDENTITY
        if identity.exists() and path.exists():
            if holder.key.name and self.key(holder.key.uid) != holder.key:
                with contextlib.suppress(OSError):  # on a disk that takes nothing it stays as it is, and is read as ever
                    write_durably(identity, json.dumps(holder.key._asdict()))
            return
        if identity.exists():
            what = "was damaged and is set aside" if (folder / DAMAGED).exists() else "is gone"
            raise Damaged(f"the file of this context {what}: restore a snapshot of it, or erase everything to begin anew")
        with refusals(path):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._mark(holder.key)
            if not path.exists():
                released = int(read_released(folder)["attempt"])
                if attempt <= released:
                    raise Fenced(f"the context was handed over to attempt {released}, which writes it on another node")
                for old in (*with_log(folder / NEW), *with_log(path)):
                    old.unlink(missing_ok=True)  # a log that a removal left would be read as this file's
                schema.create(folder / NEW, Totals(fence=attempt, first_attempt=attempt).encode())
                (folder / NEW).rename(path)
                holder.generation = next(self._generations)
            write_durably(identity, json.dumps(holder.key._asdict()))
            (folder / RELEASED).unlink(missing_ok=True)
            sync(self._root)

    def _set_aside(self, holder: Holder, file: OpenFile, error: Damaged) -> None:
        with holder.opening:
            if holder.file is not file:
                return  # another that used it was first
            holder.file = None
            with self._lock:
                self._open.pop(holder.key.uid, None)
            file.abandon()
            self._move_aside(self.folder(holder.key.uid), holder.key, str(error))

    def _move_aside(self, folder: Path, key: AgentKey, why: str) -> None:
        """Everything of the file is in a folder of its own, nothing of it changed."""
        log.error("the context of %s/%s is set aside: %s", key.namespace, key.name, why)
        aside = folder / DAMAGED / self._aside_name()
        aside.mkdir(parents=True, mode=0o700)
        for path in with_log(folder / FILE):
            if path.exists():
                path.rename(aside / path.name)
        sync(folder)
        self._observer.damaged(key, why)

    def _aside_name(self) -> str:
        return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")

    def _close_some(self) -> None:
        """Close files that were not used for longest until as many are open as may be. Those in use stay."""
        with self._lock:
            surplus = len(self._open) - self._open_files
            if surplus <= 0:
                return
            idle = [holder for holder in self._open.values() if holder.users == 0][:surplus]
        for holder in idle:
            if holder.opening.acquire(blocking=False):
                try:
                    self._close(holder)
                finally:
                    holder.opening.release()

    def _close_unused(self, holder: Holder) -> None:
        """The file is closed. Raises Busy while somebody uses it."""
        with holder.opening:
            if holder.users:
                raise Busy("the context is being used: try again")
            self._close(holder)

    def _close(self, holder: Holder) -> None:
        with holder.opening:
            if holder.users:
                return
            file, holder.file = holder.file, None
            with self._lock:
                self._open.pop(holder.key.uid, None)
            if file is not None:
                file.close()

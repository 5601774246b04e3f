"""One agent's context in its file, which is open while it is used and may be closed in between."""

import contextlib
import functools
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from aios_sidecar.context.errors import Conflict, Damaged, Unwritable
from aios_sidecar.context.items import Draft, Usage, utc
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.prepared import prepare
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.sqlite import copies, schema
from aios_sidecar.context.sqlite.erasure import erase
from aios_sidecar.context.sqlite.file import OpenFile, refusals
from aios_sidecar.context.sqlite.folder import SNAPSHOTS
from aios_sidecar.context.sqlite.queue import Work
from aios_sidecar.context.sqlite.rows import require_sound
from aios_sidecar.context.sqlite.writes import Writes
from aios_sidecar.context.store import AgentKey, Appended, Description, Receipt, Scope, Snapshot

T = TypeVar("T")
SNAPSHOTS_KEPT: Final = 3
VECTORS_AT_ONCE: Final = 256
"""In one commit: a millisecond, so that no append waits for thousands of them."""


class Files(Protocol):
    """Opens files, keeps some of them open, and takes care of damaged ones."""

    def use(self, holder: "Holder") -> contextlib.AbstractContextManager[OpenFile]:
        """The agent's file, open until the end. What is raised inside passes through here."""

    def folder(self, uid: str) -> Path:
        """Where the agent's files are."""

    def begin_anew(self, holder: "Holder", attempt: int) -> int:
        """Nothing is left of what the agent had, and an empty file is there; how many files went."""


class Holder:
    """One agent's file, open or not, for all who use it."""

    def __init__(self, key: AgentKey, limits: Limits, generation: int) -> None:
        self.key = key
        self.limits = limits
        self.generation = generation
        """See `Reader.generation`."""
        self.file: OpenFile | None = None
        """Set while it is open; by `Files` alone."""
        self.users = 0
        self.resting = False
        """Whoever uses it last is to close it."""
        self.opening = threading.RLock()


class SqliteContext:
    """See `Context`. What it writes, this attempt of the agent writes."""

    def __init__(self, attempt: int, holder: Holder, files: Files) -> None:
        self.attempt = attempt
        self._holder = holder
        self._files = files

    def append(self, drafts: Sequence[Draft], key: str | None = None, durable: bool = True) -> Appended:
        batch = prepare(drafts, key, self._holder.limits)
        return self._do(lambda writes: writes.append(batch), durable=durable)

    def submit(self, drafts: Sequence[Draft], key: str | None = None, durable: bool = True) -> "Future[Appended]":
        batch = prepare(drafts, key, self._holder.limits)
        held = contextlib.ExitStack()
        file = held.enter_context(self._files.use(self._holder))
        work = Work(self._as_attempt(lambda writes: writes.append(batch)), durable)
        work.done.add_done_callback(functools.partial(_let_go, held))
        try:
            return file.queue.submit(work)
        except BaseException:
            held.close()
            raise

    def pin(self, seqs: Collection[int], pinned: bool = True) -> None:
        self._do(lambda writes: writes.pin(seqs, pinned))

    def weigh(self, seqs: Collection[int], importance: float | None) -> None:
        self._do(lambda writes: writes.weigh(seqs, importance))

    def accessed(self, seqs: Collection[int]) -> None:
        self._do(lambda writes: writes.accessed(seqs), durable=False)

    def report(self, usage: Usage) -> None:
        self._do(lambda writes: writes.report(usage), durable=False)

    def keep_state(self, values: Mapping[str, str]) -> None:
        self._do(lambda writes: writes.keep_state(values), durable=False)

    def keep_vectors(self, name: str, values: Mapping[int, bytes]) -> None:
        seqs = sorted(values)
        for start in range(0, len(seqs), VECTORS_AT_ONCE):
            some = {seq: values[seq] for seq in seqs[start : start + VECTORS_AT_ONCE]}
            self._do(functools.partial(Writes.keep_vectors, name=name, values=some), durable=False)

    def fork(self, at: int, into: str) -> None:
        self._do(lambda writes: writes.fork(at, into))

    def erase(self, scope: Scope) -> Receipt:
        try:
            with self._files.use(self._holder) as file:
                return erase(file, scope, self.attempt)
        except Damaged:
            if not scope.everything:
                raise
            return Receipt(datetime.now(UTC), 0, "", {"damaged": self._files.begin_anew(self._holder, self.attempt)})

    def snapshot(self) -> Snapshot:
        """See `Context.snapshot`. `SNAPSHOTS_KEPT` stay."""
        folder = self._files.folder(self._holder.key.uid) / SNAPSHOTS
        with refusals(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            made = self.copy_to(folder / "new.db")
            kept = made.path.rename(folder / f"{made.last_seq}-{made.digest}.db")
            for old in sorted(folder.glob("*-*.db"), key=lambda path: path.stat().st_mtime_ns)[:-SNAPSHOTS_KEPT]:
                old.unlink()
        return replace(made, path=kept)

    def copy_to(self, path: Path) -> Snapshot:
        """A copy is at `path`, durably, as of one moment. Raises Damaged, and there is no copy, when an item is not as it was written."""

        def act(base: sqlite3.Connection) -> Snapshot:
            digest = copies.write(base, path)
            return Snapshot(path, digest, file.totals.last_seq, path.stat().st_size)

        with self._files.use(self._holder) as file:
            made = file.alone(act)
            try:
                with refusals(path), contextlib.closing(schema.reader(path, "ro&immutable=1")) as copy:
                    require_sound(copy)
            except Damaged:
                path.unlink()
                raise
            return made

    def hand_over(self) -> None:
        """Attempts before this one may not write any more, nor may this one here: it begins elsewhere."""

        def apply(writes: Writes) -> None:
            if writes.totals.fence > self.attempt:
                writes.require_attempt(self.attempt)
            writes.hand_over(self.attempt)

        with self._files.use(self._holder) as file:
            file.queue.do(Work(apply, durable=True))

    def tail(self, after: int, most_bytes: int, copy: str | None = None) -> copies.Tail:
        """See `copies.tail`. Raises Conflict unless the context was handed over to this attempt."""
        with self._files.use(self._holder) as file:
            if not (file.totals.moved and file.totals.fence == self.attempt):
                raise Conflict("a context must be handed over before its tail is taken: more could come")
            return file.alone(lambda base: copies.tail(base, after, most_bytes, copy))

    def is_written_by(self, attempt: int) -> bool:
        """Whether this attempt or a later one writes it, here."""
        with self._files.use(self._holder) as file:
            return file.totals.fence >= attempt and not file.totals.moved

    def retire(self) -> int:
        with self._files.use(self._holder) as file:
            before = file.totals.retired
            file.queue.do(Work(lambda writes: None, durable=False))
            return file.totals.retired - before

    def limit(self, limits: Limits) -> None:
        self._holder.limits = limits
        with self._files.use(self._holder) as file:
            file.limit(limits)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        with self._files.use(self._holder) as file:
            if file.totals.indexed < file.totals.last_seq:
                with contextlib.suppress(Unwritable):  # then what waits for the index is not found by its words, and all else is
                    file.queue.do(Work(Writes.index, durable=False))
            with file.reading() as reader:
                yield reader

    def describe(self) -> Description:
        with self._files.use(self._holder) as file:
            totals = file.totals
            return Description(
                items=totals.items,
                content_bytes=totals.content_bytes,
                file_bytes=file.file_bytes(),
                sessions=len(totals.sessions),
                pinned=totals.pinned,
                last_seq=totals.last_seq,
                erased=totals.erased,
                retired=totals.retired,
                last_append=utc(totals.last_time) if totals.last_seq else None,
                first_attempt=totals.first_attempt,
                fence=totals.fence,
                limits=self._holder.limits,
            )

    def _do(self, apply: Callable[[Writes], T], durable: bool = True) -> T:
        with self._files.use(self._holder) as file:
            return file.queue.do(Work(self._as_attempt(apply), durable))

    def _as_attempt(self, apply: Callable[[Writes], T]) -> Callable[[Writes], T]:
        def act(writes: Writes) -> T:
            writes.require_writer(self.attempt)
            return apply(writes)

        return act


def _let_go(held: contextlib.ExitStack, done: "Future[Any]") -> None:
    """The file may be closed again; an error on the way (a damaged file) is taken care of as if it had been waited for."""
    with contextlib.suppress(Exception), held:
        done.result()

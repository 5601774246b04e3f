"""Group commit: what many threads want to write to one file is written together, and many files are written at once.

Each file has a queue and at most one thread that writes it. While that thread waits for the disk, more arrives; it takes all of it into its
next commit. A caller that finds the file idle writes himself and saves the way to another thread.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from aios_sidecar.context.errors import Busy

T = TypeVar("T")
AT_ONCE: Final = 256
"""Requests in one commit: at chat sizes a few milliseconds of writing."""


@dataclass(eq=False)
class Work(Generic[T]):
    """One thing to write. `apply` is called with the open transaction; it raises a refusal only before it has written anything."""

    apply: Callable[[Any], T]
    durable: bool
    done: "Future[T]" = field(default_factory=Future)


class FileQueue:
    """The queue of one file. `commit` writes some works in one transaction and settles each of them; it must not raise."""

    def __init__(self, commit: Callable[[Sequence[Work[Any]]], None], pool: Executor) -> None:
        self._commit = commit
        self._pool = pool
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._waiting: list[Work[Any]] = []
        self._active = False
        self._closed = False

    def submit(self, work: Work[T]) -> "Future[T]":
        """The work will be done by a thread of the pool. Raises Busy after `close`."""
        if self._enter(work):
            self._pool.submit(self._drain, None)
        return work.done

    def do(self, work: Work[T]) -> T:
        """The work is done, by this thread or by another. Raises what it raised, and Busy after `close`."""
        if self._enter(work):
            self._drain(work)
        return work.done.result()

    def close(self) -> None:
        """Nothing is taken any more; all that was taken is done."""
        with self._lock:
            self._closed = True
            self._idle.wait_for(lambda: not self._active)

    def _enter(self, work: Work[Any]) -> bool:
        """Whether it is now for the caller to see that the queue is drained."""
        with self._lock:
            if self._closed:
                raise Busy("this context is being closed")
            self._waiting.append(work)
            if self._active:
                return False
            self._active = True
            return True

    def _drain(self, own: Work[Any] | None) -> None:
        """Write until nothing waits; a caller's thread (`own`) hands the rest to the pool once its own is done."""
        while True:
            with self._lock:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                if not batch:
                    self._active = False
                    self._idle.notify_all()
                    return
            self._commit(batch)
            if own is not None and own.done.done():
                with self._lock:
                    more = bool(self._waiting)
                if more:
                    self._pool.submit(self._drain, None)
                    return

"""Locks between processes. Both kinds end with their last holder, so a killed process never leaves one behind."""

import fcntl
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aios_localcluster.errors import LocalClusterError

POLL_SECONDS = 0.05


@contextmanager
def exclusive_file_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on `path` (created where absent, never removed); `on_wait` is called once when another process holds it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def named_lock(name: str, timeout_seconds: float) -> socket.socket:
    """A lock that leaves no file: an abstract Unix socket bound to `name`, in this network namespace.

    It is held until the socket and every inherited copy of it are closed. So a process can hand its lock to the one that it starts.
    Raises LocalClusterError when another process holds it for longer than `timeout_seconds`.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    until = time.monotonic() + timeout_seconds
    while True:
        try:
            holder.bind(f"\0{name}")
            return holder
        except OSError:
            if time.monotonic() > until:
                holder.close()
                raise LocalClusterError(
                    f"another process has been working on {name} for {timeout_seconds:.0f} s; try again when it is done"
                ) from None
            time.sleep(POLL_SECONDS)

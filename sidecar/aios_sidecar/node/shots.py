"""Ends the processes of one container, and of no other."""

import contextlib
import os
import signal
import time
from pathlib import Path

from aios_sidecar.cgroups import Container, containers_of

ROUNDS = 25
ROUND_SECONDS = 0.02
"""Half a second in all: a container whose first process is killed ends as a whole, others may go on forking for a while."""


def kill_container(container: Container, proc: Path = Path("/proc")) -> int:
    """No process of the container runs any more, as far as SIGKILL can bring it about; how many were killed.

    A pid that is another's by the time of the signal is spared: the process is held by a descriptor and its cgroup read once more.
    """
    killed: set[int] = set()
    for _ in range(ROUNDS):
        alive = [pid for pid in _pids(proc) if container in containers_of(pid, proc) and not _ended(pid, proc)]
        if not alive:
            break
        killed.update(pid for pid in alive if _kill(pid, container, proc))
        time.sleep(ROUND_SECONDS)
    return len(killed)


def _pids(proc: Path) -> list[int]:
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()]


def _ended(pid: int, proc: Path) -> bool:
    """Whether only its exit status is left, for a parent that does not ask."""
    try:
        return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def _kill(pid: int, container: Container, proc: Path) -> bool:
    with contextlib.suppress(ProcessLookupError):
        held = os.pidfd_open(pid)
        try:
            if container in containers_of(pid, proc):
                signal.pidfd_send_signal(held, signal.SIGKILL)
                return True
        finally:
            os.close(held)
    return False

"""Ends the processes of one container or of one pod, and of no other."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from aios_sidecar.cgroups import Container, containers_of

ROUNDS = 25
ROUND_SECONDS = 0.02
"""Half a second in all: a container whose first process is killed ends as a whole, others may go on forking for a while."""


Belongs = Callable[[tuple[Container, ...]], bool]


def kill_container(container: Container, proc: Path = Path("/proc")) -> int:
    """No process of the container runs any more, as far as SIGKILL can bring it about; how many were killed."""
    return _kill_all(lambda containers: container in containers, proc)


def kill_pod(pod_uid: str, proc: Path = Path("/proc")) -> int:
    """As `kill_container`, for every container of the pod; what keeps its network namespace open, the sandbox, is one of them."""
    return _kill_all(lambda containers: any(container.pod_uid == pod_uid for container in containers), proc)


def _kill_all(belongs: Belongs, proc: Path) -> int:
    """A pid that is another's by the time of the signal is spared: the process is held by a descriptor and its cgroup read once more."""
    killed: set[int] = set()
    for _ in range(ROUNDS):
        alive = [pid for pid in _pids(proc) if belongs(containers_of(pid, proc)) and not _ended(pid, proc)]
        if not alive:
            break
        killed.update(pid for pid in alive if _kill(pid, belongs, proc))
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


def _kill(pid: int, belongs: Belongs, proc: Path) -> bool:
    with contextlib.suppress(ProcessLookupError):
        held = os.pidfd_open(pid)
        try:
            if belongs(containers_of(pid, proc)):
                signal.pidfd_send_signal(held, signal.SIGKILL)
                return True
        finally:
            os.close(held)
    return False

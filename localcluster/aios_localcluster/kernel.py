"""The few system calls that Python 3.11 does not offer, and what the kernel says about a process."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 2, 4, 8, 4096, 16384, 1 << 18, 1 << 20
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move this process (for CLONE_NEWPID: its next children) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str | Path, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2), without any rewriting of paths, so that /proc/self/fd/N may be a source."""
    _check(
        _libc.mount(
            source.encode(), str(target).encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), data.encode() if data else None
        ),
        f"mount {source} on {target}",
    )


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when the thread that forked it ends."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl")


def start_time(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When process `pid` started, in clock ticks since boot; None when there is no such process or it is a zombie.

    Process id and start time together name one process for ever, whereas ids are given again.
    """
    try:
        text = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])

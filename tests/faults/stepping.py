"""Runs work in a child process and kills it before its n-th system call that changes a file: the points at which `kill -9` matters."""

import ctypes
import os
import platform
import signal
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long
TRACEME, SYSCALL, SETOPTIONS, SYSCALL_INFO = 0, 24, 0x4200, 0x420E
TRACESYSGOOD, EXITKILL = 1, 1 << 20
ENTRY = 1

_X86 = {0x1, 18, 74, 75, 76, 77, 82, 83, 87, 257, 263, 264, 316}
_ARM = {64, 68, 82, 83, 45, 46, 38, 34, 35, 56, 276}
CHANGES = {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine(), frozenset[int]())
"""write, pwrite, fsync, fdatasync, truncate, ftruncate, rename, mkdir, unlink, openat and their newer forms."""


class Info(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
        ("more", ctypes.c_uint64 * 2),
    )


def ptrace(request: int, pid: int, address: object = None, data: object = None) -> int:
    result = _LIBC.ptrace(request, pid, address, data)
    if result < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return int(result)


def killed_before(n: int, work: Callable[[Callable[[str], None]], None]) -> tuple[list[str], bool]:
    """What the child that ran `work` had told through its argument when it was killed before its n-th change, and whether it was: False
    when it ended before. The child must have one thread."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work(lambda line: os.write(theirs, f"{line}\n".encode()) and None)
        except BaseException as error:  # noqa: BLE001  the parent is told
            os.write(theirs, f"FAILED {error!r}\n".encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    ptrace(SETOPTIONS, child, None, TRACESYSGOOD | EXITKILL)
    killed = _step(child, n)
    with os.fdopen(ours) as told:
        return told.read().splitlines(), killed


def _step(child: int, n: int) -> bool:
    changes, deliver = 0, 0
    while True:
        ptrace(SYSCALL, child, None, deliver)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return False
        deliver = 0 if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80 else os.WSTOPSIG(status)
        if deliver:
            continue
        info = Info()
        ptrace(SYSCALL_INFO, child, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op == ENTRY and info.number in CHANGES:
            changes += 1
            if changes == n:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True

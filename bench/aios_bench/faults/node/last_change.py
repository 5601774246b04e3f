"""A process that is killed before its n-th change of what outlives it: the moments at which `kill -9` leaves something half done."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from typing import Any

VARIABLE = "AIOS_KILLED_BEFORE_CHANGE"
CHANGES = frozenset(
    {
        "os.chmod",
        "os.chown",
        "os.link",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.symlink",
        "socket.bind",
        "socket.sendmsg",
        "subprocess.Popen",
    }
)
"""Files, directories, sockets with a name, what is said to the gateway, and programs that are started, among them nft: as Python's audit
events name them. A file that is opened for writing is one too."""
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    return event in CHANGES or (event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _FOR_WRITING))


def killed_before(n: int) -> None:
    """This process ends by SIGKILL where it would make its n-th change from now on, which does not take place."""
    number = count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_change(event, arguments) and next(number) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def armed() -> None:
    """As the environment says."""
    if n := os.environ.get(VARIABLE):
        killed_before(int(n))

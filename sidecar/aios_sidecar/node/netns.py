"""Network namespaces: to hold one, to know it again, and to do something inside it."""

import ctypes
import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

Result = TypeVar("Result")
Identity = tuple[int, int]
"""Device and inode of a namespace: the same for the same namespace, until a reboot."""

CLONE_NEWNET = 0x40000000
LISTEN_BACKLOG = 1024
SIOCGSKNS = 0x894C
"""Of linux/sockios.h: a descriptor of the network namespace of a socket."""

_libc = ctypes.CDLL(None, use_errno=True)


class PortTaken(Exception):
    """Something in the namespace listens on the port already."""


class NamespaceGone(Exception):
    """There is no process by which the namespace could be found."""


class NetworkNamespace:
    """An open network namespace: it is this one, whatever becomes of the process by which it was found."""

    def __init__(self, path: Path) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NamespaceGone(f"{path}: {error.strerror}") from None
        found = os.fstat(self.fd)
        self.identity: Identity = (found.st_dev, found.st_ino)

    @classmethod
    def of_process(cls, pid: int) -> Self:
        """The namespace of a process. Raises NamespaceGone when there is no such process."""
        return cls(Path(f"/proc/{pid}/ns/net"))

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def identities(paths: Iterable[Path]) -> frozenset[Identity]:
    """The namespaces at those of the paths that can be read."""
    found = set()
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def of_socket(connection: socket.socket) -> Identity:
    """The namespace to which an open socket belongs, whoever opened it."""
    descriptor = fcntl.ioctl(connection.fileno(), SIOCGSKNS)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return (found.st_dev, found.st_ino)


def inside(namespace: NetworkNamespace, work: Callable[[], Result]) -> Result:
    """What `work` returns when it runs in the namespace: in a thread of its own, which ends with it, so no other code is ever there."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.setns(namespace.fd, CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"can't enter the network namespace: {os.strerror(code)}")
            results.append(work())
        except BaseException as error:  # noqa: BLE001  it is raised again in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=run, name="in-namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def listen_on_loopback(namespace: NetworkNamespace, port: int) -> socket.socket:
    """A listening socket on 127.0.0.1 of the namespace; it belongs there for as long as it is open. Raises PortTaken."""

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            # Connections of a listener that was lost may still be closing on the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(f"127.0.0.1:{port} of the pod is in use") from None
            raise
        return listener

    return inside(namespace, listen)

"""The supervisor's Unix socket: one JSON line asked, one JSON line answered."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aios_localcluster.errors import LocalClusterError, NotRunning

ANSWER_SECONDS = 5.0
QUESTION_SECONDS = 1.0
LONGEST = 64 * 1024


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of `path` that fits into the 108 bytes of a Unix socket's address, however deep its directory is."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """A socket at `path`, for root only, in the place of an older one."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _short(path) as short:
            listener.bind(short)
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


def answer(listener: socket.socket, handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Take one connection and answer it; a caller that is slow or malformed is dropped."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(QUESTION_SECONDS)
        try:
            question = json.loads(_line(connection))
            reply = handle(question) if isinstance(question, dict) else {"error": "a request must be a JSON object"}
            connection.sendall(json.dumps(reply).encode() + b"\n")
        except (OSError, ValueError) as problem:
            print(f"control: a request was dropped: {problem}", flush=True)


def ask(path: Path, **request: object) -> dict[str, Any]:
    """What the supervisor at `path` answers. Raises NotRunning when none is there, LocalClusterError when it refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            with _short(path) as short:
                connection.connect(short)
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply: dict[str, Any] = json.loads(_line(connection))
        except (OSError, ValueError) as problem:
            raise NotRunning(f"no supervisor answers at {path}: {problem}") from problem
    if "error" in reply:
        raise LocalClusterError(str(reply["error"]))
    return reply


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(4096)
        if not part or len(received) > LONGEST:
            raise ValueError("the line must end, and be of at most 64 KiB")
        received += part
    return received

"""Listeners and their connections, under one set of limits. An agent has one server, and the metrics another."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterable
from typing import Final

from aios_sidecar.gateway.http import Application, Connection, Turn, encode_refusal
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.settings import Limits

log = logging.getLogger(__name__)

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_PAUSE_SECONDS: Final = 1.0
"""Without descriptors a listener stays readable; the pause keeps the loop from spinning on it, and connections wait in the kernel."""


class Server:
    """Accepts on its listeners and serves what it accepts, at most `limits.connections` at once.

    Each connection waits for its `turn` before it goes on. One more than the limit is refused, or, with `newest_first`, takes the place of
    the oldest: where strangers can connect, they can hold connections, and the kubelet's probe must still be answered.
    """

    def __init__(self, application: Application, limits: Limits, turn: Turn, *, newest_first: bool = False) -> None:
        self._application = application
        self._turn = turn
        self._limits = limits
        self._newest_first = newest_first
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, socket.socket] = {}
        self._connections: dict[asyncio.Task[None], Connection] = {}

    @property
    def connections(self) -> int:
        return len(self._connections)

    def listen_on(self, listeners: Iterable[tuple[str, socket.socket]]) -> None:
        """Accept on exactly `listeners` (kind and socket), which the server owns from now on. Open connections stay."""
        self._close_listeners()
        for kind, listener in listeners:
            listener.setblocking(False)
            self._listeners[kind] = listener
            self._loop.add_reader(listener, self._accept, kind, listener)

    async def drain(self, seconds: float) -> None:
        """Accept no more, let requests in progress end, cut what is left after `seconds`. Others who hold the listeners keep them."""
        self._close_listeners()
        for connection in self._connections.values():
            connection.drain()
        if self._connections:
            await asyncio.wait(self._connections, timeout=seconds)
        self.end()

    def end(self) -> None:
        """Close listeners and connections at once."""
        self._close_listeners()
        self.cut()

    def cut(self) -> None:
        """End every connection at once, its request unanswered; new ones are accepted."""
        for task in self._connections:
            task.cancel()

    def _close_listeners(self) -> None:
        for listener in self._listeners.values():
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()

    def _accept(self, kind: str, listener: socket.socket) -> None:
        """Take one connection. One per turn of the loop, so that a flood at one listener leaves the others their turn."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._cannot_accept(kind, listener, error)
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a streamed response is many small pieces
        if len(self._connections) >= self._limits.connections:
            if not self._newest_first:
                self._refuse(connection)
                return
            self._end_oldest()
        served = Connection(connection, kind, self._application, self._limits, self._turn)
        task = self._loop.create_task(served.run())
        self._connections[task] = served
        task.add_done_callback(self._ended)

    def _end_oldest(self) -> None:
        oldest = next((task for task in self._connections if not task.cancelling()), None)
        if oldest is not None:
            oldest.cancel()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._connections[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection failed", exc_info=error)

    def _refuse(self, connection: socket.socket) -> None:
        detail = f"An agent may have {self._limits.connections} open connections."
        with connection, contextlib.suppress(OSError):  # whoever does not take the answer does without
            connection.send(encode_refusal(Problem(ProblemKind.TOO_MANY_CONNECTIONS, detail, {"Retry-After": "1"})))
        self._application.answered("none", ProblemKind.TOO_MANY_CONNECTIONS.status)

    def _cannot_accept(self, kind: str, listener: socket.socket, error: OSError) -> None:
        log.error("cannot accept by %s: %s", kind, error)
        if error.errno not in EXHAUSTED:
            raise error
        self._loop.remove_reader(listener)
        self._loop.call_later(EXHAUSTED_PAUSE_SECONDS, self._accept_again, kind, listener)

    def _accept_again(self, kind: str, listener: socket.socket) -> None:
        if self._listeners.get(kind) is listener:
            self._loop.add_reader(listener, self._accept, kind, listener)

"""A connection to a host outside."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

from aios_api.addresses import Address
from aios_api.egress import Decision
from aios_sidecar.gateway import sockets
from aios_sidecar.gateway.egress.passage import Passage
from aios_sidecar.gateway.egress.target import Target
from aios_sidecar.gateway.parser import h11


class Upstream:
    """A connection to an address that was checked for a decision. Owned by one connection of the agent, and never another's."""

    def __init__(
        self,
        connection: socket.socket,
        address: Address,
        target: Target,
        decision: Decision,
        *,
        head_bytes: int,
        closed: "Callable[[Upstream], None]",
    ) -> None:
        self.socket = connection
        self.address = address
        self.target = target
        self.decision = decision
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=head_bytes)
        self.passage: Passage | None = None
        """What it is used for now."""
        self._closed = closed
        self._user: asyncio.Task[object] | None = None

    def serves(self, target: Target) -> bool:
        """Whether it is still connected to this target's host, and nothing that nobody asked for has come from there."""
        return self.socket.fileno() >= 0 and (self.target.host, self.target.port) == (target.host, target.port) and not self._has_spoken()

    @contextlib.contextmanager
    def used_by_this_task(self, passage: Passage) -> Iterator[None]:
        """This task speaks over it inside, for `passage`: when it is cut the task is cancelled."""
        self._user, self.passage = asyncio.current_task(), passage
        passage.address = self.address
        try:
            yield
        finally:
            self._user = self.passage = None

    def cut(self, reason: str) -> None:
        """No byte leaves for the host any more, not even one that the kernel has; who speaks over it ends."""
        with contextlib.suppress(OSError):
            sockets.abort(self.socket)
        if self._user is None or self.passage is None:
            self.close()
        elif self.passage.cut_because is None:
            self.passage.cut_because = reason
            self._user.cancel(reason)

    def close(self) -> None:
        """In order: what the kernel has for the host still goes there, also when the host has said all that it will before it was read."""
        self._closed(self)
        self.socket.close()

    def _has_spoken(self) -> bool:
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True  # its end, or a response before the request

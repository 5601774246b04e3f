"""Carries bytes both ways between two connected sockets, with bounded memory, and one read for each agent in each turn of the loop."""

import asyncio
import socket
from collections.abc import Callable, Hashable
from typing import Final

from aios_sidecar.gateway.egress.ended import Ended
from aios_sidecar.gateway.egress.passage import Traffic
from aios_sidecar.gateway.turns import Turns

READ_BYTES: Final = 256 * 1024
"""What one read takes at most. Larger is faster, as long as the other side keeps up."""
SPARING_BYTES: Final = 4 * 1024
"""What one read takes when the agent has used up its room."""
ROOM_BYTES: Final = 2 * 1024 * 1024
"""What one agent's tunnels hold of bytes that nobody takes, before they read sparingly."""
_BUFFER: Final = memoryview(bytearray(READ_BYTES))
"""Shared by all tunnels: it is filled and emptied within one call."""


class Room:
    """What an agent's tunnels have read and not yet sent: at most ROOM_BYTES, and a sparing read for each direction of each tunnel."""

    def __init__(self) -> None:
        self.held_bytes = 0

    @property
    def read_bytes(self) -> int:
        """How much one read may take now."""
        return READ_BYTES if self.held_bytes + READ_BYTES <= ROOM_BYTES else SPARING_BYTES


class _Direction:
    """From one socket to the other: reads when the last read has been taken, and hands the end on."""

    __slots__ = (
        *("_destination", "_moved", "_pending", "_reading", "_source", "_sources_fd", "_targets_fd", "_tunnel", "_writing", "finished"),
    )

    def __init__(self, tunnel: "Tunnel", source: socket.socket, destination: socket.socket, moved: Callable[[int], None]) -> None:
        self._tunnel, self._source, self._destination, self._moved = tunnel, source, destination, moved
        self._sources_fd, self._targets_fd = source.fileno(), destination.fileno()
        self._pending = b""
        self._reading = self._writing = False
        self.finished = False

    def read_on(self) -> None:
        self._reading = True
        self._tunnel.loop.add_reader(self._sources_fd, self._readable)

    def stop(self) -> None:
        if self._reading:
            self._tunnel.loop.remove_reader(self._sources_fd)
        if self._writing:
            self._tunnel.loop.remove_writer(self._targets_fd)
        self._reading = self._writing = False
        self._keep(b"")
        self.finished = True

    def send(self, data: bytes | memoryview) -> None:
        """Send what can be sent; keep the rest, and read no more until it has gone."""
        try:
            sent = self._destination.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._tunnel.end(error)
            return
        if sent == len(data):
            return
        self._keep(bytes(data[sent:]))
        if self._reading:
            self._tunnel.loop.remove_reader(self._sources_fd)
            self._reading = False
        if not self._writing:
            self._tunnel.loop.add_writer(self._targets_fd, self._writable)
            self._writing = True

    def _keep(self, data: bytes) -> None:
        self._tunnel.room.held_bytes += len(data) - len(self._pending)
        self._pending = data

    def _readable(self) -> None:
        if self._tunnel.turns.take(self._tunnel.who):
            self._read()
        else:
            self._tunnel.loop.remove_reader(self._sources_fd)
            self._reading = False
            self._tunnel.turns.call(self._tunnel.who, self._granted)

    def _granted(self) -> None:
        if not self.finished:
            self.read_on()
            self._read()

    def _read(self) -> None:
        try:
            count = self._source.recv_into(_BUFFER, self._tunnel.room.read_bytes)
        except BlockingIOError:
            return
        except OSError as error:
            self._tunnel.end(error)
            return
        if count == 0:
            self._hand_the_end_on()
            return
        self._moved(count)
        self.send(_BUFFER[:count])

    def _writable(self) -> None:
        self._tunnel.loop.remove_writer(self._targets_fd)
        self._writing = False
        pending = self._pending
        self._keep(b"")
        self.send(pending)
        if not self._pending and not self.finished:
            self.read_on()

    def _hand_the_end_on(self) -> None:
        self.stop()
        try:
            self._destination.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._tunnel.end(error)
            return
        self._tunnel.end_when_both_have()


class Tunnel:
    """Between a client and the host that it was let through to. The sockets stay the caller's to close."""

    __slots__ = ("_down", "_ended", "_idle_seconds", "_last", "_timer", "_up", "loop", "room", "traffic", "turns", "who")

    def __init__(
        self,
        client: socket.socket,
        upstream: socket.socket,
        *,
        turns: Turns,
        who: Hashable,
        room: Room,
        traffic: Traffic,
        idle_seconds: float,
        longest_seconds: float,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.turns, self.who, self.room, self.traffic = turns, who, room, traffic
        self._idle_seconds = idle_seconds
        self._last = self.loop.time()
        self._ended: asyncio.Future[Ended] = self.loop.create_future()
        self._timer = self._next_look(self._last + longest_seconds)
        self._up = _Direction(self, client, upstream, self._moved_up)
        self._down = _Direction(self, upstream, client, self._moved_down)

    async def run(self, first: bytes) -> Ended:
        """Carry `first` up and then everything, until both sides have ended or it is cancelled. How it ended."""
        try:
            self._up.read_on()
            self._down.read_on()
            if first:
                self._moved_up(len(first))
                self._up.send(first)
            return await self._ended
        finally:
            self._timer.cancel()
            self._up.stop()
            self._down.stop()

    def end(self, error: OSError | None, how: Ended = Ended.Closed) -> None:
        self._up.stop()
        self._down.stop()
        if not self._ended.done():
            self._ended.set_result(Ended.Broken if error is not None else how)

    def end_when_both_have(self) -> None:
        if self._up.finished and self._down.finished:
            self.end(None)

    def _moved_up(self, count: int) -> None:
        self.traffic.up_bytes += count
        self._last = self.loop.time()

    def _moved_down(self, count: int) -> None:
        self.traffic.down_bytes += count
        self._last = self.loop.time()

    def _look_whether_idle(self, end_at: float) -> None:
        now = self.loop.time()
        if now >= end_at:
            self.end(None, Ended.TooLong)
        elif now >= self._last + self._idle_seconds:
            self.end(None, Ended.Idle)
        else:
            self._timer = self._next_look(end_at)

    def _next_look(self, end_at: float) -> asyncio.TimerHandle:
        return self.loop.call_at(min(self._last + self._idle_seconds, end_at), self._look_whether_idle, end_at)

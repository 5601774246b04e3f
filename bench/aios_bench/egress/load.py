"""Hosts and clients for the bench, each a process of its own: `python -m aios_bench.egress.load MODE JSON` prints JSON and ends.

It ends by itself: after its time, or when its standard input is closed.
"""

import asyncio
import contextlib
import json
import resource
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024
PIECE: Final = 256 * 1024
CRUMBS: Final = b"1\r\nx\r\n" * 8192
"""Content in chunks of one byte, which cost a reader the most."""
HERE: Final = "127.0.0.1"


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def until_closed() -> None:
    await asyncio.to_thread(sys.stdin.read)


# Hosts


class Answering(asyncio.Protocol):
    """Answers each request without content with 1 KiB."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(RESPONSE * data.count(b"\r\n\r\n"))


class Passing(asyncio.Protocol):
    """One side of a connection that is passed on, after so much work for each request."""

    def __init__(self, other: asyncio.Transport | None, busy_seconds: float) -> None:
        self.other = other
        self._busy_seconds = busy_seconds
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        until = time.thread_time() + self._busy_seconds
        while time.thread_time() < until:
            pass
        if self.other is None:
            self._early += data
        else:
            self.other.write(data)

    def reach(self, other: asyncio.Transport) -> None:
        self.other = other
        other.write(self._early)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


async def relay(given: Any) -> None:
    """`{port, busy_seconds}`: passes bytes on to that port, reading none of them; each request is so much work of its only thread."""
    loop = asyncio.get_running_loop()
    under_way: set[asyncio.Task[None]] = set()

    async def reach(client: Passing) -> None:
        host, _ = await loop.create_connection(lambda: Passing(client.transport, 0), HERE, given["port"])
        client.reach(host)

    class Client(Passing):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            task = loop.create_task(reach(self))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    listening = await loop.create_server(lambda: Client(None, given["busy_seconds"]), HERE, 0, backlog=1024)
    say({"port": listening.sockets[0].getsockname()[1]})
    await until_closed()


def pump(connection: socket.socket) -> None:
    """Sends as fast as it can after a `d`, reads as fast as it can after a `u`, does nothing after anything else."""
    with connection, contextlib.suppress(OSError):
        wanted = connection.recv(1)
        piece = memoryview(bytearray(PIECE))
        if wanted == b"d":
            while True:
                connection.sendall(piece)
        while connection.recv_into(piece):
            pass


def crumble(connection: socket.socket) -> None:
    """Answers with content in pieces of one byte, without end."""
    with connection, contextlib.suppress(OSError):
        connection.recv(PIECE)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(CRUMBS)


def serve_in_threads(serve: Callable[[socket.socket], None]) -> int:
    """The port at which each connection is served in a thread of its own, until the process ends."""
    listener = socket.create_server((HERE, 0), backlog=4096)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


async def hosts(given: Any) -> None:
    """An HTTP server, a pump, and one that crumbles."""
    loop = asyncio.get_running_loop()
    answering = await loop.create_server(Answering, HERE, 0, backlog=1024)
    say({"http": answering.sockets[0].getsockname()[1], "pump": serve_in_threads(pump), "crumbs": serve_in_threads(crumble)})
    await until_closed()


# Clients


class Asking(asyncio.Protocol):
    """One connection that asks one question at a time. All answers are equally long."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._length: int | None = None
        self._head = b""
        self._have = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._load.free(self)

    def ask(self, due: float) -> None:
        self._due = due
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._have += len(data)
        if self._length is None:
            self._head += data
            head, separator, _ = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the bench was answered {self._head[:600]!r}")
            self._length = len(head) + 4 + 1024
        if self._have >= self._length:
            self._have -= self._length
            self._load.answered(time.perf_counter() - self._due)
            self._load.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost += 1


class Load:
    """Many connections: a question as soon as one is free, or at a fixed rate, whose times count from when a question was due."""

    def __init__(self, request: bytes, per_second: float) -> None:
        self.request = request
        self.seconds: list[float] = []
        self.lost = 0
        self._period = 1 / per_second if per_second else 0.0
        self._due: deque[float] = deque()
        self._idle: deque[Asking] = deque()
        self._running = True

    def free(self, asking: Asking) -> None:
        if not self._running:
            return
        if not self._period:
            asking.ask(time.perf_counter())
        elif self._due:
            asking.ask(self._due.popleft())
        else:
            self._idle.append(asking)

    def answered(self, seconds: float) -> None:
        self.seconds.append(seconds)

    async def pace(self, end: float) -> None:
        due = time.perf_counter()
        while due < end:
            due += self._period
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if self._idle:
                self._idle.popleft().ask(due)
            else:
                self._due.append(due)

    def stop(self) -> None:
        self._running = False


async def ask(given: Any) -> None:
    """`{port, url, host, connections, seconds, per_second}`: how many were answered in how long, and the time of each in ms."""
    load = Load(f"GET {given['url']} HTTP/1.1\r\nHost: {given['host']}\r\n\r\n".encode(), given["per_second"])
    loop = asyncio.get_running_loop()
    for _ in range(given["connections"]):
        await loop.create_connection(lambda: Asking(load), HERE, given["port"])
    await asyncio.sleep(given["seconds"] / 5)  # what was measured while it was being built up is not counted
    load.seconds.clear()
    began = time.perf_counter()
    if given["per_second"]:
        await load.pace(began + given["seconds"])
    else:
        await asyncio.sleep(given["seconds"])
    took = time.perf_counter() - began
    load.stop()
    say({"seconds": took, "lost": load.lost, "ms": [round(1000 * each, 4) for each in load.seconds]})


class Pestering(asyncio.Protocol):
    """One connection that says what it says again and again, as fast as it is taken, and listens to nothing."""

    def __init__(self, pest: "Pest") -> None:
        self._pest = pest
        self._may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._pest.first)
        self.resume_writing()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        asyncio.get_running_loop().call_soon(self._write_on)  # a transport that calls this is not done with its last write

    def _write_on(self) -> None:
        self._may_write = True
        while self._pest.again and self._may_write and not self._transport.is_closing():
            self._transport.write(self._pest.again)

    def data_received(self, data: bytes) -> None:
        self._pest.heard += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._pest.ended.release()


class Pest:
    """What is said, first and then without end, and what came of it."""

    def __init__(self, first: bytes, again: bytes) -> None:
        self.first, self.again = first, again
        self.heard = 0
        self.ended = asyncio.Semaphore(0)


async def pester(given: Any) -> None:
    """`{port, first, again, connections, seconds}`: how many connections were ended by the other side, and the bytes that came from it.
    Each that ends is made anew."""
    pest = Pest(given["first"].encode(), given["again"].encode())
    loop = asyncio.get_running_loop()
    ended = -int(given["connections"])
    for _ in range(given["connections"]):
        pest.ended.release()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(given["seconds"]):
            while True:
                await pest.ended.acquire()
                ended += 1
                with contextlib.suppress(OSError):
                    await loop.create_connection(lambda: Pestering(pest), HERE, given["port"])
    say({"ended": ended, "heard": pest.heard})


def a_tunnel(port: int, target: str) -> socket.socket:
    connection = socket.create_connection((HERE, port))
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the bench was answered {head!r}")
    return connection


async def carry(given: Any) -> None:
    """`{port, target, direction, seconds}`: bytes that came through one tunnel in that time."""

    def work() -> dict[str, float]:
        piece = memoryview(bytearray(PIECE))
        with a_tunnel(given["port"], given["target"]) as tunnel:
            tunnel.sendall(given["direction"].encode())
            began, count = time.perf_counter(), 0
            while (now := time.perf_counter()) < began + given["seconds"]:
                count += tunnel.recv_into(piece) if given["direction"] == "d" else tunnel.send(piece)
            return {"bytes": count, "seconds": now - began}

    say(await asyncio.to_thread(work))


async def hold(given: Any) -> None:
    """`{ports, each, tunnels, target}`: idle connections, `each` on every port, of which `tunnels` lead to the target and the others had
    an answer of the gateway's own; until standard input is closed."""
    held = []
    for port in given["ports"]:
        for number in range(given["each"]):
            if number < given["tunnels"]:
                held.append(a_tunnel(port, given["target"]))
                continue
            connection = socket.create_connection((HERE, port))
            connection.sendall(b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("the gateway did not answer")
            held.append(connection)
    say({"held": len(held)})
    await until_closed()


MODES: Final = {"hosts": hosts, "relay": relay, "ask": ask, "pester": pester, "carry": carry, "hold": hold}

if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(MODES[sys.argv[1]](json.loads(sys.argv[2])))

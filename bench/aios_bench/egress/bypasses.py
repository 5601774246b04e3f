"""Ways past the gateway, tried on one that runs: none may reach the host that no rule names, nor bring the word to one that is named."""

import asyncio
import contextlib
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aios_bench.egress.house import House, a_policy

ALLOWED: Final = "127.0.0.1"
FORBIDDEN: Final = "127.0.0.2"
WORD: Final = "canary"
NAMES: Final = {
    "allowed.example.com": [ALLOWED],
    "rebound.example.com": [FORBIDDEN],
    "mixed.example.com": [ALLOWED, FORBIDDEN],
    "mapped.example.com": [f"::ffff:{FORBIDDEN}"],
    f"{WORD}.example.com": [FORBIDDEN],
    "a.deep.wild.example.com": [FORBIDDEN],
    "dns.google": [FORBIDDEN],
}
HEAD_SECONDS: Final = 30.0
"""The gateway answers each attempt: with less patience a slow one would be spared what follows."""
ANSWER_SECONDS: Final = 0.25
"""For what comes of it, where nothing may."""
AGENT, WITHOUT_POLICY, NEIGHBOUR, CHANGING = range(4)


@dataclass
class Watched:
    """The two hosts, on one port: every connection to the forbidden one, and every byte to the allowed one."""

    port: int = 0
    forbidden: int = 0
    received: bytearray = field(default_factory=bytearray)

    @property
    def reached(self) -> bool:
        return self.forbidden > 0 or WORD.encode() in self.received

    def forget(self) -> None:
        self.forbidden = 0
        self.received.clear()


@asynccontextmanager
async def two_hosts() -> AsyncIterator[Watched]:
    watched = Watched()

    async def allowed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://{FORBIDDEN}:{watched.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                watched.received += data
                for _ in range(data.count(b"\r\n\r\n")):
                    writer.write(moved if data.startswith(b"GET /moved ") else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def forbidden(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watched.forbidden += 1
        writer.close()

    first = await asyncio.start_server(allowed, ALLOWED, 0)
    watched.port = first.sockets[0].getsockname()[1]
    second = await asyncio.start_server(forbidden, FORBIDDEN, watched.port)
    try:
        yield watched
    finally:
        first.close()
        second.close()


@dataclass(frozen=True)
class Attempt:
    """Bytes for an agent's port; `inside` follows once a tunnel is open."""

    name: str
    sent: bytes
    inside: bytes = b""
    agent: int = AGENT


def rules(port: int) -> tuple[str, ...]:
    """What the agent may reach: names and the allowed address, by each scheme but `tcp`."""
    hosts = ("allowed.example.com", "rebound.example.com", "mixed.example.com", "mapped.example.com", f"{ALLOWED}/32")
    return (*(f"{scheme}://{host}:{port}" for host in hosts for scheme in ("http", "https")), f"https://*.wild.example.com:{port}")


def a_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def attempts(port: int) -> Iterator[Attempt]:
    def connect(host: str, header: str | None = None) -> bytes:
        return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {header or f'{host}:{port}'}\r\n\r\n".encode()

    def get(host: str, *headers: str, header: str | None = None, path: str = f"/{WORD}") -> bytes:
        lines = [f"GET http://{host}:{port}{path} HTTP/1.1", f"Host: {header or f'{host}:{port}'}", *headers, "", ""]
        return "\r\n".join(lines).encode()

    spellings = (
        FORBIDDEN,
        f"[::ffff:{FORBIDDEN}]",
        "[::ffff:7f00:2]",
        "2130706434",
        "0x7f.2",
        "127.2",
        "0177.0.0.2",
        "127.0.0.2.",
        "[::1]",
    )
    for host in (*spellings, f"{WORD}.example.com", "localhost", "dns.google", "a.allowed.example.com", "allowed.example.com.evil.example"):
        yield Attempt(f"CONNECT {host}", connect(host), a_hello(host.strip("[]")))
        yield Attempt(f"GET {host}", get(host))
    for host in ("rebound.example.com", "mixed.example.com", "mapped.example.com"):
        yield Attempt(f"rebinding, CONNECT {host}", connect(host), a_hello(host))
        yield Attempt(f"rebinding, GET {host}", get(host))
    tunnel = connect("allowed.example.com")
    yield Attempt("server name of another host", tunnel, a_hello(f"{WORD}.example.com"))
    yield Attempt("no server name", tunnel, a_hello(None) + WORD.encode())
    yield Attempt("server name where an address was asked for", connect(ALLOWED), a_hello(f"{WORD}.example.com"))
    yield Attempt("plain HTTP in a tunnel", tunnel, f"GET /{WORD} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    yield Attempt("another protocol in a tunnel", tunnel, f"SSH-2.0-{WORD}\r\n".encode())
    yield Attempt("a hello in records of one byte, of another host", tunnel, _shredded(a_hello(f"{WORD}.example.com")))
    yield Attempt("Host of CONNECT", connect("allowed.example.com", f"{WORD}.example.com:{port}"), a_hello(f"{WORD}.example.com"))
    yield Attempt("host header fronting", get("allowed.example.com", header=f"{WORD}.example.com"))
    yield Attempt("host header with user", get("allowed.example.com", header=f"allowed.example.com@{WORD}.example.com"))
    yield Attempt("user in the URL", f"GET http://allowed.example.com:{port}@{FORBIDDEN}:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    yield Attempt("backslash in the URL", f"GET http://{FORBIDDEN}:{port}\\@allowed.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    yield Attempt("deeper than the wildcard", connect("a.deep.wild.example.com"), a_hello("a.deep.wild.example.com"))
    yield Attempt("upgrade", get("allowed.example.com", "Connection: Upgrade", "Upgrade: websocket"))
    yield Attempt("no binding selects the agent", get(ALLOWED), agent=WITHOUT_POLICY)
    yield Attempt("no binding selects the agent, CONNECT", connect(ALLOWED), a_hello(None) + WORD.encode(), agent=WITHOUT_POLICY)
    yield Attempt("another agent's listener", get(ALLOWED), agent=NEIGHBOUR)
    post = f"POST http://{ALLOWED}:{port}/ HTTP/1.1\r\nHost: {ALLOWED}:{port}\r\n"
    hidden = f"GET /{WORD} HTTP/1.1\r\nHost: x\r\n\r\n"
    for name, framing, content in (
        ("CL.TE", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + hidden),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + hidden),
        ("two lengths", f"Content-Length: 0\r\nContent-Length: {len(hidden)}\r\n", hidden),
        ("list of lengths", f"Content-Length: 0, {len(hidden)}\r\n", hidden),
        ("disguised encoding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n" + hidden),
        ("encoding with a space", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n" + hidden),
        ("bare LF", "X: a\nContent-Length: 0\r\n", hidden),
        ("folded line", "X: a\r\n Content-Length: 0\r\n", hidden),
        ("bare CR", "X: a\rContent-Length: 0\r\n", hidden),
        ("NUL", "X: a\x00\r\n", hidden),
        ("wrong chunk", "Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n" + hidden),
    ):
        yield Attempt(f"smuggling, {name}", (post + framing + "\r\n" + content).encode())


def _shredded(hello: bytes) -> bytes:
    return b"".join(hello[:3] + b"\x00\x01" + hello[at : at + 1] for at in range(5, len(hello)))


async def try_it(attempt: Attempt, port: int) -> None:
    """At an agent's `port`. What comes of it, the hosts see."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        reader, writer = await asyncio.open_connection(ALLOWED, port)
        try:
            writer.write(attempt.sent)
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            if head.split()[1] in (b"403", b"502", b"503"):
                return  # refused for good, and nothing was sent beside it
            if attempt.inside and head.split()[1] == b"200":
                writer.write(attempt.inside)
            async with asyncio.timeout(ANSWER_SECONDS):
                await reader.read()
        finally:
            writer.close()


def follow(port: int, hosts_port: int) -> int:
    """As any client that follows redirects, and asks its proxy again: the status that it gets in the end, after the allowed host has sent
    it to the forbidden one."""
    proxied = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://{ALLOWED}:{port}"}))
    try:
        return int(proxied.open(f"http://{ALLOWED}:{hosts_port}/moved", timeout=10).status)
    except urllib.error.HTTPError as refused:
        return refused.code


async def after_a_change(house: House, watched: Watched) -> AsyncIterator[tuple[str, bool]]:
    """What was open before a change must be of no use afterwards."""
    port = watched.port
    before, after = a_policy(f"http://{ALLOWED}:{port}", f"tcp://{ALLOWED}:{port}"), a_policy(f"http://{ALLOWED}:{port + 1}")
    opening = f"GET http://{ALLOWED}:{port}/ HTTP/1.1\r\nHost: {ALLOWED}:{port}\r\n\r\n"
    tunnel = f"CONNECT {ALLOWED}:{port} HTTP/1.1\r\nHost: {ALLOWED}:{port}\r\n\r\n"
    for name, first, then in (
        ("keep-alive after a change", opening, opening.replace(f"{port}/ ", f"{port}/{WORD} ")),
        ("tunnel after a change", tunnel, WORD),
    ):
        watched.forget()
        await house.load(before, [CHANGING])
        reader, writer = await asyncio.open_connection(ALLOWED, house.ports[CHANGING])
        writer.write(first.encode())
        await reader.readuntil(b"\r\n\r\n")
        await house.load(after, [CHANGING])
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(then.encode())
            async with asyncio.timeout(ANSWER_SECONDS):
                await reader.read()
        writer.close()
        yield name, watched.reached


async def try_all(house: House, watched: Watched) -> dict[str, bool]:
    """Each attempt by its name, and whether it got through. The house has four agents at least, and no policy yet."""
    await house.load(a_policy(*rules(watched.port)), [AGENT])
    await house.load(a_policy(), [NEIGHBOUR])
    passed = {}
    for attempt in attempts(watched.port):
        watched.forget()
        await try_it(attempt, house.ports[attempt.agent])
        passed[attempt.name] = watched.reached
    watched.forget()
    await asyncio.to_thread(follow, house.ports[AGENT], watched.port)
    passed["redirect to another host"] = watched.reached
    return passed | {name: reached async for name, reached in after_a_change(house, watched)}

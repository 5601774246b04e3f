"""What hosts could answer, at random, for a while: nothing crashes or hangs, and what an agent gets can be read in one way only."""

import asyncio
import http.client
import io
import logging
import random
import re
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from property import fuzz
from property.fuzz import HERE, a_gateway, mutate, rounds
from unit.gateway.outside import Names, Notes, Recorder, a_server

ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nyou\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nbytes",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2/\r\nContent-Length: 0\r\n\r\n",
]
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
TOKENS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"\x00",
        b"\x0b",
        b"\x85",
        b"\xff",
        b"\r\n\r\n",
        b"\n\n",
        b"\r\n folded",
        b"\n\tfolded",
    ),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/1.1 200 OK\r\n", b" 100 ", b" 101 ", b" 204 ", b" 205 ", b" 304 ", b" 099 ", b" 2000 "),
    *(
        b"\r\nContent-Length: 0",
        b"\r\nContent-Length: 5",
        b"\r\nContent-Length: 5, 5",
        b"\r\nContent-Length: +5",
        b"\r\nContent-Length: -1",
    ),
    *(b"\r\ncontent-length : 5", b"\r\nContent-Length: 0x5", b"\r\nContent-Length: " + b"9" * 30, b"\nContent-Length: 5\n"),
    *(
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nTransfer-Encoding: gzip, chunked",
        b"\r\nTransfer-Encoding: xchunked",
        b"\r\nTransfer-Encoding:\x0bchunked",
    ),
    *(
        b"\r\nTransfer-Encoding: identity",
        b"\r\nConnection: Content-Length",
        b"\r\nConnection: keep-alive, Transfer-Encoding",
        b"\r\nUpgrade: h2c",
    ),
    *(
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"-5\r\n",
        b"0x5\r\n",
        b"5 \r\n",
        b"5;\nx\r\n",
        b"FFFFFFFFFFFFFFFFFFFFF\r\n",
        b"00000000000000005\r\n",
        FORGED,
    ),
]
REQUESTS = [
    b"GET http://{a}/ HTTP/1.1\r\nHost: {a}\r\n\r\n",
    b"HEAD http://{a}/ HTTP/1.1\r\nHost: {a}\r\n\r\n",
    b"POST http://{a}/ HTTP/1.1\r\nHost: {a}\r\nContent-Length: 5\r\n\r\nhello",
    b"PUT http://{a}/ HTTP/1.1\r\nHost: {a}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET http://{a}/ HTTP/1.0\r\n\r\n",
]
HONEST = b"GET http://{b}/ HTTP/1.1\r\nHost: {b}\r\n\r\n"
ENDINGS = "close", "close", "close", "close", "reset", "stay"
NOT_PASSED_ON = {b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer", b"upgrade"}


class Read(NamedTuple):
    """One response as somebody read it. `content` is None when it was cut off."""

    status: int
    content: bytes | None


class Ambiguous(AssertionError):
    """Somebody could read something else."""


def strictly(stream: bytes, methods: list[bytes]) -> list[Read]:
    """The responses in `stream` by the letter of RFC 9112. Raises Ambiguous for whatever it doesn't have, and for bytes of no response."""
    read: list[Read] = []
    while stream:
        if len(read) == len(methods) or (read and read[-1].content is None):
            raise Ambiguous("bytes after the last response")
        head, end, rest = stream.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        first = re.fullmatch(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [^\r\n\0]*", status)
        fields = [re.fullmatch(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*?)[ \t]*", line) for line in lines]
        if not end or first is None or None in fields:
            raise Ambiguous("no head of a response")
        headers = [(each[1].lower(), each[2]) for each in fields if each]
        code, method = int(first[1]), methods[len(read)]
        content, stream = _content(code, method, headers, rest)
        read.append(Read(code, content))
    return read


def _content(code: int, method: bytes, headers: list[tuple[bytes, bytes]], rest: bytes) -> tuple[bytes | None, bytes]:
    """Of a response with this head, and what follows it."""
    names = [name for name, _ in headers]
    lengths = [value for name, value in headers if name == b"content-length"]
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) + len(encodings) > 1 or encodings not in ([], [b"chunked"]) or not all(each.isdigit() for each in lengths):
        raise Ambiguous("more than one length")
    if NOT_PASSED_ON & set(names) or any(value != b"close" for name, value in headers if name == b"connection"):
        raise Ambiguous("what was meant for one hop")
    if code == 204 and (lengths or encodings):
        raise Ambiguous("a length of what has none")
    if method == b"HEAD" or code in (204, 304):
        return b"", rest
    if lengths:
        length = int(lengths[0])
        return (rest[:length], rest[length:]) if len(rest) >= length else (None, b"")
    return _chunks(rest) if encodings else (rest, b"")


def _chunks(rest: bytes) -> tuple[bytes | None, bytes]:
    content = b""
    while match := re.match(rb"([0-9a-fA-F]+)\r\n", rest):
        size, rest = int(match[1], 16), rest[match.end() :]
        if len(rest) < size + 2:
            return None, b""
        if rest[size : size + 2] != b"\r\n":
            raise Ambiguous("a chunk, or a trailer, that goes on")
        content, rest = content + rest[:size], rest[size + 2 :]
        if size == 0:
            return content, rest
    if rest:
        raise Ambiguous("no chunk")
    return None, b""


class _Stream(io.BytesIO):
    """For http.client: a connection of which responses are read in turn."""

    def makefile(self, mode: str) -> "_Stream":
        return self

    def close(self) -> None: ...


def as_python_does(stream: bytes, methods: list[bytes]) -> list[Read]:
    """The responses in `stream` as Python's own client reads them, which takes much that it should not."""
    connection, read = _Stream(stream), list[Read]()
    for method in methods:
        if connection.tell() == len(stream) or (read and read[-1].content is None):
            break
        response = http.client.HTTPResponse(connection, method=method.decode())  # type: ignore[arg-type]
        try:
            response.begin()
            read.append(Read(response.status, response.read()))
        except http.client.IncompleteRead:
            read.append(Read(response.status, None))
    return read


class Host:
    """Answers every request with `answer`, cut where it likes, and then does what `ending` says."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.answer = b""
        self.ending = "close"

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            at = self.chance.randrange(len(self.answer) + 1)
            writer.write(self.answer[:at])
            await asyncio.sleep(0)
            writer.write(self.answer[at:])
            if self.ending != "stay":
                break
        if self.ending == "reset":
            writer.transport.abort()


async def test_no_response_crashes_the_gateway_or_is_passed_on_in_two_readings(chance: random.Random, caplog: pytest.LogCaptureFixture):
    host, honest = Host(chance), Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest")
    caplog.set_level(logging.ERROR)
    async with (
        a_server(host) as port,
        a_server(honest) as other,
        a_gateway(Names(), f"http://{HERE}:{port}", f"http://{HERE}:{other}") as gateway,
    ):

        def filled(text: bytes) -> bytes:
            return text.replace(b"{a}", f"{HERE}:{port}".encode()).replace(b"{b}", f"{HERE}:{other}".encode())

        seen: dict[Any, int] = {}
        for _ in rounds():
            host.answer = b"".join(mutate(chance.choice(ANSWERS), chance, TOKENS) for _ in range(chance.choice((1, 1, 1, 2))))
            host.ending = chance.choice(ENDINGS)
            requests = [chance.choice((*REQUESTS, HONEST)) for _ in range(chance.choice((1, 1, 2)))] + [HONEST]
            methods = [each.split()[0] for each in requests]
            received = b""
            with suppress(ConnectionError):
                received = await gateway.exchange(filled(b"".join(requests)))
            read = strictly(received, methods)
            assert read == as_python_does(received, methods), (host.answer, received)
            for request, response in zip(requests, read, strict=False):
                assert request != HONEST or response == (200, b"honest"), (host.answer, received)
            assert not caplog.records, (host.answer, caplog.text)
            for each in read:
                seen[each.status, each.content is None] = seen.get((each.status, each.content is None), 0) + 1
        print(sorted(seen.items(), key=lambda each: -each[1])[:20])


# That the fuzzing above knows what is wrong when it sees it


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + FORGED,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello, and more\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0",
    ],
)
def test_what_the_letter_of_the_standard_does_not_have_is_ambiguous(stream: bytes):
    with pytest.raises(Ambiguous):
        strictly(stream, [b"GET"])


def test_both_readers_read_what_is_right():
    heads = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream = heads[0] + heads[0] + b"hello" + heads[1] + b"5\r\nhello\r\n0\r\n\r\n" + heads[1] + b"5\r\nhel"
    methods = [b"HEAD", b"GET", b"GET", b"GET"]
    whole = [Read(200, b""), Read(200, b"hello"), Read(200, b"hello"), Read(200, None)]
    assert strictly(stream, methods) == as_python_does(stream, methods) == whole


async def test_a_gateway_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(fuzz, "HANG_SECONDS", 0.01)
    async with a_server(hangs) as port:
        with pytest.raises(TimeoutError), suppress(ConnectionError):
            await fuzz.Gateway(port, Notes()).exchange(b"GET / HTTP/1.1\r\n\r\n")

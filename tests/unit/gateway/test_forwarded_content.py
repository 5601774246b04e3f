"""Plain requests through the gateway: what is passed on up and down, and what becomes of it when one side ends."""

import asyncio
import re

from aios_sidecar.gateway.settings import EgressLimits
from unit.gateway.conftest import turns_of_the_loop
from unit.gateway.outside import Recorder, a_server, get, problem, the_rest

HERE = "127.0.0.1"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def test_content_goes_up_and_comes_down_whole_in_either_framing(proxying):
    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: ([0-9]+)", head)
        body = b""
        if length:
            body = await reader.readexactly(int(length[1]))
        else:
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), 50_000):
            piece = body[at : at + 50_000]
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    content = bytes(range(256)) * 4000
    async with a_server(mirror) as port, proxying(f"http://{HERE}:{port}") as agent:
        url, host = f"http://{HERE}:{port}/", f"{HERE}:{port}"
        chunked = (
            f"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{len(content):x}\r\n".encode()
        )
        for size, sent in (
            (3, f"POST {url} HTTP/1.0\r\nContent-Length: 3\r\n\r\n".encode() + content[:3]),
            (len(content), f"POST {url} HTTP/1.0\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content),
            (len(content), chunked + content + b"\r\n0\r\n\r\n"),
        ):
            reader, writer = await agent.connect()
            writer.write(sent)
            head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            if b"hunked" in head:
                body = (
                    b"".join(re.split(rb"\r\n[0-9a-f]+\r\n|^[0-9a-f]+\r\n", body[: -len(b"\r\n0\r\n\r\n")]))
                    if size == 3
                    else unchunked(body)
                )
            assert body == content[:size]
            assert agent.last("upBytes", "downBytes") == (size, size)
            writer.close()


def unchunked(body: bytes) -> bytes:
    pieces = []
    while True:
        size, _, body = body.partition(b"\r\n")
        if int(size, 16) == 0:
            return b"".join(pieces)
        pieces.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]


async def test_a_host_that_fails_is_reported_as_what_it_did(proxying):
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0\r\n\r\n")

    async def two_lengths(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        await reader.read()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    for handler, reason in (
        (hang_up, "UpstreamFailed"),
        (rubbish, "UpstreamFailed"),
        (two_lengths, "UpstreamFailed"),
        (silence, "UpstreamTimeout"),
    ):
        async with (
            a_server(handler) as port,
            proxying(f"http://{HERE}:{port}", claim=handler.__name__, egress=EgressLimits(response_seconds=0.3)) as agent,
        ):
            response = await agent.ask(get(f"http://{HERE}:{port}/"))
            assert (response.split()[1][:2], problem(response)["reason"]) == (b"50", reason)
            assert agent.last("verdict", "reason") == ("allow", reason)
            assert agent.egress.open == 0
    async with proxying(f"http://{HERE}:{port}") as agent:
        assert problem(await agent.ask(get(f"http://{HERE}:{port}/")))["reason"] == "Unreachable"


async def test_a_response_that_is_cut_off_is_seen_to_be(proxying):
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()

    async with a_server(half) as port, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()
        writer.write(get(f"http://{HERE}:{port}/"))
        response = await asyncio.wait_for(reader.read(), 60)
        assert response.endswith(b"half")
        assert b"problem" not in response
        writer.close()


async def test_a_client_that_goes_away_ends_what_it_asked_for(proxying):
    gone = asyncio.Event()

    async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await the_rest(reader)
        gone.set()

    async with a_server(think) as port, proxying(f"http://{HERE}:{port}") as agent:
        for via in ("loopback", "socket"):
            gone.clear()
            _, writer = await agent.connect(via)
            writer.write(get(f"http://{HERE}:{port}/"))
            while not agent.egress.open:
                await asyncio.sleep(0.01)
            writer.close()
            await asyncio.wait_for(gone.wait(), 60)
            assert agent.last("reason") == ("ClientGone",)


async def test_a_connection_that_the_host_closed_meanwhile_is_not_used_again(proxying):
    async with a_server(server := Recorder(CLOSING)) as port, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()
        for _ in range(3):
            writer.write(get(f"http://{HERE}:{port}/"))
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
        assert server.connections == 3
        writer.close()


async def test_a_host_that_closes_just_when_the_next_request_comes_is_asked_again_if_that_does_no_harm(proxying):
    connections = 0

    async def once_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")  # and then it is gone, as if its patience had ended at that moment

    async with a_server(once_each) as port, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()
        url = f"http://{HERE}:{port}/"
        for number in (1, 2, 3):
            writer.write(get(url))
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 200")
            assert connections == number
        writer.write(get(url, "Content-Length: 0", method="POST"))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).startswith(b"HTTP/1.1 502"), "who knows what it did already"
        assert connections == 3
        writer.close()


async def test_an_older_host_that_ends_its_response_by_closing_is_passed_on_whole(proxying):
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 100_000)

    async with a_server(old) as port, proxying(f"http://{HERE}:{port}") as agent:
        for _ in range(2):
            reader, writer = await agent.connect()
            writer.write(get(f"http://{HERE}:{port}/") + get(f"http://{HERE}:{port}/", "Connection: close"))
            responses = (await asyncio.wait_for(reader.read(), 60)).split(b"HTTP/1.1 200 OK\r\n")[1:]
            assert [unchunked(each.partition(b"\r\n\r\n")[2]) for each in responses] == [b"x" * 100_000] * 2
            writer.close()


async def test_pieces_of_a_response_are_passed_on_as_they_come_and_informational_ones_are_not(proxying):
    more = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with a_server(stream) as port, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()
        writer.write(get(f"http://{HERE}:{port}/"))
        assert (await asyncio.wait_for(reader.readuntil(b"one\r\n"), 60)).startswith(b"HTTP/1.1 200"), "before there is a second piece"
        more.set()
        assert await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 60) == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.close()


async def test_a_response_that_has_no_content_has_no_length_either(proxying):
    empty = Recorder(b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\nX-Mine: 1\r\n\r\n")
    async with a_server(empty) as port, proxying(f"http://{HERE}:{port}") as agent:
        reader, writer = await agent.connect()
        for _ in range(2):
            writer.write(get(f"http://{HERE}:{port}/"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 204")
            assert b"x-mine: 1" in head.lower()
            assert b"content-length" not in head.lower()
        writer.close()


async def test_a_status_that_there_is_none_of_is_not_passed_on(proxying):
    async with a_server(Recorder(b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n")) as port, proxying(f"http://{HERE}:{port}") as agent:
        assert problem(await agent.ask(get(f"http://{HERE}:{port}/")))["reason"] == "UpstreamFailed"


async def test_a_host_that_informs_without_end_is_given_up(proxying):
    async def inform(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()

    async with a_server(inform) as port, proxying(f"http://{HERE}:{port}") as agent:
        assert problem(await agent.ask(get(f"http://{HERE}:{port}/")))["reason"] == "UpstreamFailed"


async def test_content_beyond_the_limit_is_refused(proxying):
    async with a_server(Recorder()) as port, proxying(f"http://{HERE}:{port}", egress=EgressLimits(content_bytes=1000)) as agent:
        response = await agent.ask(get(f"http://{HERE}:{port}/", "Content-Length: 2000", method="POST") + b"x" * 2000)
        assert problem(response)["reason"] == "ContentTooLarge"


async def test_tiny_pieces_in_either_direction_leave_others_their_turns(proxying):
    tiny = b"1\r\nx\r\n" * 8000 + b"0\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"0\r\n\r\n" if b"POST" in await reader.readuntil(b"\r\n") else b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + tiny)
        await writer.drain()

    async with a_server(answer) as port, proxying(f"http://{HERE}:{port}") as agent:
        url, host = f"http://{HERE}:{port}/", f"{HERE}:{port}"
        post = f"POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
        for request, least in ((get(url, "Connection: close"), 400), (post + tiny, 800)):
            reader, writer = await agent.connect()
            with turns_of_the_loop() as made:
                writer.write(request)
                body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")[2]
            assert unchunked(body) == b"x" * 8000
            assert made[0] > least
            writer.close()


async def test_a_response_whose_head_has_very_many_lines_is_refused(proxying):
    async def wordy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 5000 + b"Content-Length: 0\r\n\r\n")
        await writer.drain()

    async with a_server(wordy) as port, proxying(f"http://{HERE}:{port}") as agent:
        assert problem(await agent.ask(get(f"http://{HERE}:{port}/")))["detail"].endswith("a response may begin with 256 lines.")

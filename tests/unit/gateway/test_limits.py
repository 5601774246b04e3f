"""No agent can crash the gateway, leak its descriptors, or starve another agent."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_sidecar.gateway.metrics import Metrics, Operations
from aios_sidecar.gateway.server import Server
from aios_sidecar.gateway.settings import Limits
from aios_sidecar.gateway.turns import Turns
from unit.gateway.conftest import turns_of_the_loop

GET = b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\n\r\n"

FRAGMENTS = st.sampled_from(
    [
        b"GET ",
        b"CONNECT ",
        b"/v1/agent",
        b"http://x/",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"Host: localhost\r\n",
        b"Host:\r\n",
        b"\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: x\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b"Connection: close\r\n",
        b"\x00",
        b"\xff\xfe",
        b"\n",
        b" ",
    ]
)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def answers(agent, via="loopback") -> bool:
    return (await agent.exchange(GET, via)).startswith(b"HTTP/1.1 200")


async def has_room(agent) -> bool:
    """Whether one more connection is answered. One that is refused may be closed before the request is sent."""
    try:
        return await answers(agent)
    except OSError:
        return False


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.one_of(st.binary(max_size=64), FRAGMENTS), max_size=12).map(b"".join), via=st.sampled_from(["socket", "loopback"]))
def test_no_bytes_crash_it_and_what_it_says_is_http(serving, sent, via):
    async def attempt() -> None:
        claim = f"{time.monotonic_ns():x}"
        async with serving(claim=claim) as agent:
            with contextlib.suppress(ConnectionError):
                response = await agent.exchange(sent, via)
                assert response == b"" or response.startswith(b"HTTP/1.1 ")
            assert agent.count("none", 500) == agent.count("agent", 500) == 0
            assert await answers(agent, via)

    asyncio.run(attempt())


async def test_connections_beyond_the_limit_are_refused_with_a_reason_and_room_comes_back(serving):
    async with serving(limits=Limits(connections=3)) as agent:
        held = [await agent.connect() for _ in range(3)]
        await asyncio.sleep(0.05)
        reader, writer = await agent.connect()
        refusal = await reader.read()
        assert refusal.startswith(b"HTTP/1.1 503")
        assert b"TooManyConnections" in refusal
        writer.close()
        for _, kept in held:
            kept.close()
        async with asyncio.timeout(60):
            while not await has_room(agent):
                await asyncio.sleep(0.01)


async def test_probes_are_answered_whoever_holds_connections_to_the_operations_port():
    limits = Limits(connections=3)
    server = Server(Operations(Metrics(), lambda: True, lambda: None), limits, partial(Turns(), 0), newest_first=True)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server.listen_on([("operations", listener)])
    held = [await asyncio.open_connection(*address) for _ in range(10)]
    await asyncio.sleep(0.05)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 200")
    assert server.connections <= limits.connections
    for _, each in (*held, (reader, writer)):
        each.close()
    server.end()
    await asyncio.sleep(0.01)


FLOOD = """
import socket, sys, threading
def read(connection):
    while connection.recv(1 << 20):
        pass
def write(connection):
    while True:
        connection.sendall(b"GET /v1/agent HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n" * 1000)
for _ in range(4):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    for work in (read, write):
        threading.Thread(target=work, args=(connection,), daemon=True).start()
sys.stdin.read()
"""


async def test_one_agents_flood_leaves_another_its_turn(serving):
    async with serving("noisy", claim="aaaa") as noisy, serving("quiet", agents=noisy.agents, claim="bbbb") as quiet:
        # It never waits for an answer, so that the gateway always has more to read from it and never comes to wait itself.
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(noisy.path)], stdin=subprocess.PIPE)
        try:
            async with asyncio.timeout(60):
                while noisy.count("agent", 200) < 1000:
                    await asyncio.sleep(0.01)
            before = noisy.count("agent", 200)
            for _ in range(20):
                assert await answers(quiet)
            meanwhile = noisy.count("agent", 200) - before
            assert meanwhile < 20 * 100, "it has its turns, and no more: a buffer that was answered whole would be a thousand"
        finally:
            flood.kill()
            await asyncio.to_thread(flood.communicate)


TINY: Final = b"1\r\nx\r\n" * 8000
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"


async def test_content_in_tiny_pieces_leaves_others_their_turns(serving):
    async with serving() as agent:
        with turns_of_the_loop() as made:
            answer = await agent.exchange(GET.replace(b"\r\n\r\n", b"\r\n" + CHUNKED + b"\r\n") + TINY + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert made[0] > 400


async def test_content_may_not_be_framed_at_many_times_its_length(serving):
    async with serving(limits=Limits(body_bytes=1024)) as agent:
        wide = b"1;" + b"a" * 10_000 + b"\r\nx\r\n"
        answer = await agent.exchange(GET.replace(b"\r\n\r\n", b"\r\n" + CHUNKED + b"\r\n") + wide * 20)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"not tiny" in answer


async def test_content_that_never_pauses_has_its_time_too(serving):
    """What is always ready to be read must not be read for ever."""
    async with serving(limits=Limits(body_seconds=0.5, body_bytes=1 << 22)) as agent:
        with socket.create_connection(("127.0.0.1", agent.port)) as connection:

            def send() -> None:
                with contextlib.suppress(OSError):
                    connection.sendall(GET.replace(b"\r\n\r\n", b"\r\n" + CHUNKED + b"\r\n"))
                    while True:
                        connection.sendall(TINY)

            sending = asyncio.create_task(asyncio.to_thread(send))
            assert (await asyncio.to_thread(connection.recv, 12)) == b"HTTP/1.1 408"
        await sending


async def test_a_head_of_very_many_lines_is_refused(serving):
    async with serving() as agent:
        answer = await agent.exchange(GET.replace(b"\r\n\r\n", b"\r\n" + b"a:\r\n" * 1000 + b"\r\n"))
        assert answer.startswith(b"HTTP/1.1 431")
        assert b"256 lines" in answer
        fine = GET.replace(b"\r\n\r\n", b"\r\n" + b"a:\r\n" * 200 + b"\r\n")
        assert (await agent.exchange(fine + b"\r\n" * 3)).startswith(b"HTTP/1.1 200"), "what follows it is not counted"


async def test_descriptors_are_given_back(serving):
    async with serving(claim="warm") as agent:
        assert await answers(agent)
    before = descriptors()
    for round_ in range(5):
        async with serving(claim=f"{round_:x}") as agent:
            kept = [await agent.connect("socket") for _ in range(10)]
            for request in (GET, b"garbage\r\n\r\n", b"GET / HT", b""):
                with contextlib.suppress(ConnectionError):
                    await agent.exchange(request)
            for _, writer in kept:
                writer.close()
    async with asyncio.timeout(60):
        while descriptors() != before:
            await asyncio.sleep(0.01)

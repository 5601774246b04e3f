"""What an agent may ask, and what every other request is told."""

import asyncio
import json
import re

import pytest

from aios_sidecar.gateway.problems import ProblemKind
from aios_sidecar.gateway.settings import Limits

GET = b"GET /v1/agent HTTP/1.1\r\nHost: 127.0.0.1:2489\r\n\r\n"


def parts(response: bytes) -> tuple[int, dict[str, str], dict]:
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(body) if body else {}


@pytest.mark.parametrize("via", ["socket", "loopback"])
async def test_an_agent_is_told_who_it_is_by_either_listener(serving, via):
    async with serving() as agent:
        status, headers, body = parts(await agent.exchange(GET, via))
        assert (status, headers["content-type"]) == (200, "application/json")
        assert body["identity"] == {"namespace": "team", "name": "coder", "uid": "6a9c", "attempt": 3}
        assert body["gpu"] == {"uuid": "GPU-1", "model": "NVIDIA H100 80GB HBM3", "memory": "16Gi"}
        assert body["share"] == {"memoryBytes": 16 << 30, "gpuMemoryBytes": 80 << 30}
        assert body["conditions"][0]["type"] == "Fenced"
        assert body["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
        assert body["node"] == "node-1"
        assert agent.count("agent", 200) == 1


@pytest.mark.parametrize(
    ("host", "via", "status"),
    [
        ("127.0.0.1", "loopback", 200),
        ("127.0.0.1:2489", "loopback", 200),
        ("LOCALHOST:2489", "loopback", 200),
        ("[::1]:2489", "loopback", 200),
        ("aios", "socket", 200),
        ("localhost", "socket", 200),
        ("aios", "loopback", 403),
        ("evil.example", "loopback", 403),
        ("127.0.0.1.evil.example", "loopback", 403),
        ("localhost:2489@evil.example", "loopback", 403),
        ("127.0.0.2", "loopback", 403),
        ("10.0.0.7", "socket", 403),
        ("", "loopback", 403),
    ],
)
async def test_only_loopback_names_are_accepted_as_host(serving, host, via, status):
    async with serving() as agent:
        got, _, body = parts(await agent.exchange(f"GET /v1/agent HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), via))
        assert got == status
        if status == 403:
            assert body["reason"] == "ForeignHost"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:2489", "null", "https://evil.example", ""])
async def test_a_request_with_an_origin_is_refused_even_our_own(serving, origin):
    async with serving() as agent:
        status, _, body = parts(await agent.exchange(f"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n".encode()))
        assert (status, body["reason"]) == (403, "BrowserOrigin")


@pytest.mark.parametrize(
    "request_line",
    [b"CONNECT example.com:443", b"GET http://example.com/", b"GET HTTPS://example.com/x", b"POST http://127.0.0.1:2489/v1/agent"],
)
async def test_whatever_would_leave_the_pod_is_denied_and_says_why(serving, request_line):
    async with serving() as agent:
        status, headers, body = parts(await agent.exchange(request_line + b" HTTP/1.1\r\nHost: example.com\r\n\r\n"))
        assert (status, headers["content-type"]) == (403, "application/problem+json")
        assert body["title"] == "egress is denied: no tool binding allows it"
        assert body["reason"] == "EgressDenied"
        assert body["nextStep"]


@pytest.mark.parametrize(
    ("request_bytes", "kind"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", ProblemKind.NOT_FOUND),
        (b"GET /v1/agent/../agent HTTP/1.1\r\nHost: localhost\r\n\r\n", ProblemKind.NOT_FOUND),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", ProblemKind.NOT_FOUND),
        (b"DELETE /v1/agent HTTP/1.1\r\nHost: localhost\r\n\r\n", ProblemKind.METHOD_NOT_ALLOWED),
        (b"GET /v1/agent HTTP/1.1\r\n\r\n", ProblemKind.MALFORMED),
        (b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", ProblemKind.MALFORMED),
        (b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", ProblemKind.MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 \r\n\r\n", ProblemKind.MALFORMED),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ProblemKind.MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", ProblemKind.HEADERS_TOO_LARGE),
        (b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, ProblemKind.CONTENT_TOO_LARGE),
        (b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", ProblemKind.MALFORMED),
    ],
)
async def test_every_refusal_is_a_problem_that_says_what_to_do(serving, request_bytes, kind):
    async with serving() as agent:
        status, headers, body = parts(await agent.exchange(request_bytes))
        assert status == kind.status
        assert headers["content-type"] == "application/problem+json"
        assert set(body) == {"type", "title", "status", "detail", "reason", "nextStep"}
        assert (body["status"], body["reason"]) == (kind.status, kind.value)


async def test_a_refused_method_names_the_allowed_ones(serving):
    async with serving() as agent:
        _, headers, _ = parts(await agent.exchange(b"POST /v1/agent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"))
        assert headers["allow"] == "GET, HEAD"


async def test_head_brings_the_length_and_no_content(serving):
    async with serving() as agent:
        head = await agent.exchange(GET.replace(b"GET", b"HEAD"))
        full = await agent.exchange(GET)
        assert head.endswith(b"\r\n\r\n")
        assert parts(head)[1]["content-length"] == parts(full)[1]["content-length"]


async def test_a_connection_is_kept_for_the_next_request_also_after_a_refusal(serving):
    async with serving() as agent:
        response = await agent.exchange(GET + GET.replace(b"/v1/agent", b"/nothing") + GET.replace(b"GET", b"CONNECT") + GET)
        assert re.findall(rb"HTTP/1\.1 ([0-9]{3})", response) == [b"200", b"404", b"400", b"200"]


async def test_a_client_that_asks_to_close_is_closed_at_once(serving):
    async with serving() as agent:
        reader, writer = await agent.connect()
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        began = asyncio.get_running_loop().time()
        assert parts(await reader.read())[0] == 200
        assert asyncio.get_running_loop().time() - began < 0.5
        writer.close()


async def test_a_client_that_waits_for_100_continue_gets_it_and_then_its_answer(serving):
    async with serving() as agent:
        reader, writer = await agent.connect()
        writer.write(b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"abc")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_request_that_trickles_in_is_timed_out_and_told_so(serving):
    async with serving(limits=Limits(head_seconds=0.2, body_seconds=0.2)) as agent:
        for beginning in (b"GET /v1/agent HT", b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"):
            reader, writer = await agent.connect()
            writer.write(beginning)
            status, _, body = parts(await asyncio.wait_for(reader.read(), 60))
            assert (status, body["reason"]) == (408, "RequestTimeout")
            writer.close()


async def test_an_idle_connection_is_closed_without_a_word(serving):
    async with serving(limits=Limits(idle_seconds=0.1)) as agent:
        reader, writer = await agent.connect("socket")
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


async def test_a_client_that_never_reads_is_cut_off(serving):
    async with serving(limits=Limits(write_seconds=0.2)) as agent:
        _, writer = await agent.connect("socket")
        writer.write(GET * 5000)
        (_, served), *_ = agent.agents
        async with asyncio.timeout(60):
            while served.server.connections == 0:
                await asyncio.sleep(0.01)
            while served.server.connections > 0:
                await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_an_update_shows_on_connections_that_are_open(serving):
    async with serving() as agent:
        reader, writer = await agent.connect()
        (claim, served), *_ = agent.agents
        changed = served.record.model_copy(update={"node": "node-2"})
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        agent.agents.update(claim, changed, None)
        writer.write(GET)
        assert b'"node-2"' in await reader.readuntil(b'"node-2"')
        writer.close()


async def test_stop_closes_listeners_and_ends_open_connections(serving):
    async with serving() as agent:
        reader, writer = await agent.connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        (claim, _), *_ = agent.agents
        agent.agents.stop(claim)
        await asyncio.wait_for(reader.read(), 60)
        assert reader.at_eof()
        with pytest.raises(OSError):
            await agent.connect()
        writer.close()

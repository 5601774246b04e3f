"""CONNECT through the gateway: real TLS through it, and everything that is not TLS for the host that was judged, refused."""

import asyncio
import ssl
from pathlib import Path

import pytest

from aios_sidecar.gateway.settings import EgressLimits
from unit.gateway.outside import Authority, a_server, echo, problem, the_rest

HERE = "127.0.0.1"
HOST = "api.example.com"
ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def connect(host: str, *headers: str) -> bytes:
    return "\r\n".join([f"CONNECT {host} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


async def a_tunnel(agent, host: str, via: str = "loopback") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await agent.connect(via)
    writer.write(connect(host))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert head.startswith(b"HTTP/1.1 200"), head
    return reader, writer


def a_hello(name: str | None) -> bytes:
    """A ClientHello as OpenSSL writes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("via", ["loopback", "socket"])
async def test_tls_goes_through_to_the_host_that_a_rule_names(proxying, authority, via):
    async with a_server(echo, authority.server(HOST)) as port, proxying(f"https://{HOST}:{port}", f"tcp://{HERE}:{port}") as agent:
        agent.names.known[HOST] = [HERE]
        reader, writer = await a_tunnel(agent, f"{HOST}:{port}", via)
        await writer.start_tls(authority.client(), server_hostname=HOST)
        sent = b"x" * 3_000_000
        writer.write(sent)
        assert await asyncio.wait_for(reader.readexactly(len(sent)), 60) == sent
        writer.close()
        while agent.egress.open:
            await asyncio.sleep(0.01)
        assert agent.last("verdict", "host", "port", "binding", "rule") == ("allow", HOST, port, "b", "r0")
        assert all(count > len(sent) for count in agent.last("upBytes", "downBytes"))


@pytest.mark.parametrize("name", ["other.example.com", "api.example.com.evil.example", None])
async def test_a_server_name_that_is_not_the_connects_is_refused_in_tls(proxying, name):
    received = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await the_rest(reader))

    async with (
        a_server(keep) as port,
        proxying(f"https://{HOST}:{port}", f"https://{HERE}:{port}", f"https://other.example.com:{port}") as agent,
    ):
        agent.names.known[HOST] = [HERE]
        reader, writer = await a_tunnel(agent, f"{HOST}:{port}")
        writer.write(a_hello(name))
        assert await asyncio.wait_for(reader.read(), 60) == ACCESS_DENIED
        writer.close()
        while not received:
            await asyncio.sleep(0.01)
        assert received == [b""], "not a byte of it went out"
        assert agent.last("verdict", "reason", "rule") == ("deny", "ServerNameDenied", "r0")


async def test_a_name_is_compared_without_regard_to_case(proxying):
    async with a_server(echo) as port, proxying(f"https://{HOST}:{port}", f"https://{HERE}:{port}") as agent:
        agent.names.known[HOST] = [HERE]
        reader, writer = await a_tunnel(agent, f"API.Example.COM.:{port}")
        hello = a_hello("Api.example.com")
        writer.write(hello)
        assert await asyncio.wait_for(reader.readexactly(len(hello)), 60) == hello
        writer.close()


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x00" * 40,
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
    ],
)
async def test_what_is_not_tls_reaches_nobody_by_a_rule_for_https(proxying, first):
    received = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await the_rest(reader))

    async with a_server(keep) as port, proxying(f"https://{HOST}:{port}", f"https://{HERE}:{port}") as agent:
        agent.names.known[HOST] = [HERE]
        reader, writer = await a_tunnel(agent, f"{HOST}:{port}")
        writer.write(first)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1000), 60)
        writer.close()
        while not received:
            await asyncio.sleep(0.01)
        assert received == [b""]
        assert agent.last("verdict", "reason") == ("deny", "ServerNameDenied")


@pytest.mark.parametrize("pieces", ["bytes", "records"])
async def test_a_hello_in_many_pieces_is_read_whole_and_passed_on_as_it_came(proxying, pieces):
    async with a_server(echo) as port, proxying(f"https://{HOST}:{port}", f"https://{HERE}:{port}") as agent:
        agent.names.known[HOST] = [HERE]
        hello = a_hello(HOST)
        if pieces == "records":
            body = hello[5:]
            parts = [body[at : at + 7] for at in range(0, len(body), 7)]
            hello = b"".join(hello[:3] + len(part).to_bytes(2, "big") + part for part in parts)
        reader, writer = await a_tunnel(agent, f"{HOST}:{port}")
        for at in range(0, len(hello), 50):
            writer.write(hello[at : at + 50])
            await asyncio.sleep(0)
        assert await asyncio.wait_for(reader.readexactly(len(hello)), 60) == hello
        writer.close()


async def test_a_client_that_sends_its_hello_with_the_connect_is_served(proxying):
    async with a_server(echo) as port, proxying(f"https://{HOST}:{port}", f"https://{HERE}:{port}") as agent:
        agent.names.known[HOST] = [HERE]
        reader, writer = await agent.connect()
        hello = a_hello(HOST)
        writer.write(connect(f"{HOST}:{port}") + hello)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert await asyncio.wait_for(reader.readexactly(len(hello)), 60) == hello
        writer.close()


async def test_a_hello_that_never_ends_is_not_waited_for(proxying):
    limits = EgressLimits(hello_seconds=0.2)
    async with a_server(echo) as port, proxying(f"https://{HOST}:{port}", f"https://{HERE}:{port}", egress=limits) as agent:
        agent.names.known[HOST] = [HERE]
        reader, writer = await a_tunnel(agent, f"{HOST}:{port}")
        writer.write(a_hello(HOST)[:100])
        assert await asyncio.wait_for(reader.read(), 60) == b""
        assert agent.egress.open == 0
        writer.close()


async def test_an_address_needs_no_server_name_and_takes_none(proxying, authority):
    async with a_server(echo, authority.server(HERE)) as port, proxying(f"https://{HERE}:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        await writer.start_tls(authority.client(), server_hostname=HERE)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), 60) == b"hello"
        writer.close()
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        writer.write(a_hello("hidden.example.com"))
        assert await asyncio.wait_for(reader.read(), 60) == ACCESS_DENIED
        writer.close()


async def test_a_tcp_rule_lets_any_bytes_through_to_its_addresses_alone(proxying):
    async with a_server(echo) as port, proxying(f"tcp://127.0.0.0/31:{port}", f"https://{HOST}:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        writer.write(b"SSH-2.0\r\n")
        assert await asyncio.wait_for(reader.readexactly(9), 60) == b"SSH-2.0\r\n"
        writer.close()
        assert problem(await agent.ask(connect(f"127.0.0.2:{port}")))["reason"] == "EgressDenied"
        assert problem(await agent.ask(connect(f"{HERE}:{port + 1}")))["reason"] == "EgressDenied"


@pytest.mark.parametrize(
    "host", ["dns.google:443", "1.1.1.1:443", "[2606:4700:4700::1111]:443", "10.96.0.1:443", "169.254.169.254:80", "localhost:443"]
)
async def test_hosts_that_are_not_bound_are_denied_and_not_even_resolved(proxying, host):
    async with proxying(f"https://{HOST}:443") as agent:
        assert problem(await agent.ask(connect(host)))["reason"] == "EgressDenied"
        assert agent.names.asked == []
        assert agent.last("verdict", "method") == ("deny", "CONNECT")


async def test_a_rule_for_plain_http_opens_no_tunnel(proxying):
    async with proxying(f"http://{HOST}:80") as agent:
        assert problem(await agent.ask(connect(f"{HOST}:80")))["reason"] == "EgressDenied"


@pytest.mark.parametrize("where", ["10.0.0.7", "169.254.169.254", "::1", "::ffff:192.168.0.1", "64:ff9b::a00:7"])
async def test_a_name_that_leads_inside_opens_no_tunnel(proxying, where):
    async with proxying(f"https://{HOST}:443") as agent:
        agent.names.known[HOST] = ["203.0.113.9", where]
        assert problem(await agent.ask(connect(f"{HOST}:443")))["reason"] == "AddressDenied"


@pytest.mark.parametrize(
    ("target", "headers", "reason"),
    [
        ("api.example.com", (), "Malformed"),
        ("api.example.com:0", (), "Malformed"),
        ("api.example.com:443/x", (), "Malformed"),
        ("user@api.example.com:443", (), "Malformed"),
        ("https://api.example.com:443", (), "Malformed"),
        ("api.example.com:443", ("Content-Length: 5",), "Malformed"),
        ("api.example.com:443", ("Transfer-Encoding: chunked",), "Malformed"),
    ],
)
async def test_a_connect_that_is_none_is_refused(proxying, target, headers, reason):
    async with proxying(f"https://{HOST}:443") as agent:
        assert problem(await agent.ask(connect(target, *headers)))["reason"] == reason


async def test_the_host_header_of_connect_is_its_targets(proxying):
    async with proxying(f"https://{HOST}:443", "https://evil.example:443") as agent:
        sent = connect(f"{HOST}:443").replace(b"Host: api.example.com:443", b"Host: evil.example:443")
        assert problem(await agent.ask(sent))["reason"] == "HostMismatch"
        agent.names.known[HOST] = ["10.0.0.1"]
        for host in (b"api.example.com", b"api.example.com:443", b"127.0.0.1:2489"):
            sent = connect(f"{HOST}:443").replace(b"Host: api.example.com:443", b"Host: " + host)
            assert problem(await agent.ask(sent))["reason"] == "AddressDenied", "so far it is right"

"""How long a tunnel lives, what ends it, what it holds meanwhile, and what is left of it."""

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios

from prometheus_client import generate_latest

from aios_sidecar.gateway.egress.passage import Traffic
from aios_sidecar.gateway.egress.tunnel import READ_BYTES, ROOM_BYTES, SPARING_BYTES, Room, Tunnel
from aios_sidecar.gateway.settings import EgressLimits
from aios_sidecar.gateway.turns import Turns
from unit.gateway.outside import NOTHING, a_server, echo
from unit.gateway.test_tunnels import HERE, a_tunnel, connect


async def test_a_tunnel_that_a_change_forbids_ends_and_others_stay(proxying):
    async with a_server(echo) as port, proxying(f"tcp://{HERE}:{port}", f"tcp://{HERE}/32:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        agent.allow(f"tcp://{HERE}:{port}")
        writer.write(b"still here")
        assert await asyncio.wait_for(reader.readexactly(10), 60) == b"still here"
        agent.allow(f"https://{HERE}:{port}")
        assert await asyncio.wait_for(reader.read(), 60) == b"", "a rule for TLS is none for bytes that nobody looked at"
        assert agent.last("verdict", "reason", "upBytes") == ("allow", "PolicyChanged", 10)
        assert agent.egress.open == 0
        writer.close()


async def test_no_byte_goes_out_once_a_change_that_forbids_its_tunnel_is_in_force(proxying):
    """Nor one that the kernel holds for a host that is slow to take it."""
    loop = asyncio.get_running_loop()
    with socket.create_server((HERE, 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        async with proxying(f"tcp://{HERE}:{port}") as agent:
            _, writer = await a_tunnel(agent, f"{HERE}:{port}")
            host, _ = await loop.sock_accept(listener)
            with host:
                writer.write(bytes(64 << 20))
                while not agent.egress.room.held_bytes:  # the kernel takes no more, and what it has does not fit into the host's buffer
                    await asyncio.sleep(0.01)
                at_the_host = waiting(host)
                agent.egress.load(NOTHING)
                host.setblocking(True)
                taken = 0
                with contextlib.suppress(ConnectionResetError):
                    while data := host.recv(1 << 20):
                        taken += len(data)
            assert taken <= at_the_host, "ended already, though nothing of the gateway has run since"
            while agent.egress.open:
                await asyncio.sleep(0.01)
            assert agent.last("reason") == ("PolicyChanged",)
            assert agent.last("upBytes")[0] > at_the_host, "the kernel had taken more"
            writer.close()


def waiting(connection: socket.socket) -> int:
    """Bytes that have arrived and were not read."""
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_what_is_open_for_long_is_in_the_audit_before_it_ends(proxying, monkeypatch):
    monkeypatch.setattr("aios_sidecar.gateway.egress.agent.OPEN_SECONDS", 0.05)
    async with a_server(echo) as port, proxying(f"tcp://{HERE}:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        writer.write(b"hello")
        await asyncio.wait_for(reader.readexactly(5), 60)
        while not agent.audit.lines:
            await asyncio.sleep(0.01)
        shown = "verdict", "reason", "host", "port", "binding", "rule", "upBytes", "downBytes"
        assert agent.last(*shown) == ("open", "open", HERE, port, "b", "r0", 5, 5)
        assert agent.last("seconds")[0] >= 0.05
        await asyncio.sleep(0.2)
        assert len(agent.audit.lines) == 1, "once, however long it is open"
        assert b"aios_gateway_egress_total{" not in generate_latest(agent.metrics.registry), "what is counted is its end"
        writer.close()
        while len(agent.audit.lines) < 2:
            await asyncio.sleep(0.01)
        assert agent.last("verdict", "reason") == ("allow", "Closed")


async def test_each_side_may_end_its_half_alone(proxying):
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(len(await reader.read())).encode())

    async with a_server(count) as port, proxying(f"tcp://{HERE}:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 60) == b"100000"
        assert agent.last("reason", "upBytes", "downBytes") == ("Closed", 100_000, 6)
        writer.close()


async def test_who_opens_and_closes_without_end_leaves_ports_to_others(proxying):
    limits = EgressLimits(connects_burst=3, connects_per_second=1.0)
    async with a_server(echo) as port, proxying(f"tcp://{HERE}:{port}", egress=limits) as agent:
        answers = []
        for _ in range(6):
            reader, writer = await agent.connect()
            writer.write(connect(f"{HERE}:{port}"))
            answers.append((await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)).split()[1])
            writer.close()
        assert answers[:3] == [b"200"] * 3
        assert b"503" in answers[3:], "too many at once"
        assert agent.last("verdict", "reason") in [("allow", "TooManyConnections"), ("allow", "Closed")]
        while (await agent.ask(connect(f"{HERE}:{port}"))).startswith(b"HTTP/1.1 503"):
            await asyncio.sleep(0.05)


async def test_a_host_that_has_ended_its_half_first_still_gets_everything(proxying):
    """Also what the kernel holds for it when the tunnel ends."""
    loop = asyncio.get_running_loop()
    with socket.create_server((HERE, 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        async with proxying(f"tcp://{HERE}:{port}") as agent:
            reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
            host, _ = await loop.sock_accept(listener)
            with host:
                host.shutdown(socket.SHUT_WR)
                assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.write(bytes(1 << 20))
                writer.write_eof()
                while agent.egress.open:
                    await asyncio.sleep(0.01)
                assert agent.last("reason", "upBytes") == ("Closed", 1 << 20)
                taken = 0
                while data := await loop.sock_recv(host, 1 << 20):
                    taken += len(data)
                assert taken == 1 << 20
            writer.close()


async def test_an_idle_tunnel_ends_and_one_that_is_used_does_not(proxying):
    async with a_server(echo) as port, proxying(f"tcp://{HERE}:{port}", egress=EgressLimits(tunnel_idle_seconds=1)) as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        for _ in range(12):
            await asyncio.sleep(0.1)
            writer.write(b"x")
            await reader.readexactly(1)
        assert await asyncio.wait_for(reader.read(), 60) == b""
        assert agent.last("reason") == ("Idle",)
        writer.close()


async def test_a_tunnel_does_not_live_for_ever(proxying):
    async with (
        a_server(echo) as port,
        proxying(f"tcp://{HERE}:{port}", egress=EgressLimits(tunnel_seconds=0.3, tunnel_idle_seconds=30)) as agent,
    ):
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        while not reader.at_eof():
            writer.write(b"x")
            await asyncio.wait_for(reader.read(1), 60)
            await asyncio.sleep(0.05)
        assert agent.last("reason") == ("TooLong",)
        writer.close()


async def test_what_the_other_side_does_not_take_is_not_read(proxying):
    taken = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await taken.wait()
        size = 0
        while size < 64 << 20:
            size += len(await reader.read(1 << 20))
        writer.write(b"all")

    async with a_server(late) as port, proxying(f"tcp://{HERE}:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        writer.write(b"x" * (64 << 20))
        await asyncio.sleep(0.5)
        assert writer.transport.get_write_buffer_size() > 32 << 20, "most of it still waits with the client"
        taken.set()
        assert await asyncio.wait_for(reader.readexactly(3), 60) == b"all"
        writer.close()


async def test_stopping_the_agent_ends_its_tunnels(proxying):
    async with a_server(echo) as port, proxying(f"tcp://{HERE}:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        (claim, served), *_ = agent.agents
        agent.agents.stop(claim)
        assert await asyncio.wait_for(reader.read(), 60) == b""
        assert agent.last("reason") == ("Stopped",)
        assert served.egress.open == 0
        writer.close()


async def test_going_mute_ends_tunnels_and_kept_connections(proxying):
    async with a_server(echo) as port, proxying(f"tcp://{HERE}:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        agent.agents.cut()
        assert await asyncio.wait_for(reader.read(), 60) == b""
        assert agent.egress.open == 0
        assert agent.last("reason") == ("Stopped",)
        writer.close()


async def test_many_agents_tunnels_share_the_loop(proxying, serving):
    """One agent that pumps over many tunnels leaves another's round trips their turn."""
    async with (
        a_server(echo) as port,
        proxying(f"tcp://{HERE}:{port}") as noisy,
        serving("quiet", agents=noisy.agents, claim="bbbb") as quiet,
    ):
        served = noisy.agents.get("bbbb")
        noisy.agents.update("bbbb", served.record, noisy.egress.policy)

        async def pump() -> None:
            reader, writer = await a_tunnel(noisy, f"{HERE}:{port}")

            async def drop() -> None:
                while await reader.read(1 << 18):
                    pass

            dropping = asyncio.create_task(drop())
            try:
                while True:
                    writer.write(b"x" * 200_000)
                    await writer.drain()
            finally:
                dropping.cancel()
                writer.close()

        pumps = [asyncio.create_task(pump()) for _ in range(20)]
        reader, writer = await a_tunnel(quiet, f"{HERE}:{port}")
        for _ in range(20):
            writer.write(b"ping")
            assert await asyncio.wait_for(reader.readexactly(4), 60) == b"ping"
        writer.close()
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def test_what_many_tunnels_hold_of_what_nobody_takes_is_bounded():
    turns, room = Turns(), Room()
    ends, running = [], []
    for _ in range(30):
        client, ours = socket.socketpair()
        upstream, theirs = socket.socketpair()
        for each in (client, ours, upstream, theirs):
            each.setblocking(False)
        ends.append((client, ours, upstream, theirs))
        tunnel = Tunnel(ours, upstream, turns=turns, who="a", room=room, traffic=Traffic(), idle_seconds=60, longest_seconds=60)
        running.append(asyncio.create_task(tunnel.run(b"")))
    sent = 0
    for _ in range(40):
        for client, *_ in ends:
            with contextlib.suppress(BlockingIOError):
                sent += client.send(bytes(1 << 20))
        await asyncio.sleep(0.01)
    assert room.held_bytes <= ROOM_BYTES + 30 * SPARING_BYTES
    assert sent > 30 * READ_BYTES / 2, "so much did go in, most of it into the kernel"
    taken = 0
    while taken < sent:
        for *_, theirs in ends:
            with contextlib.suppress(BlockingIOError):
                taken += len(theirs.recv(1 << 20))
        await asyncio.sleep(0.005)
    assert taken == sent, "all of it comes out"
    assert room.held_bytes == 0
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for each in (one for pair in ends for one in pair):
        each.close()

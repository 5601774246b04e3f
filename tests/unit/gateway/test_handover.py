"""Messages and listeners cross the link whole, or not at all."""

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_sidecar.contracts.agents import AgentIdentity, AgentRecord
from aios_sidecar.contracts.link import EgressCounts, Fresh, Held, Hello, Serve, Serving, Stop, Synced, Update, WouldDeny, decode
from aios_sidecar.contracts.packets import MESSAGE_LIMIT_BYTES, ProtocolError, encode
from aios_sidecar.handover import Link, LinkClosedError, PeerRefusedError, accept, connect, listen
from unit.gateway.outside import a_policy

CLAIM = "0b8e2b1e"
RECORD = AgentRecord(identity=AgentIdentity(namespace="n", name="a", uid="u", attempt=1), node="node")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def a_pair() -> tuple[Link, socket.socket]:
    """A link and the raw socket of its peer, which may break the contract."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(ours), theirs


@pytest.mark.parametrize(
    "message",
    [
        Hello(),
        Held(claim_uid=CLAIM),
        Synced(),
        Serving(claim_uid=CLAIM, kinds=("socket",), policy_digest="0" * 64),
        EgressCounts(claim_uid=CLAIM, denied=3, would_deny=(WouldDeny(binding="b", count=2),)),
        Serve(claim_uid=CLAIM, record=RECORD),
        Update(claim_uid=CLAIM, record=RECORD, policy=a_policy("https://*.example.com:443", "tcp://10.0.0.0/8:5432")),
        Stop(claim_uid=CLAIM),
        Fresh(until_seconds=1234.5),
    ],
)
def test_every_message_reads_back_as_it_was_written(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"type": "shutdown"}',
        b'{"type": "hello", "contract": "1"}',
        b'{"type": "hello", "contract": 1, "more": 1}',
        b'{"type": "stop"}',
        b'{"type": "fresh"}',
        b'{"type": "fresh", "until_seconds": NaN}',
        b'{"type": "fresh", "until_seconds": -1}',
        b'{"type": "stop", "claim_uid": "../../x"}',
        b'{"type": "held", "claim_uid": "a", "listeners": ["socket", "socket"]}',
        b'{"type": "held", "claim_uid": "a", "listeners": ["netlink"]}',
        b'{"type": "synced", "x": "' + b"x" * MESSAGE_LIMIT_BYTES + b'"}',
        b"[" * 60_000,
    ],
)
def test_what_the_contract_does_not_know_is_refused(packet):
    with pytest.raises(ProtocolError):
        decode(packet)


@given(st.binary(max_size=200))
def test_no_packet_does_anything_but_decode_or_be_refused(packet):
    with contextlib.suppress(ProtocolError):
        decode(packet)


def test_a_share_without_a_gpu_is_no_record():
    with pytest.raises(ProtocolError, match="gpu and share"):
        decode(encode(Update(claim_uid=CLAIM, record=RECORD)).replace(b'"node":', b'"share":{"memoryBytes":1,"gpuMemoryBytes":2},"node":'))


async def test_a_listener_arrives_as_a_working_duplicate_and_the_sender_keeps_its_own(listener):
    link, theirs = a_pair()
    peer = Link(theirs)
    await link.send(Serve(claim_uid=CLAIM, record=RECORD), {"loopback": listener})
    received = await peer.receive()
    copy = received.listeners["loopback"]
    assert copy.getsockname() == listener.getsockname()
    assert not os.get_inheritable(copy.fileno())
    with socket.create_connection(listener.getsockname()):
        copy.accept()[0].close()
    received.close()
    assert listener.fileno() >= 0
    link.close()
    peer.close()


async def test_descriptors_never_leak_whatever_the_peer_sends(listener):
    held = b'{"type":"held","claim_uid":"a","listeners":["loopback"]}'
    file = os.open("/dev/null", os.O_RDONLY)
    connected, other = socket.socketpair()
    attempts = [
        (held, []),
        (held, [listener.fileno(), listener.fileno()]),
        (held, [listener.fileno()] * 30),
        (held, [file]),
        (held, [connected.fileno()]),
        (held.replace(b"loopback", b"socket"), [listener.fileno()]),
        (b'{"type":"held","claim_uid":"a","listeners":["loopback","socket"]}', [listener.fileno(), file]),
        (b'{"type":"synced"}', [listener.fileno()]),
        (b"rubbish", [listener.fileno(), file]),
        (b"x" * (MESSAGE_LIMIT_BYTES + 1), [listener.fileno()]),
    ]
    before = descriptors()
    for packet, passed in attempts:
        link, theirs = a_pair()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
        theirs.sendmsg([packet], rights)
        with pytest.raises(ProtocolError):
            await link.receive()
        assert link.closed
        theirs.close()
        assert descriptors() == before, (packet[:60], passed)
    for leftover in (connected, other):
        leftover.close()
    os.close(file)


async def test_receive_ends_when_the_peer_goes_and_when_this_side_closes():
    link, theirs = a_pair()
    waiting = asyncio.create_task(link.receive())
    await asyncio.sleep(0.01)
    theirs.close()
    with pytest.raises(LinkClosedError):
        await waiting
    link, theirs = a_pair()
    waiting = asyncio.create_task(link.receive())
    await asyncio.sleep(0.01)
    link.close()
    with pytest.raises(LinkClosedError):
        await waiting
    with pytest.raises(LinkClosedError):
        await link.send(Hello())
    theirs.close()


async def test_a_cancelled_receive_loses_nothing():
    link, theirs = a_pair()
    waiting = asyncio.create_task(link.receive())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    theirs.send(encode(Synced()))
    assert (await link.receive()).message == Synced()
    link.close()
    theirs.close()


async def test_many_senders_are_taken_in_whole_messages_also_when_the_reader_is_slow():
    link, theirs = a_pair()
    peer = Link(theirs)
    record = RECORD.model_copy(update={"node": "n" * 20_000})
    sending = [asyncio.create_task(link.send(Update(claim_uid=f"{n:x}", record=record))) for n in range(50)]
    await asyncio.sleep(0.05)
    assert not all(task.done() for task in sending)
    assert {(await peer.receive()).message.claim_uid for _ in range(50)} == {f"{n:x}" for n in range(50)}
    await asyncio.gather(*sending)
    link.close()
    peer.close()


async def test_a_message_that_is_too_long_is_refused_before_it_is_sent():
    link, theirs = a_pair()
    with pytest.raises(ValueError, match="at most"):
        await link.send(Update(claim_uid=CLAIM, record=RECORD.model_copy(update={"node": "n" * MESSAGE_LIMIT_BYTES})))
    assert not link.closed
    link.close()
    theirs.close()


async def test_both_ends_check_who_is_there(short_path):
    path = short_path / "node.sock"
    me = os.geteuid()
    with listen(path, owner_uid=me) as server:
        link, peer = await asyncio.gather(connect(path, peer=me), accept(server, peer=me))
        assert link.peer_uid == peer.peer_uid == me
        link.close()
        peer.close()
        with pytest.raises(PeerRefusedError, match=f"user {me}, must be {me + 1}"):
            await connect(path, peer=me + 1)
        with pytest.raises(PeerRefusedError):
            await accept(server, peer=me + 1)
    with pytest.raises(LinkClosedError):
        await connect(path, peer=me)


async def test_a_left_over_socket_file_is_replaced(short_path):
    path = short_path / "node.sock"
    listen(path, owner_uid=os.geteuid()).close()
    with listen(path, owner_uid=os.geteuid()):
        (await connect(path, peer=os.geteuid())).close()


async def test_a_listener_that_is_closed_while_it_waits_to_be_sent_is_the_one_that_arrives(listener):
    link, theirs = a_pair()
    peer, name = Link(theirs), listener.getsockname()
    record = RECORD.model_copy(update={"node": "n" * 20_000})
    before = [asyncio.create_task(link.send(Update(claim_uid=f"{n:x}", record=record))) for n in range(50)]
    sending = asyncio.create_task(link.send(Serve(claim_uid=CLAIM, record=RECORD), {"loopback": listener}))
    await asyncio.sleep(0.05)
    assert not sending.done()
    number = listener.fileno()
    listener.close()
    with socket.create_server(("127.0.0.1", 0)) as another:
        assert another.fileno() == number
        for _ in before:
            await peer.receive()
        received = await peer.receive()
        assert received.listeners["loopback"].getsockname() == name
        received.close()
    await asyncio.gather(sending, *before)
    link.close()
    peer.close()

"""What counts as inside beside private addresses: a file that changes, and what is open meanwhile."""

import asyncio

import pytest

from aios_api.addresses import Internal, parse_address
from aios_sidecar.gateway.egress.ranges import Ranges
from unit.gateway.outside import NOTHING, a_server, echo
from unit.gateway.test_tunnels import HERE, a_tunnel


def inside(internal: Internal, text: str) -> bool:
    address = parse_address(text)
    assert address is not None
    return not internal.is_public(address)


def test_what_is_named_and_our_own_addresses_are_inside_without_a_file():
    ranges = Ranges(None, ["198.51.100.0/24"], ["10.0.0.5", "203.0.113.7", "2001:db8::5", "api.example.com", "$(HOST_IPS)"])
    assert all(inside(ranges.internal, each) for each in ("198.51.100.9", "203.0.113.7", "2001:db8::5", "10.0.0.5"))
    assert not any(inside(ranges.internal, each) for each in ("203.0.113.8", "8.8.8.8"))
    assert ranges.look() is False
    with pytest.raises(ValueError, match="must be an address range"):
        Ranges(None, ["198.51.100.1/24"], [])


def test_a_file_is_read_when_it_is_there_and_again_when_it_changes(tmp_path):
    path = tmp_path / "cidrs"
    ranges = Ranges(path, [], [])
    assert not inside(ranges.internal, "203.0.113.7")
    path.write_text("203.0.113.7/32\n2001:db8::/64\n")
    assert ranges.look()
    assert inside(ranges.internal, "203.0.113.7")
    assert inside(ranges.internal, "2001:db8::1")
    assert not ranges.look()
    path.write_text("203.0.113.8/32\n")
    assert ranges.look()
    assert not inside(ranges.internal, "203.0.113.7")


@pytest.mark.parametrize("broken", [b"203.0.113.8/32\nnonsense\n", b"203.0.113.9/24\n", b"\xff\xfe", None])
def test_what_can_not_be_read_changes_nothing_and_is_told_once(tmp_path, caplog, broken):
    path = tmp_path / "cidrs"
    path.write_text("203.0.113.7/32\n")
    ranges = Ranges(path, [], [])
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    assert not ranges.look()
    assert not ranges.look()
    assert inside(ranges.internal, "203.0.113.7"), "what was read last stays in force"
    assert caplog.text.count("can't be taken") == (broken is not None)
    path.write_text("")
    assert ranges.look()
    assert not inside(ranges.internal, "203.0.113.7")


async def test_a_change_reaches_who_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("aios_sidecar.gateway.egress.ranges.LOOK_SECONDS", 0.01)
    path, seen = tmp_path / "cidrs", asyncio.Queue()
    running = asyncio.create_task(Ranges(path, [], []).run(seen.put_nowait))
    path.write_text("203.0.113.7/32\n")
    assert inside(await asyncio.wait_for(seen.get(), 5), "203.0.113.7")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_leads_inside_now_ends_and_is_not_opened_again(proxying):
    async with a_server(echo) as port, proxying(f"tcp://127.0.0.0/8:{port}") as agent:
        reader, writer = await a_tunnel(agent, f"{HERE}:{port}")
        agent.agents.count_as_inside(Internal.with_cluster(["198.51.100.0/24"]))
        writer.write(b"still here")
        assert await asyncio.wait_for(reader.readexactly(10), 5) == b"still here"
        agent.agents.count_as_inside(Internal.with_cluster([f"{HERE}/32"]))
        assert await asyncio.wait_for(reader.read(), 5) == b"", "a wider range does not name what is inside by itself"
        assert agent.last("reason") == ("PolicyChanged",)
        writer.close()
        answer = await agent.ask(f"CONNECT {HERE}:{port} HTTP/1.1\r\nHost: {HERE}:{port}\r\n\r\n".encode())
        assert b"InternalAddress" in answer
        assert agent.egress.policy != NOTHING

"""A gateway that hears nothing of the API server answers no agent: the agent may be at work elsewhere by then."""

import asyncio
import json
from contextlib import suppress

import pytest

from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.metrics import Metrics, Operations
from aios_sidecar.gateway.problems import Problem, ProblemKind
from unit.gateway.outside import Notes, a_policy, an_outside, get

GET = b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\n\r\n"
REQUESTS = [
    GET,
    b"POST /v1/agent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_freshness(clock: Clock, metrics: Metrics | None = None) -> Freshness:
    return Freshness(60, clock, metrics or Metrics())


def test_it_is_mute_until_the_first_word_and_when_the_time_is_over(clock):
    freshness = a_freshness(clock)
    assert freshness.mute
    freshness.renew(1060)
    clock.now = 1059.9
    assert not freshness.mute
    clock.now = 1060
    assert freshness.mute
    freshness.renew(1110)
    assert not freshness.mute


def test_a_word_that_waited_to_be_read_says_no_more_than_it_did(clock):
    freshness = a_freshness(clock)
    clock.now = 1100
    freshness.renew(1060)
    assert freshness.mute


def test_no_word_lasts_longer_than_the_mute_time_and_an_older_one_takes_nothing_back(clock):
    freshness = a_freshness(clock)
    freshness.renew(99_999)
    freshness.renew(1010)
    clock.now = 1059
    assert not freshness.mute
    clock.now = 1060
    assert freshness.mute


@pytest.mark.parametrize("request_bytes", REQUESTS)
async def test_every_request_is_refused_while_mute_and_answered_again_afterwards(serving, clock, request_bytes):
    freshness = a_freshness(clock)
    async with serving(freshness=freshness) as agent:
        freshness.renew(1060)
        before = await agent.exchange(request_bytes)
        clock.now = 1075
        for via in ("socket", "loopback"):
            head, _, body = (await agent.exchange(request_bytes, via)).partition(b"\r\n\r\n")
            problem = json.loads(body)
            assert (head.split()[1], problem["reason"]) == (b"503", "Mute")
            assert problem["detail"] == "Nothing was heard for 75 seconds."
            assert b"Retry-After" in head
        freshness.renew(1130)
        assert await agent.exchange(request_bytes) == before


async def test_what_is_refused_while_mute_is_in_the_audit(serving, clock):
    freshness, notes = a_freshness(clock), Notes()
    async with serving(
        freshness=freshness, outside=an_outside(Metrics(), audit=notes), policy=a_policy("http://api.example.com:80")
    ) as agent:
        await agent.exchange(get("http://api.example.com/"))
        assert [(line["verdict"], line["reason"], line["host"]) for line in notes.lines] == [("deny", "Mute", "api.example.com")]


async def test_a_request_that_was_begun_before_is_not_answered_after(serving, clock):
    freshness = a_freshness(clock)
    freshness.renew(1060)
    async with serving(freshness=freshness) as agent:
        reader, writer = await agent.connect()
        writer.write(b"GET /v1/agent HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n")
        await asyncio.sleep(0.05)
        clock.now = 1060
        writer.write(b"{}")
        assert (await asyncio.wait_for(reader.read(1000), 60)).split()[1] == b"503"
        writer.close()


async def test_going_mute_ends_what_is_open_once_and_is_counted(serving, clock, monkeypatch):
    monkeypatch.setattr("aios_sidecar.gateway.freshness.LOOK_SECONDS", 0.005)
    metrics = Metrics()
    freshness = a_freshness(clock, metrics)
    freshness.renew(1060)
    async with serving(freshness=freshness) as agent:
        silenced = []

        def silence() -> None:
            silenced.append(clock.now)
            agent.agents.cut()

        running = asyncio.create_task(freshness.run(silence))
        reader, writer = await agent.connect()
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
        clock.now = 1060
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
        await asyncio.sleep(0.05)
        assert silenced == [1060]
        assert (await agent.exchange(GET)).split()[1] == b"503", "the listeners stay"
        assert [sample(metrics, "aios_gateway_mute"), sample(metrics, "aios_gateway_mutes_total")] == [1, 1]
        freshness.renew(1120)
        assert sample(metrics, "aios_gateway_mute") == 0
        clock.now = 1120
        async with asyncio.timeout(60):
            while silenced != [1060, 1120]:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_a_mute_gateway_is_not_ready(clock):
    freshness = a_freshness(clock)
    operations = Operations(Metrics(), lambda: True, freshness.require)
    with pytest.raises(Problem) as refused:
        operations._readiness()
    assert refused.value.kind is ProblemKind.MUTE
    freshness.renew(1060)
    assert operations._readiness().status == 200


def sample(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name)

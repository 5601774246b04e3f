"""The SDK against the gateway's real handler, over real sockets."""

import asyncio
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import aios_sdk
from aios_api.agent import PlacedGPU
from aios_api.meta import Condition
from aios_sidecar.contracts.agents import AgentIdentity, AgentRecord, Share
from aios_sidecar.gateway.agents import Agents
from aios_sidecar.gateway.contexts.desk import Desk
from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.settings import Limits
from unit.gateway.outside import an_outside

WITH_GPU = AgentRecord(
    identity=AgentIdentity(namespace="team", name="coder", uid="6a9c", attempt=3),
    node="node-1",
    gpu=PlacedGPU(uuid="GPU-1", model="L4", memory="8Gi"),
    share=Share(memory_bytes=8 << 30, gpu_memory_bytes=24 << 30),
    conditions=(Condition(type="Fenced", status="True", reason="Fenced", message="m", last_transition_time="2026-01-01T00:00:00Z"),),
)
WITHOUT_GPU = AgentRecord(identity=AgentIdentity(namespace="team", name="coder", uid="6a9c", attempt=1), node="node-1")


class Gateway:
    """The handler in a thread of its own, so that the blocking client can be tried."""

    def __init__(self, directory: Path, desk: Desk | None = None) -> None:
        self.desk = desk
        self.path = directory / "agent.sock"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(self.path))
        unix.listen()
        loopback = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{loopback.getsockname()[1]}"
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.agents = self.call(self._serve({"socket": unix, "loopback": loopback}))

    async def _serve(self, listeners) -> Agents:
        metrics = Metrics()
        freshness = Freshness(3600, lambda: 0.0, metrics)
        freshness.renew(1)
        agents = Agents(Limits(), an_outside(metrics), metrics, freshness, self.desk)
        agents.serve("a", WITH_GPU, None, listeners)
        return agents

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def show(self, record: AgentRecord) -> None:
        async def update() -> None:
            self.agents.update("a", record, None)

        self.call(update())

    def end(self) -> None:
        self.call(self.agents.drain(1))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        gateway = Gateway(Path(directory))
        yield gateway
        gateway.end()


def ask(environment: dict[str, str], how: str) -> aios_sdk.Agent:
    if how == "sync":
        return aios_sdk.whoami(environment, timeout_seconds=5)
    return asyncio.run(aios_sdk.whoami_async(environment, timeout_seconds=5))


both_ways = pytest.mark.parametrize("how", ["sync", "async"])


@both_ways
@pytest.mark.parametrize("variable", ["AIOS_SOCKET", "AIOS_URL"])
def test_an_agent_learns_who_it_is(gateway, how, variable, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    environment = {variable: str(gateway.path) if variable == "AIOS_SOCKET" else gateway.url}
    assert ask(environment, how) == aios_sdk.Agent(
        identity=aios_sdk.Identity("team", "coder", "6a9c", 3),
        node="node-1",
        gpu=aios_sdk.GPU("GPU-1", "L4", "8Gi"),
        share=aios_sdk.Share(8 << 30, 24 << 30),
        conditions=(aios_sdk.Condition("Fenced", "True", "Fenced", "m", "2026-01-01T00:00:00Z"),),
    )


def test_an_agent_without_a_gpu_has_none(gateway):
    gateway.show(WITHOUT_GPU)
    me = ask({"AIOS_SOCKET": str(gateway.path)}, "sync")
    assert (me.gpu, me.share, me.conditions) == (None, None, ())


@both_ways
def test_outside_of_an_agent_it_says_so(how):
    with pytest.raises(aios_sdk.NotAnAgentError, match="neither AIOS_SOCKET nor AIOS_URL"):
        ask({}, how)


@both_ways
@pytest.mark.parametrize(
    "environment",
    [{"AIOS_SOCKET": "/nowhere/agent.sock"}, {"AIOS_URL": "http://127.0.0.1:1"}, {"AIOS_URL": "ftp://x"}, {"AIOS_URL": "http://[::1"}],
)
def test_an_endpoint_that_does_not_answer_is_named(how, environment):
    (variable, where), *_ = environment.items()
    with pytest.raises(aios_sdk.UnreachableError) as raised:
        ask(environment, how)
    assert where in str(raised.value)
    assert variable in str(raised.value)


@both_ways
def test_a_refusal_carries_its_reason_and_the_next_step(gateway, how):
    with pytest.raises(aios_sdk.RefusedError) as raised:
        ask({"AIOS_URL": gateway.url.replace("127.0.0.1", "127.1")}, how)
    assert (raised.value.status, raised.value.reason) == (403, "ForeignHost")
    assert "127.0.0.1:2489" in raised.value.next_step
    assert str(raised.value).startswith("ForeignHost (403): The Host is 127.1")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ([], "the answer must be an object, not list"),
        ({"node": "n", "conditions": []}, "identity must be an object, not NoneType"),
        (
            {"identity": {"namespace": "a", "name": "b", "uid": "c", "attempt": "1"}, "node": "n", "conditions": []},
            "identity.attempt must be a whole number",
        ),
        (
            {"identity": {"namespace": "a", "name": "b", "uid": "c", "attempt": 1}, "node": "n", "conditions": [{}]},
            r"conditions\[0\].type must be a string",
        ),
        ({"identity": {"namespace": "a", "name": "b", "uid": "c", "attempt": 1}, "node": "n"}, "conditions must be a list"),
    ],
)
def test_an_answer_that_is_not_of_the_endpoint_names_the_field(answer, complaint):
    with pytest.raises(aios_sdk.UnexpectedAnswerError, match=complaint):
        aios_sdk.Agent.from_answer(answer)


def test_what_a_later_version_adds_is_passed_over():
    answer = {"identity": {"namespace": "a", "name": "b", "uid": "c", "attempt": 1, "new": 1}, "node": "n", "conditions": [], "window": {}}
    assert aios_sdk.Agent.from_answer(answer).identity.name == "b"

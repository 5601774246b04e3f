"""An agent served over real sockets by the real handler, in this process."""

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aios_api.agent import PlacedGPU
from aios_api.egress import EgressPolicy
from aios_api.meta import Condition
from aios_sidecar.context.scoring.embeddings import StaticTable
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.contracts.agents import AgentIdentity, AgentRecord, Share
from aios_sidecar.contracts.link import ListenerKind
from aios_sidecar.gateway.agents import Agents
from aios_sidecar.gateway.contexts.desk import Desk
from aios_sidecar.gateway.egress.agent import AgentEgress, Outside
from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.settings import EgressLimits, Limits
from unit.gateway.outside import NOTHING, Names, Notes, a_policy, an_outside
from unit.gateway.talk import Talk

CLAIM = "0b8e2b1e-6d2f-4f0e-9a53-1d3c5b0c7a01"


def a_record(name: str = "coder") -> AgentRecord:
    return AgentRecord(
        identity=AgentIdentity(namespace="team", name=name, uid="6a9c", attempt=3),
        node="node-1",
        gpu=PlacedGPU(uuid="GPU-1", model="NVIDIA H100 80GB HBM3", memory="16Gi"),
        share=Share(memory_bytes=16 << 30, gpu_memory_bytes=80 << 30),
        conditions=(Condition(type="Fenced", status="True", reason="Fenced", message="", last_transition_time="2026-01-01T00:00:00Z"),),
    )


def listeners_in(directory: Path) -> dict[ListenerKind, socket.socket]:
    directory.mkdir(parents=True, exist_ok=True)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(directory / "agent.sock"))
    unix.listen(128)
    return {"socket": unix, "loopback": socket.create_server(("127.0.0.1", 0), backlog=128)}


def fresh(metrics: Metrics) -> Freshness:
    """Of a gateway that has just heard everything, on a clock that stands."""
    made = Freshness(60, lambda: 1000.0, metrics)
    made.renew(1060)
    return made


@dataclass
class Served:
    """An agent under test and how to reach it."""

    agents: Agents
    metrics: Metrics
    path: Path
    port: int

    async def connect(self, via: ListenerKind = "loopback") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if via == "socket":
            return await asyncio.open_unix_connection(str(self.path))
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, request: bytes, via: ListenerKind = "loopback") -> bytes:
        """All that comes back until the gateway closes the connection, after `request` and the end of the writing side."""
        reader, writer = await self.connect(via)
        try:
            writer.write(request)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()

    def count(self, route: str, code: int) -> float:
        return self.metrics.registry.get_sample_value("aios_gateway_requests_total", {"route": route, "code": str(code)}) or 0.0


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory of its own whose path leaves room for a socket's name (108 bytes in all)."""
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        yield Path(directory)


@pytest.fixture
def serving(short_path: Path) -> Serving:
    @asynccontextmanager
    async def serve(
        name: str = "coder",
        limits: Limits | None = None,
        agents: Agents | None = None,
        claim: str = CLAIM,
        freshness: Freshness | None = None,
        outside: Outside | None = None,
        policy: EgressPolicy | None = NOTHING,
    ) -> AsyncIterator[Served]:
        metrics = Metrics()
        agents = (
            agents
            if agents is not None
            else Agents(limits or Limits(), outside or an_outside(metrics), metrics, freshness or fresh(metrics))
        )
        listeners = listeners_in(short_path / claim)
        port = listeners["loopback"].getsockname()[1]
        agents.serve(claim, a_record(name), policy, listeners)
        try:
            yield Served(agents, metrics, short_path / claim / "agent.sock", port)
        finally:
            agents.stop(claim)
            await asyncio.sleep(0.01)

    return serve


@dataclass
class Proxied(Served):
    """An agent, and the world that it may reach some of."""

    names: Names
    audit: Notes

    def allow(self, *rules: str, audit: bool = False) -> None:
        """From now on its policy is this one."""
        (claim, served), *_ = self.agents
        self.agents.update(claim, served.record, a_policy(*rules, audit=audit))

    @property
    def egress(self) -> AgentEgress:
        (_, served), *_ = self.agents
        return served.egress

    async def ask(self, request: bytes, via: ListenerKind = "loopback") -> bytes:
        """The answer to one request over a connection that the client closes only afterwards."""
        reader, writer = await self.connect(via)
        try:
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
            return head + await reader.readexactly(length)
        finally:
            writer.close()

    def last(self, *fields: str) -> tuple[object, ...]:
        """Of the audit's newest line."""
        return tuple(self.audit.lines[-1][each] for each in fields)


Proxying = Callable[..., AbstractAsyncContextManager[Proxied]]


@pytest.fixture
def proxying(serving: Serving) -> Proxying:
    @asynccontextmanager
    async def serve(
        *rules: str, egress: EgressLimits | None = None, policy: EgressPolicy | None = NOTHING, **options: Any
    ) -> AsyncIterator[Proxied]:
        metrics, names, audit = Metrics(), Names(), Notes()
        outside = an_outside(metrics, names=names, audit=audit, limits=egress)
        async with serving(outside=outside, policy=a_policy(*rules) if rules else policy, **options) as served:
            yield Proxied(served.agents, metrics, served.path, served.port, names, audit)

    return serve


@contextmanager
def turns_of_the_loop() -> Iterator[list[int]]:
    """How many turns the event loop makes: in each of them everybody else may go on."""
    loop, made, ended = asyncio.get_running_loop(), [0], False

    def turn() -> None:
        made[0] += 1
        if not ended:
            loop.call_soon(turn)

    turn()
    yield made
    ended = True


@pytest.fixture
def talking(serving, tmp_path):
    @asynccontextmanager
    async def talk(limits: Limits | None = None, table: StaticTable | None = None):
        metrics = Metrics()
        desk = Desk(partial(SqliteStore, tmp_path / "contexts", observer=metrics.contexts), metrics.contexts, table=table)
        try:
            claim = f"{time.monotonic_ns():x}"
            async with serving(
                agents=Agents(limits or Limits(), an_outside(metrics), metrics, fresh(metrics), desk), claim=claim
            ) as served:
                yield Talk(served)
        finally:
            desk.close()

    return talk

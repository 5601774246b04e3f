"""Who is served: each agent with its record, its listeners and its connections."""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from aios_api.addresses import Internal
from aios_api.egress import EgressPolicy
from aios_sidecar.contracts.agents import AgentRecord
from aios_sidecar.contracts.link import ListenerKind
from aios_sidecar.gateway import routes
from aios_sidecar.gateway.contexts.desk import Desk
from aios_sidecar.gateway.egress.agent import AgentEgress, Outside
from aios_sidecar.gateway.egress.connect import Connect
from aios_sidecar.gateway.egress.forward import Forward
from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.http import Head, Response
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.server import Server
from aios_sidecar.gateway.settings import Limits


@dataclass(frozen=True, slots=True)
class AgentRoute:
    """A route on its way to an answer, for one agent."""

    name: str
    agent: "ServedAgent"
    head: Head
    to: routes.Answer

    @property
    def content_bytes(self) -> int:
        return self.to.content_bytes

    async def answer(self, content: bytes) -> Response:
        self.agent.require_fresh()  # again: it may have taken the request half a minute to arrive
        return await self.to.answer(routes.Call(self.agent.record, self.head, content, self.agent.context))


class ServedAgent:
    """One agent. What arrives at its listeners is this agent, whatever the request says."""

    def __init__(
        self, record: AgentRecord, limits: Limits, outside: Outside, desk: Desk | None, metrics: Metrics, freshness: Freshness
    ) -> None:
        self._record = record
        self.require_fresh = freshness.require
        self.egress = AgentEgress(outside, lambda: self.record.identity)
        self.server = Server(self, limits, partial(outside.turns, self.egress))
        self.context = desk.of(record.identity) if desk else None
        self.record = record
        self._limits = limits
        self._metrics = metrics
        self._held_bytes = 0
        self.listeners: Mapping[ListenerKind, socket.socket] = {}

    @property
    def record(self) -> AgentRecord:
        """What is known of the agent now. What it says of the context is in force from the next request on."""
        return self._record

    @record.setter
    def record(self, record: AgentRecord) -> None:
        self._record = record
        if self.context is not None:
            self.context.order(record.context)

    def listen_on(self, listeners: Mapping[ListenerKind, socket.socket]) -> None:
        """Be served on exactly these from now on."""
        self.listeners = dict(listeners)
        self.server.listen_on(listeners.items())

    def route(self, head: Head) -> AgentRoute | Connect | Forward:
        if routes.leaves_the_pod(head.method, head.target):
            try:
                self.require_fresh()
                return Connect(self.egress, head) if head.method == "CONNECT" else Forward(self.egress, head)
            except Problem as problem:
                self.egress.note_unread(head.method, head.target, problem)
                raise
        self.require_fresh()
        name, answer = routes.find(head)
        return AgentRoute(name, self, head, answer)

    def hold(self, content_bytes: int) -> None:
        if self._held_bytes + content_bytes > self._limits.held_bytes:
            detail = f"An agent's requests may have {self._limits.held_bytes} bytes of content under way at once."
            raise Problem(ProblemKind.TOO_MUCH_AT_ONCE, detail, {"Retry-After": "1"})
        self._held_bytes += content_bytes

    def unread(self, method: str, target: str, problem: Problem) -> None:
        if routes.leaves_the_pod(method, target):
            self.egress.note_unread(method, target, problem)

    def answered(self, route: str, status: int) -> None:
        self._metrics.answered(route, status)


class Agents:
    """All agents of this node, by the uid of their claim: the key that is never used twice."""

    def __init__(self, limits: Limits, outside: Outside, metrics: Metrics, freshness: Freshness, desk: Desk | None = None) -> None:
        self._limits = limits
        self._outside = outside
        self._desk = desk
        self._metrics = metrics
        self._freshness = freshness
        self._agents: dict[str, ServedAgent] = {}
        metrics.egress.watch(open_connections=lambda: sum(agent.egress.open for agent in self._agents.values()))
        metrics.watch(
            agents=lambda: len(self._agents), connections=lambda: sum(agent.server.connections for agent in self._agents.values())
        )

    def __iter__(self) -> Iterator[tuple[str, ServedAgent]]:
        return iter(list(self._agents.items()))

    def get(self, claim_uid: str) -> ServedAgent | None:
        return self._agents.get(claim_uid)

    def __len__(self) -> int:
        return len(self._agents)

    def serve(
        self, claim_uid: str, record: AgentRecord, policy: EgressPolicy | None, listeners: Mapping[ListenerKind, socket.socket]
    ) -> None:
        """Serve this agent on exactly `listeners`, which are ours from now on. The policy is in force before any of them answers."""
        agent = self._agents.get(claim_uid)
        if agent is None:
            agent = ServedAgent(record, self._limits, self._outside, self._desk, self._metrics, self._freshness)
            self._agents[claim_uid] = agent
        agent.record = record
        agent.egress.load(policy)
        agent.listen_on(listeners)

    def update(self, claim_uid: str, record: AgentRecord, policy: EgressPolicy | None) -> bool:
        """Show this record and have this policy in force from now on. False for one that is not served: its `serve` brings both anew."""
        agent = self._agents.get(claim_uid)
        if agent is None:
            return False
        agent.record = record
        agent.egress.load(policy)
        return True

    def stop(self, claim_uid: str) -> None:
        """End this agent's listeners and connections. Unknown ones have ended before."""
        agent = self._agents.pop(claim_uid, None)
        if agent is None:
            return
        agent.server.end()
        if agent.context is not None:
            agent.context.rest()

    def count_as_inside(self, internal: Internal) -> None:
        """This is inside from now on; nothing is open any more that leads there and is not named."""
        self._outside.internal = internal
        for agent in self._agents.values():
            agent.egress.load(agent.egress.policy)

    def cut(self) -> None:
        """End every connection of every agent at once; new ones are accepted."""
        for agent in self._agents.values():
            agent.server.cut()

    async def drain(self, seconds: float) -> None:
        """Let requests in progress end, for at most `seconds`; nothing is accepted any more."""
        await asyncio.gather(*(agent.server.drain(seconds) for agent in self._agents.values()))
        self._agents.clear()

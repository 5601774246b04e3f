"""A gateway in a process of its own behind the node agent's real link, with many agents; and the processes beside it."""

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aios_api.egress import NOTHING, EgressPolicy, PolicyBinding, PolicyRule
from aios_api.names import DRIVER
from aios_kube.events import EventRecorder
from aios_kube.fake import FakeCluster
from aios_sidecar.contracts.clock import machine_seconds
from aios_sidecar.node.heartbeat import Heartbeat
from aios_sidecar.node.link import GatewayLink
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.reclaim import Reclaim
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import ClaimState

NODE = "bench"
PATIENCE_SECONDS = 60


def a_policy(*rules: str, generation: int = 1) -> EgressPolicy:
    """Rules as `http://127.0.0.1:80`, by one binding."""
    made = []
    for number, rule in enumerate(rules):
        scheme, _, rest = rule.partition("://")
        where, _, port = rest.rpartition(":")
        fields = {"binding": "bench", "generation": generation, "rule": f"r{number}", "ports": (int(port),), "scheme": scheme}
        made.append(PolicyRule.model_validate({**fields, "cidr" if where[0].isdigit() else "host": where}))
    return EgressPolicy.of([PolicyBinding(name="bench", generation=generation, mode="Enforce")], made)


class House:
    """Agents are numbered; each has a port on loopback where the gateway takes it for that agent."""

    def __init__(self, directory: Path, agents: int, environment: Mapping[str, str] | None = None) -> None:
        """`environment` has further settings of the gateway."""
        self._environment = environment or {}
        self.settings = NodeSettings(NODE, run_dir=directory, gateway_uid=os.geteuid())
        self.claims = LiveClaims(lambda: datetime.now(UTC))
        self.ports: list[int] = []
        self._mirror = Mirror()
        self._version = 0
        self._agents = agents
        self._gateway: asyncio.subprocess.Process | None = None

    @property
    def worker_pid(self) -> int:
        assert self._gateway is not None
        return self._gateway.pid

    @asynccontextmanager
    async def open(self, policy: EgressPolicy | None, names: Mapping[str, Sequence[str]]) -> AsyncIterator["House"]:
        """The gateway serves every agent by this policy inside."""
        heartbeat = Heartbeat(self.settings, FakeCluster(), machine_seconds, lambda: datetime.now(UTC), machine_seconds)
        orders = Orders(self._mirror)
        leaving, cluster = Mirror(), FakeCluster()
        events = EventRecorder(cluster, DRIVER, NODE, lambda: datetime.now(UTC))
        reclaim = Reclaim(self.settings, cluster, orders, leaving, self.claims, events, Metrics(time.monotonic))
        moves = Moves(self.settings, orders, leaving)
        link = GatewayLink(self.settings, self.claims, orders, heartbeat, moves, reclaim, lambda: datetime.now(UTC))
        link.open()
        self._mirror.replace([self._order(number, policy) for number in range(self._agents)])
        for number in range(self._agents):
            live = self.claims.put(_state(number))
            listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.ports.append(listener.getsockname()[1])
            self.claims.give(live, "loopback", listener)
        environment = {
            "AIOS_GATEWAY_NODE_SOCKET": str(self.settings.gateway_socket),
            "AIOS_GATEWAY_NODE_UID": str(os.geteuid()),
            "AIOS_GATEWAY_METRICS_PORT": "0",
            "AIOS_GATEWAY_IDLE_SECONDS": "600",
            "AIOS_GATEWAY_AUDIT_FILE": str(self.settings.run_dir / "egress.jsonl"),
            **self._environment,
        }
        tasks = [asyncio.create_task(link.run()), asyncio.create_task(heartbeat.run())]
        try:
            self._gateway = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aios_bench.egress.worker", json.dumps(dict(names))), env={**os.environ, **environment}
            )
            try:
                await self.in_force(policy)
                yield self
            finally:
                self._gateway.terminate()
                await self._gateway.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for live in self.claims:
                self.claims.drop(live.state.claim_uid)

    async def load(self, policy: EgressPolicy | None, only: Sequence[int] | None = None) -> list[float]:
        """The orders of these agents (all, without `only`) say this policy: until the gateway has confirmed the last one. Seconds, each."""
        began = asyncio.get_running_loop().time()
        for number in range(self._agents) if only is None else only:
            self._mirror.upsert(self._order(number, policy))
        return [at - began for at in await self.in_force(policy, only)]

    async def in_force(self, policy: EgressPolicy | None, only: Sequence[int] | None = None) -> list[float]:
        """When the gateway said so of each, on the loop's clock."""
        digest = (policy or NOTHING).digest  # as the node agent says it of an order without one
        waiting = {_uid(number) for number in (range(self._agents) if only is None else only)}
        seen: list[float] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while waiting:
                change = self.claims.next_change()
                confirmed = {uid for uid in waiting if _confirmed(self.claims.get(uid), digest)}
                seen += [asyncio.get_running_loop().time()] * len(confirmed)
                waiting -= confirmed
                if waiting:
                    await change.wait()
        return seen

    def _order(self, number: int, policy: EgressPolicy | None) -> dict[str, Any]:
        self._version += 1
        spec: dict[str, Any] = {
            "agentUID": _uid(number),
            "attempt": 1,
            "templateDigest": "d",
            "nodeName": NODE,
            "claimName": f"agent-{number}-1",
            "podName": f"agent-{number}-1",
        }
        if policy is not None:
            spec["egress"] = policy.model_dump(by_alias=True, exclude_none=True, mode="json")
        metadata = {"namespace": "bench", "name": f"agent-{number}", "uid": _uid(number), "resourceVersion": str(self._version)}
        return {"metadata": metadata, "spec": spec}


def _uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def _confirmed(live: LiveClaim | None, digest: str) -> bool:
    return live is not None and "loopback" in live.facts.serving and live.egress is not None and live.egress.digest == digest


def _state(number: int) -> ClaimState:
    return ClaimState(
        claim_uid=_uid(number),
        claim_name=f"agent-{number}-1",
        namespace="bench",
        agent=f"agent-{number}",
        agent_uid=_uid(number),
        runtime_uid=_uid(number),
        attempt=1,
        pod_name=f"agent-{number}-1",
        devices=(),
    )


@asynccontextmanager
async def a_house(agents: int, policy: EgressPolicy | None, names: Mapping[str, Sequence[str]] | None = None) -> AsyncIterator[House]:
    """A house of so many agents, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        async with House(Path(directory), agents).open(policy, names or {}) as house:
            yield house


class Beside:
    """A process of `load.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, mode: str, **given: Any) -> "Beside":
        pipe = asyncio.subprocess.PIPE
        arguments = (sys.executable, "-m", "aios_bench.egress.load", mode, json.dumps(given))
        return cls(await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, limit=1 << 28))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def said(self, seconds: float = PATIENCE_SECONDS) -> Any:
        """Its next line. Raises RuntimeError when there is none in that time."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise RuntimeError(f"a process of the bench said nothing for {seconds:g} s") from None
        if not line:
            raise RuntimeError("a process of the bench ended without a word; its error is above")
        return json.loads(line)

    async def end(self) -> None:
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                async with asyncio.timeout(5):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


async def done(mode: str, **given: Any) -> Any:
    """What one process of `load.py` said before it ended."""
    process = await Beside.start(mode, **given)
    try:
        return await process.said()
    finally:
        await process.end()

"""`aiosctl bench start`: from `kubectl apply` of an Agent to Ready, and which step takes what, on a cluster with KubeAIOS.

Each moment is when a watch of this program saw the fact, so that one clock measures them all and the bench needs no
timestamps in the API: the order (`planned`), the pod bound by kube-scheduler (`scheduled`), the node agent's facts
Prepared (`prepared`) and Fenced (`hooked`), and the Agent's own Ready (`ready`).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from aios_api import names
from aios_bench.result import Options, Result, percentile
from aios_kube.client import KubeClient, connect
from aios_kube.errors import NotFound
from aios_kube.protocol import ClusterClient, Object, Selection
from aios_kube.reflector import Reflector
from aios_kube.resources import AGENT_RUNTIMES, AGENTS, NAMESPACES, PODS, Resource

SPACE = "aios-bench-start"
MANAGER = "aios-bench"
STEPS = ("planned", "scheduled", "prepared", "hooked", "ready")
TIMEOUT_SECONDS = 300
"""After that the bench gives up: it is bounded whatever the cluster does."""
REMOVAL_SECONDS = 60
"""The namespace is empty by then, and its controller takes seconds."""


@dataclass
class Moments:
    """When each Agent was first seen to have reached each step."""

    seen: dict[str, dict[str, float]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def mark(self, agent: str, step: str) -> None:
        if step not in self.seen.setdefault(agent, {}):
            self.seen[agent][step] = time.monotonic()
            self.changed.set()

    async def reached(self, agents: Iterable[str], step: str) -> None:
        waiting = set(agents)
        while waiting := {agent for agent in waiting if step not in self.seen.get(agent, {})}:
            self.changed.clear()
            await self.changed.wait()


@dataclass(frozen=True)
class Watcher:
    """A reflector's sink that notes which steps an object shows."""

    moments: Moments
    resource: Resource

    def replace(self, objects: list[Object]) -> None:
        for each in objects:
            self.upsert(each)

    def remove(self, obj: Object) -> None:
        if self.resource is AGENTS:
            self.moments.mark(obj["metadata"]["name"], "gone")

    def upsert(self, obj: Object) -> None:
        agent = obj["metadata"]["name"] if self.resource is not PODS else obj["metadata"].get("labels", {}).get(names.LABEL_AGENT)
        if agent is None:
            return
        true = {c["type"] for c in obj.get("status", {}).get("conditions", []) if c["status"] == "True"}
        if self.resource is AGENTS and "Ready" in true:
            self.moments.mark(agent, "ready")
        elif self.resource is PODS and obj["spec"].get("nodeName"):
            self.moments.mark(agent, "scheduled")
        elif self.resource is AGENT_RUNTIMES:
            self.moments.mark(agent, "planned")
            for condition, step in (("Prepared", "prepared"), ("Fenced", "hooked")):
                if condition in true:
                    self.moments.mark(agent, step)


def an_agent(name: str, image: str) -> Object:
    container = {
        "name": "agent",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    spec = {"gpu": {"memory": "1Gi"}, "template": {"spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}}
    return {"apiVersion": names.API_VERSION, "kind": "Agent", "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


async def apply(client: KubeClient, moments: Moments, image: str, agents: list[str]) -> None:
    """All of them are applied at once; each one's clock starts before its own request."""

    async def one(name: str) -> None:
        moments.mark(name, "applied")
        await client.create(AGENTS, an_agent(name, image), field_manager=MANAGER)

    await asyncio.gather(*(one(name) for name in agents))
    await moments.reached(agents, "ready")


async def remove(client: KubeClient, moments: Moments, agents: list[str]) -> None:
    for name in agents:
        await client.delete(AGENTS, name, SPACE)
    await moments.reached(agents, "gone")


@contextlib.asynccontextmanager
async def namespace(client: ClusterClient, poll_seconds: float = 0.5) -> AsyncIterator[None]:
    """The bench's own namespace inside; gone afterwards, so that the next run can begin. Raises AlreadyExists when another run has it."""
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}, field_manager=MANAGER)
    try:
        yield
    finally:
        with contextlib.suppress(NotFound):
            await client.delete(NAMESPACES, SPACE)
            async with asyncio.timeout(REMOVAL_SECONDS):
                while True:
                    await client.get(NAMESPACES, SPACE)
                    await asyncio.sleep(poll_seconds)


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def measure(options: Options) -> Result:
    image = "localhost/kubeaios/example:dev"
    count = 3 if options.quick else 20
    moments = Moments()
    client = await connect(options.kubeconfig, user_agent=MANAGER)
    watchers: list[asyncio.Task[None]] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        await stack.enter_async_context(namespace(client))
        stack.push_async_callback(end, watchers)
        for resource in (AGENTS, AGENT_RUNTIMES, PODS):
            reflector = Reflector(client, resource, Watcher(moments, resource), Selection(namespace=SPACE))
            watchers.append(asyncio.create_task(reflector.run()))
            await reflector.synced.wait()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await apply(client, moments, image, ["warm-up"])
            await remove(client, moments, ["warm-up"])
            one_by_one = [f"single-{number}" for number in range(count)]
            for name in one_by_one:
                await apply(client, moments, image, [name])
            await remove(client, moments, one_by_one)
            at_once = [f"burst-{number}" for number in range(count)]
            await apply(client, moments, image, at_once)
            await remove(client, moments, at_once)
    return summarise(moments, one_by_one, at_once)


def summarise(moments: Moments, one_by_one: list[str], at_once: list[str]) -> Result:
    figures: dict[str, float] = {"agents": len(one_by_one)}
    samples: dict[str, list[float]] = {}
    for prefix, agents in (("", one_by_one), ("burst_", at_once)):
        total = [moments.seen[a]["ready"] - moments.seen[a]["applied"] for a in agents]
        samples[f"{prefix}apply_to_ready_s"] = [round(value, 3) for value in total]
        figures[f"{prefix}apply_to_ready_p50_s"] = round(percentile(total, 50), 3)
        figures[f"{prefix}apply_to_ready_p95_s"] = round(percentile(total, 95), 3)
        before = "applied"
        for step in STEPS:
            # A step that was seen before the one that precedes it (two watches race) counts as taking no time.
            taken = [max(0.0, moments.seen[a][step] - moments.seen[a][before]) for a in agents]
            samples[f"{prefix}{step}_s"] = [round(value, 3) for value in taken]
            figures[f"{prefix}{step}_share_percent"] = round(100 * sum(taken) / sum(total), 1)
            before = step
    return Result(
        figures=figures,
        samples=samples,
        method=METHOD.format(count=len(one_by_one)),
    )


METHOD = (
    "{count} Agents with 1Gi of VRAM each, image present, after one warm-up: applied one after the other, each once the one before is "
    "Ready (apply_to_ready), then {count} at once (burst_apply_to_ready). Times are when this program's watches saw each fact; "
    "*_share_percent is the step's part of all the time from apply to Ready."
)


def bench(options: Options) -> Result:
    return asyncio.run(measure(options))

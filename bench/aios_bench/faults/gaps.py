"""How long each of our programs is missing when it is killed or replaced, on a running local cluster: decisions, answers, starts.

An Agent asks its own endpoint all the time, each time on a connection of its own. A call that waits for a gateway that is not there counts
as one that failed: for the Agent it is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aios_bench.result import percentile
from aios_bench.start import MANAGER, SPACE, Moments, Watcher, an_agent, end, namespace
from aios_kube import KubeClient, Object, Reflector, Selection, connect, resources
from aios_localcluster import ClusterSettings, LocalCluster
from aios_localcluster.kubeaios import NAMESPACE, kubectl

IMAGE = "localhost/kubeaios/example:dev"
OPERATORS = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")
PATIENCE_SECONDS = 90
SLOW_SECONDS = 0.1
"""A call that takes longer is told; one takes some milliseconds."""

CALLER = f"""
import http.client, json, os, time, urllib.parse
url = urllib.parse.urlsplit(os.environ["AIOS_URL"])
failed, since = 0, None
while True:
    began = time.time()
    call = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    try:
        call.request("GET", "/v1/agent")
        assert call.getresponse().status == 200
        since = since or began
        if failed or time.time() - since > {SLOW_SECONDS}:
            print(json.dumps([since, time.time(), failed]), flush=True)
        failed, since = 0, None
    except (OSError, AssertionError, http.client.HTTPException):
        failed, since = failed + 1, since or began
    finally:
        call.close()
    time.sleep(0.01)
"""


@dataclass
class Gaps:
    """Samples in seconds, and what was counted in all."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.seconds.setdefault(name, []).append(round(value, 2))

    def count(self, name: str, number: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def figures(self) -> dict[str, float]:
        return {f"{name}_s_p95": percentile(values, 95) for name, values in self.seconds.items()} | dict(self.counts)


class Ground:
    """A running local cluster with KubeAIOS, the bench's namespace in it, and an Agent that calls."""

    def __init__(self, cluster: LocalCluster, client: KubeClient, moments: Moments) -> None:
        self._cluster = cluster
        self._client = client
        self._moments = moments

    async def kubectl(self, *arguments: str) -> str:
        return await asyncio.to_thread(kubectl, self._cluster, *arguments)

    async def on_node(self, *argv: str) -> str:
        return await asyncio.to_thread(self._cluster.node_exec, argv)

    async def apply(self, name: str, **container: object) -> None:
        agent = an_agent(name, IMAGE)
        agent["spec"]["template"]["spec"]["containers"][0] |= container
        await self._client.create(resources.AGENTS, agent, field_manager=MANAGER)

    async def remove(self, *agents: str) -> None:
        for name in agents:
            await self._client.delete(resources.AGENTS, name, SPACE)
        await self._moments.reached(agents, "gone")

    async def reached(self, agent: str, step: str) -> float:
        """When, on the monotonic clock."""
        await self._moments.reached([agent], step)
        return self._moments.seen[agent][step]

    async def kill(self, program: str, identity: str | None = None) -> None:
        """kill -9 to the one process of that program on the node; of several operators, to the one with that identity."""
        listed = await self.on_node("ps", "-eo", "pid,args")
        found = [line.split()[0] for line in listed.splitlines() if re.search(rf"bin/{program}( |$)", line)]
        if identity is not None:
            found = [pid for pid in found if f"AIOS_IDENTITY={identity}\0" in await self.on_node("cat", f"/proc/{pid}/environ")]
        if len(found) != 1:
            raise RuntimeError(f"one process of {program} must run on the node, not {len(found)}")
        await self.on_node("kill", "-9", found[0])

    async def restarts(self, program: str) -> tuple[int, bool]:
        """How often its container was started again, and whether it is ready now."""
        pods = json.loads(await self.kubectl("-n", NAMESPACE, "get", "pods", "-l", f"app.kubernetes.io/component={program}", "-o", "json"))
        states = [status for pod in pods["items"] for status in pod["status"].get("containerStatuses", [])]
        return sum(state["restartCount"] for state in states), bool(states) and all(state["ready"] for state in states)

    async def back(self, program: str, before: int) -> None:
        await _until(lambda: self._is_back(program, before), f"the kubelet has started {program} again")

    async def _is_back(self, program: str, before: int) -> bool:
        restarts, ready = await self.restarts(program)
        return ready and restarts > before

    async def replaced(self, program: str) -> None:
        """A new pod of that DaemonSet is ready. The kubelet's back-off for what was killed in the old one is gone with it."""
        await self.kubectl("-n", NAMESPACE, "rollout", "restart", f"daemonset/{program}")
        await self.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{program}", f"--timeout={PATIENCE_SECONDS}s")

    async def calls_between(self, began: float, ended: float) -> tuple[float, int]:
        """Of the calls in that time, on the wall's clock: how long the Agent was without an answer at most, and how many failed."""
        told = [json.loads(line) for line in (await self.kubectl("-n", SPACE, "logs", "caller-1")).splitlines()]
        within = [(until - since, failed) for since, until, failed in told if since < ended and until > began]
        return max((gap for gap, _ in within), default=0.0), sum(failed for _, failed in within)


async def _until(probe: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS} s: {what}")
        await asyncio.sleep(0.2)


async def failover(ground: Ground, gaps: Gaps, number: int) -> None:
    """The deciding operator dies and its pod goes, as with its node: until the other one has given an order to an Agent applied then."""
    await ground.kubectl("wait", "pods", *OPERATORS, "--for=condition=Ready", f"--timeout={PATIENCE_SECONDS}s")
    first = await ground.kubectl("-n", NAMESPACE, "get", "lease", "aios-operator", "-o", "jsonpath={.spec.holderIdentity}")
    began = time.monotonic()
    await ground.kill("aios-operator", first)
    await ground.apply(f"led-{number}")
    await ground.kubectl("-n", NAMESPACE, "delete", "pod", first, "--grace-period=0", "--force", "--wait=false")
    gaps.add("failover", await ground.reached(f"led-{number}", "planned") - began)
    await ground.remove(f"led-{number}")


async def gateway(ground: Ground, gaps: Gaps, number: int) -> None:
    """The gateway is killed, and then its pod is replaced, as an upgrade does."""
    del number
    restarts, _ = await ground.restarts("gateway")
    began = time.time()
    await ground.kill("aios-gateway")
    await ground.back("gateway", restarts)
    await asyncio.sleep(1)
    killed = time.time()
    await ground.replaced("aios-gateway")
    await asyncio.sleep(1)
    for name, since, until in (("restart", began, killed), ("update", killed, time.time())):
        gap, failed = await ground.calls_between(since, until)
        gaps.add(f"gateway_{name}_gap", gap)
        gaps.count(f"gateway_{name}_failed_calls", failed)


async def node_agent(ground: Ground, gaps: Gaps, number: int) -> None:
    """The node agent is killed while an Agent starts, and then its pod is replaced; and what the Agent that calls notices of it."""
    restarts, _ = await ground.restarts("node")
    applied = time.monotonic()
    await ground.apply(f"usual-{number}")
    gaps.add("undisturbed_start", await ground.reached(f"usual-{number}", "ready") - applied)
    began = time.time(), time.monotonic()
    await ground.kill("aios-node")
    await ground.apply(f"new-{number}")
    gaps.add("node_agent_restart_gap", await ground.reached(f"new-{number}", "ready") - began[1])
    await ground.back("node", restarts)
    await ground.replaced("aios-node")
    gap, failed = await ground.calls_between(began[0], time.time())
    gaps.add("node_agent_restart_longest_call", gap)
    gaps.count("node_agent_restart_failed_calls", failed)
    await ground.remove(f"usual-{number}", f"new-{number}")


PARTS = {"failover": failover, "gateway": gateway, "node-agent": node_agent}


@contextlib.asynccontextmanager
async def on(cluster: LocalCluster) -> AsyncIterator[Ground]:
    """The ground, with the Agent that calls; nothing of it is left afterwards."""
    moments, watchers = Moments(), list[asyncio.Task[None]]()
    client = await connect(cluster.kubeconfig, user_agent=MANAGER)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        await stack.enter_async_context(namespace(client))
        stack.push_async_callback(end, watchers)
        for resource in (resources.AGENTS, resources.AGENT_RUNTIMES, resources.PODS):
            reflector = Reflector(client, resource, Watcher(moments, resource), Selection(namespace=SPACE))
            watchers.append(asyncio.create_task(reflector.run()))
            await reflector.synced.wait()
        ground = Ground(cluster, client, moments)
        await ground.apply("caller", command=["python3", "-c", CALLER])
        await ground.reached("caller", "ready")
        yield ground
        pods = json.loads(await ground.kubectl("-n", SPACE, "get", "pod", "caller-1", "-o", "json"))
        if disturbed := _restarts(pods):
            raise RuntimeError(f"the Agent that calls must run on whatever is killed; it was started again {disturbed} times")
        await ground.remove("caller")


def _restarts(pod: Object) -> int:
    return sum(int(status["restartCount"]) for status in pod["status"]["containerStatuses"])


async def measure(cluster: LocalCluster, parts: list[str], rounds: int) -> Gaps:
    gaps = Gaps()
    async with on(cluster) as ground:
        for part in parts:
            for number in range(rounds):
                async with asyncio.timeout(2 * PATIENCE_SECONDS):
                    await PARTS[part](ground, gaps, number)
    return gaps


def running(kubeconfig: Path) -> LocalCluster | None:
    """The local cluster of that kubeconfig, when there is one with a node, and runs."""
    folder = kubeconfig.absolute().parent
    cluster = LocalCluster(ClusterSettings(name=folder.name, state_root=folder.parent)) if folder.name else None
    if cluster is None or not cluster.layout.marker.exists() or not cluster.is_running:
        return None
    return cluster if "kubelet" in {each["name"] for each in cluster.status()} else None

"""A running local cluster with KubeAIOS, on which programs are killed and Agents come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aios_bench.start import MANAGER, SPACE, Moments, Watcher, end, namespace
from aios_kube import KubeClient, Object, Reflector, Selection, connect, resources
from aios_localcluster import ClusterSettings, LocalCluster
from aios_localcluster.kubeaios import NAMESPACE, kubectl

IMAGE = "localhost/kubeaios/example:dev"
OPERATORS = ("-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")
PATIENCE_SECONDS = 90


class Ground:
    """The cluster, and the bench's namespace in it."""

    def __init__(self, cluster: LocalCluster, client: KubeClient, moments: Moments) -> None:
        self.cluster = cluster
        self.client = client
        self.moments = moments

    async def kubectl(self, *arguments: str) -> str:
        return await asyncio.to_thread(kubectl, self.cluster, *arguments)

    async def on_node(self, *argv: str) -> str:
        return await asyncio.to_thread(self.cluster.node_exec, argv)

    async def leader(self) -> str:
        """The pod of the operator that decides, once both are ready."""
        await self.kubectl("wait", "pods", *OPERATORS, "--for=condition=Ready", f"--timeout={PATIENCE_SECONDS}s")
        return await self.kubectl("-n", NAMESPACE, "get", "lease", "aios-operator", "-o", "jsonpath={.spec.holderIdentity}")

    async def apply(self, agent: Object) -> None:
        await self.client.create(resources.AGENTS, agent, field_manager=MANAGER)

    async def remove(self, *agents: str) -> None:
        for name in agents:
            await self.client.delete(resources.AGENTS, name, SPACE)
        await self.moments.reached(agents, "gone")

    async def reached(self, agent: str, step: str) -> float:
        """When, on the monotonic clock."""
        await self.moments.reached([agent], step)
        return self.moments.seen[agent][step]

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


async def _until(probe: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await probe():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_SECONDS} s: {what}")
        await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def on(cluster: LocalCluster) -> AsyncIterator[Ground]:
    """The ground, in a namespace that is gone afterwards."""
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
        yield Ground(cluster, client, moments)


def running(kubeconfig: Path) -> LocalCluster | None:
    """The local cluster of that kubeconfig, when there is one with a node, and runs."""
    folder = kubeconfig.absolute().parent
    cluster = LocalCluster(ClusterSettings(name=folder.name, state_root=folder.parent)) if folder.name else None
    if cluster is None or not cluster.layout.marker.exists() or not cluster.is_running:
        return None
    return cluster if "kubelet" in {each["name"] for each in cluster.status()} else None

"""`aiosctl bench binding`: a ToolBinding changes for many Agents at once: how soon each one's order says so, at rest and while others come.

The way from there to the packet (node agent, gateway) is in `aiosctl bench egress`. Cluster, nodes and operator are those of `bench burst`.
"""

import asyncio
import time
from collections.abc import Iterable

from aios_api import names
from aios_bench.burst import SPACE, TIMEOUT_SECONDS, a_cluster, an_agent, apply
from aios_bench.operating import Operator
from aios_bench.result import Options, Result, percentile
from aios_bench.start import MANAGER, Moments, Watcher
from aios_kube import KubeClient, Object, Reflector, Selection, connect, resources
from aios_localcluster import LocalCluster

NAME = "bench"
ROUNDS = 5
INTO_THE_BURST_SECONDS = 1.0
"""From the first of those that come to the removal: by then many are being placed."""


class Orders:
    """A reflector's sink: the hosts that each Agent's order lets it reach."""

    def __init__(self) -> None:
        self.hosts: dict[str, frozenset[str]] = {}
        self._changed = asyncio.Event()

    def replace(self, objects: list[Object]) -> None:
        for each in objects:
            self.upsert(each)

    def remove(self, obj: Object) -> None:
        self.hosts.pop(obj["metadata"]["name"], None)

    def upsert(self, obj: Object) -> None:
        rules = (obj["spec"].get("egress") or {}).get("rules") or ()
        self.hosts[obj["metadata"]["name"]] = frozenset(rule["host"] for rule in rules)
        self._changed.set()

    async def until(self, agents: Iterable[str], hosts: frozenset[str], began: float) -> list[float]:
        """For each of these Agents the seconds from `began` until its order let it reach exactly these hosts."""
        waiting, seconds = set(agents), []
        while waiting:
            self._changed.clear()
            there = {agent for agent in waiting if self.hosts.get(agent) == hosts}
            seconds += [time.monotonic() - began] * len(there)
            waiting -= there
            if waiting:
                await self._changed.wait()
        return seconds


def a_binding(host: str) -> Object:
    """Selects every Agent of the bench."""
    spec = {"agentSelector": {"matchLabels": {"bench": "binding"}}, "egress": [{"name": "host", "host": host}]}
    return {"apiVersion": names.API_VERSION, "kind": "ToolBinding", "metadata": {"name": NAME, "namespace": SPACE}, "spec": spec}


def _labelled(name: str) -> Object:
    body = an_agent(name)
    return {**body, "metadata": {**body["metadata"], "labels": {"bench": "binding"}}}


async def changes(
    client: KubeClient, operator: Operator, orders: Orders, agents: list[str], late: list[str]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The Agents have orders and the operator is at rest."""
    before, changed, removed = await operator.quiet(), [], []
    for number in range(ROUNDS):
        host, began = f"host-{number}.example.com", time.monotonic()
        if number == 0:
            await client.create(resources.TOOL_BINDINGS, a_binding(host), field_manager=MANAGER)
        else:
            part = {"spec": a_binding(host)["spec"]}
            await client.patch(resources.TOOL_BINDINGS, NAME, part, namespace=SPACE, field_manager=MANAGER)
        changed += await orders.until(agents, frozenset({host}), began)
    writes = await operator.quiet() - before
    began = time.monotonic()
    await client.delete(resources.TOOL_BINDINGS, NAME, SPACE)
    removed = await orders.until(agents, frozenset(), began)
    await client.create(resources.TOOL_BINDINGS, a_binding("last.example.com"), field_manager=MANAGER)
    await orders.until(agents, frozenset({"last.example.com"}), time.monotonic())
    await operator.quiet()
    coming = asyncio.create_task(apply(client, Moments(), late))
    await asyncio.sleep(INTO_THE_BURST_SECONDS)
    began = time.monotonic()
    await client.delete(resources.TOOL_BINDINGS, NAME, SPACE)
    busy = await orders.until(agents, frozenset(), began)
    await coming
    samples = {"change_s": changed, "removal_s": removed, "removal_in_a_burst_s": busy}
    figures = {f"{name.removesuffix('_s')}_p{p}_s": round(percentile(each, p), 2) for name, each in samples.items() for p in (50, 95, 100)}
    figures["api_writes_per_agent_and_change"] = round(writes / ROUNDS / len(agents), 2)
    return figures, {name: [round(value, 3) for value in each] for name, each in samples.items()}


async def measure(cluster: LocalCluster, agents: list[str], late: list[str]) -> tuple[dict[str, float], dict[str, list[float]]]:
    moments, orders, watchers = Moments(), Orders(), []
    client = await connect(cluster.kubeconfig, user_agent=MANAGER)
    operator = Operator.start(cluster.kubeconfig, cluster.layout.log("operator"))
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            for resource, sink in ((resources.AGENTS, Watcher(moments, resources.AGENTS)), (resources.AGENT_RUNTIMES, orders)):
                reflector = Reflector(client, resource, sink, Selection(namespace=SPACE))
                watchers.append(asyncio.create_task(reflector.run()))
                await reflector.synced.wait()
            await operator.ready()
            await asyncio.gather(*(client.create(resources.AGENTS, _labelled(name), field_manager=MANAGER) for name in agents))
            await moments.reached(agents, "ready")
            return await changes(client, operator, orders, agents, late)
    finally:
        operator.stop()
        for task in watchers:
            task.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await client.close()


METHOD = (
    "{agents} Agents that run on {nodes} simulated nodes, all selected by one ToolBinding. change_*: it is changed {rounds} times. "
    "removal_*: it is deleted. removal_in_a_burst_*: it is deleted {into:g} s after {late} more Agents began to be applied at once. Each "
    "sample is from the request until a watch of this program has seen an Agent's order say so. api_writes_per_agent_and_change counts "
    "every changing request of the operator during the changes. Control plane, kube-scheduler, KWOK, operator and this program share the "
    "machine."
)


def bench(options: Options) -> Result:
    count, nodes = (20, 3) if options.quick else (options.agents, options.kwok_nodes)
    agents, late = [f"agent-{number}" for number in range(count)], [f"late-{number}" for number in range(count // 2)]
    with a_cluster(nodes) as cluster:
        figures, samples = asyncio.run(measure(cluster, agents, late))
    method = METHOD.format(agents=count, nodes=nodes, rounds=ROUNDS, into=INTO_THE_BURST_SECONDS, late=len(late))
    return Result(figures={"agents": count, "kwok_nodes": nodes, **figures}, samples=samples, method=method)

"""`aiosctl bench burst`: many Agents at once on simulated nodes: how soon they have places, what it costs operator and API.

It has a local cluster of its own for the time that it takes: a real control plane, kube-scheduler included, and nodes that KWOK and
`aios_localcluster.simulation` play. The operator is a process beside it, so that its memory and its requests can be read.
"""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator

from aios_api import names
from aios_bench.operating import Operator, cpu_seconds
from aios_bench.result import Options, Result, percentile
from aios_bench.start import MANAGER, Moments, Watcher
from aios_kube import KubeClient, Object, Reflector, Selection, connect, resources
from aios_localcluster import ClusterSettings, LocalCluster, build, simulation
from aios_localcluster.kubeaios import CHART, ROOT, helm, kubectl
from aios_localcluster.settings import CONTROL_PLANE

CLUSTER = "bench-burst"
SPACE = "aios-bench-burst"
CREATORS = 32
TIMEOUT_SECONDS = 600
REST_SECONDS = 20
"""How long the operator is watched at rest: sweeps every 3 s and audits every 5 s, after it has listed everything anew."""


def an_agent(name: str) -> Object:
    container = {"name": "agent", "image": "localhost/kubeaios/example:dev", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}
    template = {"spec": {"tolerations": [simulation.TOLERATION], "containers": [container]}}
    spec = {"gpu": {"memory": "8Gi"}, "template": template}
    return {"apiVersion": names.API_VERSION, "kind": "Agent", "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


async def apply(client: KubeClient, moments: Moments, agents: list[str]) -> None:
    """All of them are asked for as fast as some connections carry it."""
    slots = asyncio.Semaphore(CREATORS)

    async def one(name: str) -> None:
        async with slots:
            moments.mark(name, "applied")
            await client.create(resources.AGENTS, an_agent(name), field_manager=MANAGER)
            moments.mark(name, "created")

    await asyncio.gather(*(one(name) for name in agents))


@contextlib.contextmanager
def a_cluster(kwok_nodes: int) -> Iterator[LocalCluster]:
    """A control plane with simulated nodes, our APIs and device classes."""
    settings = ClusterSettings(name=CLUSTER, components=CONTROL_PLANE, kwok_nodes=kwok_nodes)
    build.build("helm", settings.cache)
    with LocalCluster(settings) as cluster:
        kubectl(cluster, "apply", "--server-side", "-f", str(ROOT / "crds"))
        classes = helm(cluster, "template", "kubeaios", str(CHART), "--show-only", "templates/deviceclasses.yaml")
        kubectl(cluster, "apply", "-f", "-", stdin=classes)
        while len(kubectl(cluster, "get", "resourceslices", "-o", "name").splitlines()) < kwok_nodes:
            time.sleep(0.5)
        kubectl(cluster, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
        kubectl(cluster, "create", "namespace", SPACE)
        yield cluster


async def burst(cluster: LocalCluster, agents: list[str]) -> tuple[dict[str, float], dict[str, list[float]]]:
    log, moments = cluster.layout.log("operator"), Moments()
    client = await connect(cluster.kubeconfig, user_agent=MANAGER)
    operator = Operator.start(cluster.kubeconfig, log)
    watchers = []
    try:
        for resource in (resources.AGENTS, resources.AGENT_RUNTIMES, resources.PODS):
            reflector = Reflector(client, resource, Watcher(moments, resource), Selection(namespace=SPACE))
            watchers.append(asyncio.create_task(reflector.run()))
            await reflector.synced.wait()
        await operator.ready()
        before, began = await operator.quiet(), time.monotonic()
        measured = (cluster.layout.identity, operator.process.pid, os.getpid())
        cpu = cpu_seconds(*measured)
        await apply(client, moments, agents)
        for step in ("planned", "scheduled"):
            await moments.reached(agents, step)
        cpu = cpu_seconds(*measured) - cpu
        await moments.reached(agents, "ready")
        figures = {
            f"seconds_to_{name}": round(max(moments.seen[agent][step] for agent in agents) - began, 2)
            for name, step in (("created", "created"), ("planned", "planned"), ("bound", "scheduled"), ("ready", "ready"))
        }
        writes = await operator.quiet() - before
        figures |= {
            "cpu_seconds_to_bound": round(cpu, 1),
            "api_writes_per_agent": round(writes / len(agents), 2),
            "operator_rss_mib": operator.memory_mib("VmRSS"),
            "operator_peak_rss_mib": operator.memory_mib("VmHWM"),
        }
        operator.stop()
        operator = Operator.start(cluster.kubeconfig, log, AIOS_SWEEP_SECONDS="3", AIOS_AUDIT_SECONDS="5")
        await operator.ready()
        await asyncio.sleep(REST_SECONDS)
        figures["writes_at_rest"] = operator.writes()
        operator.stop()
        await client.create(resources.AGENTS, an_agent("latecomer"), field_manager=MANAGER)
        operator = Operator.start(cluster.kubeconfig, log)
        await moments.reached(["latecomer"], "planned")
        figures["seconds_to_first_decision"] = round(moments.seen["latecomer"]["planned"] - operator.began, 2)
    finally:
        operator.stop()
        for task in watchers:
            task.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await client.close()
    each = [moments.seen[agent]["scheduled"] - moments.seen[agent]["applied"] for agent in agents]
    figures |= {f"apply_to_bound_p{percent}_s": round(percentile(each, percent), 2) for percent in (50, 95)}
    return figures, {"apply_to_bound_s": [round(value, 3) for value in each]}


async def measure(cluster: LocalCluster, agents: list[str]) -> tuple[dict[str, float], dict[str, list[float]]]:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await burst(cluster, agents)


METHOD = (
    "{agents} Agents with 8Gi of VRAM each, applied at once over 32 connections on {nodes} simulated nodes of 8 GPUs; control plane, "
    "kube-scheduler, KWOK, operator and this program share the machine. seconds_to_* run from the first request until a watch of this "
    "program has seen the step of the last Agent. cpu_seconds_to_bound is what all of these programs used of the CPUs until then: half "
    "of it is the least that two cores take. api_writes_per_agent counts every changing request of the operator, events included. "
    "writes_at_rest: the operator starts anew with all Agents present, lists everything, and sweeps every 3 s and "
    "audits every 5 s for {rest} s. "
    "seconds_to_first_decision: from the start of the process, all Agents present, to the order of one more that was applied "
    "while no operator ran. Figures are medians of {runs}, each on a cluster of its own; samples have every run, with "
    "the machine's load (1 min) before and after it."
)


def bench(options: Options) -> Result:
    count, nodes = (20, 3) if options.quick else (options.agents, options.kwok_nodes)
    agents = [f"agent-{number}" for number in range(count)]
    samples: dict[str, list[float]] = {}
    for number in range(1, options.runs + 1):
        load = os.getloadavg()[0]
        with a_cluster(nodes) as cluster:
            figures, each = asyncio.run(measure(cluster, agents))
        for name, value in (("load_before", load), *figures.items(), ("load_after", os.getloadavg()[0])):
            samples.setdefault(name, []).append(round(value, 2))
        samples |= {f"{name}_of_run_{number}": values for name, values in each.items()}
        if options.runs > 1:
            print(f"run {number} of {options.runs}: bound after {figures['seconds_to_bound']:g} s", flush=True)
    runs = f"{options.runs} runs" if options.runs > 1 else "one run"
    return Result(
        figures={
            "agents": count,
            "kwok_nodes": nodes,
            "runs": options.runs,
            **{name: statistics.median(samples[name]) for name in figures},
        },
        samples=samples,
        method=METHOD.format(agents=count, nodes=nodes, rest=REST_SECONDS, runs=runs),
    )

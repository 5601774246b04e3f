"""`aiosctl bench burst`: many Agents at once on simulated nodes: how soon they have places, what it costs operator and API.

It has a local cluster of its own for the time that it takes: a real control plane, kube-scheduler included, and nodes that KWOK and
`aios_localcluster.simulation` play. The operator is a process beside it, so that its memory and its requests can be read.
"""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aios_api
import aios_kube
import aios_operator
from aios_api import names
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
QUIET_SECONDS = 5
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Operator:
    """The operator as a process: what it says of itself, and what the kernel does."""

    process: subprocess.Popen[bytes]
    port: int
    began: float

    @classmethod
    def start(cls, kubeconfig: Path, log: Path, **more: str) -> "Operator":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        sources = [str(Path(str(package.__file__)).parents[1].resolve()) for package in (aios_api, aios_kube, aios_operator)]
        settings = {"AIOS_HTTP_HOST": "127.0.0.1", "AIOS_HTTP_PORT": str(port), "PYTHONPATH": ":".join(sources), **more}
        began = time.monotonic()
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "aios_operator.main", "--kubeconfig", str(kubeconfig), "run"],
                env={**os.environ, **settings},
                stdout=output,
                stderr=output,
            )
        return cls(process, port, began)

    def get(self, path: str) -> str:
        with OPENER.open(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read()).decode()

    async def ready(self) -> None:
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the operator ended with {self.process.returncode}")
            with contextlib.suppress(OSError):
                self.get("/readyz")
                return
            await asyncio.sleep(0.1)

    def writes(self) -> int:
        """Requests so far that change something, events included."""
        counted = re.findall(r'^aios_operator_api_requests_total\{code="\d+",verb="(\w+)"\} (\S+)$', self.get("/metrics"), re.MULTILINE)
        return sum(int(float(number)) for verb, number in counted if verb not in ("get", "list", "watch"))

    def memory_mib(self, line: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(re.findall(rf"^{line}:\s+(\d+) kB", status, re.MULTILINE)[0]) / 1024, 1)

    async def quiet(self) -> int:
        """All its writes, once none was added for a while."""
        while True:
            before = self.writes()
            await asyncio.sleep(QUIET_SECONDS)
            if self.writes() == before:
                return before

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


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
        await apply(client, moments, agents)
        for step in ("planned", "scheduled", "ready"):
            await moments.reached(agents, step)
        figures = {
            f"seconds_to_{name}": round(max(moments.seen[agent][step] for agent in agents) - began, 2)
            for name, step in (("created", "created"), ("planned", "planned"), ("bound", "scheduled"), ("ready", "ready"))
        }
        writes = await operator.quiet() - before
        figures |= {
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
        figures["seconds_from_start_to_first_decision"] = round(moments.seen["latecomer"]["planned"] - operator.began, 2)
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
    "program has seen the step of the last Agent. api_writes_per_agent counts every changing request of the operator, events included. "
    "writes_at_rest: the operator starts anew with all Agents present, lists everything, and sweeps every 3 s and "
    "audits every 5 s for {rest} s. "
    "seconds_from_start_to_first_decision: from the start of the process, all Agents present, to the order of one more that was applied "
    "while no operator ran."
)


def bench(options: Options) -> Result:
    count, nodes = (20, 3) if options.quick else (options.agents, options.kwok_nodes)
    with a_cluster(nodes) as cluster:
        figures, samples = asyncio.run(measure(cluster, [f"agent-{number}" for number in range(count)]))
    return Result(
        figures={"agents": count, "kwok_nodes": nodes, **figures},
        samples=samples,
        method=METHOD.format(agents=count, nodes=nodes, rest=REST_SECONDS),
    )

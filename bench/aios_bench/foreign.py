"""`aiosctl bench foreign`: what pods of others cost the operator in memory.

A cluster of its own with a real API server and Nodes without a kubelet. Pods are bound by whoever creates them, so none needs a scheduler.
"""

import asyncio
import time

from aios_bench.operating import Operator
from aios_bench.result import Options, Result
from aios_bench.start import MANAGER
from aios_kube import KubeClient, Object, connect, resources
from aios_kube.errors import NotFound
from aios_localcluster import API_ONLY, ClusterSettings, LocalCluster
from aios_localcluster.kubeaios import ROOT, kubectl

CLUSTER = "bench-foreign"
SPACE = "others"
NODES = 100
CREATORS = 32
TIMEOUT_SECONDS = 900
COUNT_SECONDS = 2
"""Between two counts of foreign pods: much oftener than the default, so that what repeated counts leave behind shows."""
COUNTS = 2


def a_node(number: int) -> Object:
    return {"metadata": {"name": f"node-{number}"}, "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "500"}}}


def a_pod(number: int) -> Object:
    """Of the size that pods in clusters have: with its status and what the server adds about 5 KB."""
    container = {
        "image": "registry.example.com/team/service@sha256:" + "0" * 64,
        "env": [{"name": f"SETTING_{index}", "value": "something of usual length"} for index in range(15)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
    }
    labels = {"app.kubernetes.io/name": "service", "app.kubernetes.io/instance": f"service-{number % 50}"}
    containers = [{"name": name, **container} for name in ("service", "proxy")]
    spec = {"nodeName": f"node-{number % NODES}", "containers": containers}
    return {"metadata": {"name": f"service-{number}", "namespace": SPACE, "labels": labels}, "spec": spec}


async def create_all(client: KubeClient, pods: int) -> None:
    numbers = iter(range(pods))

    async def some() -> None:
        for number in numbers:
            await client.create(resources.PODS, a_pod(number), field_manager=MANAGER)

    await asyncio.gather(*(some() for _ in range(CREATORS)))


async def counted(operator: Operator, pages: int) -> None:
    """The operator has listed so many pages more."""
    before = operator.requests().get("list", 0)
    while True:
        if operator.requests().get("list", 0) >= before + pages:
            return
        await asyncio.sleep(1)


async def measure(cluster: LocalCluster, pods: int) -> dict[str, float]:
    client = await connect(cluster.kubeconfig, user_agent=MANAGER)
    operator = Operator.start(cluster.kubeconfig, cluster.layout.log("operator"), AIOS_FOREIGN_SECONDS=str(COUNT_SECONDS))
    try:
        await _until_there(client)
        for number in range(NODES):
            await client.create(resources.NODES, a_node(number), field_manager=MANAGER)
        await operator.ready()
        await counted(operator, 20)
        before, peak_before, began = operator.memory_mib("VmRSS"), operator.memory_mib("VmHWM"), time.monotonic()
        await create_all(client, pods)
        created = time.monotonic() - began
        size = len(str(await client.get(resources.PODS, "service-0", SPACE)))
        await counted(operator, COUNTS * -(-pods // 50))
        after, peak_after = operator.memory_mib("VmRSS"), operator.memory_mib("VmHWM")
    finally:
        operator.stop()
        await client.close()
    return {
        "operator_rss_mib_without": before,
        "operator_rss_mib_with": after,
        "operator_rss_mib_more": round(after - before, 1),
        "operator_peak_rss_mib_more": round(peak_after - peak_before, 1),
        "bytes_per_pod": size,
        "seconds_to_create": round(created, 1),
    }


async def _until_there(client: KubeClient) -> None:
    """The namespace has its service account, without which no pod may be created."""
    accounts = resources.Resource("", "v1", "ServiceAccount", "serviceaccounts")
    while True:
        try:
            await client.get(accounts, "default", SPACE)
            return
        except NotFound:
            await asyncio.sleep(0.1)


METHOD = (
    "{pods} pods of others, bound to {nodes} Nodes of a real API server; no kubelet, no Agents. The operator counts them every {every} s. "
    "Its resident memory before the first of them is there, and after it has counted all of them {counts} times; peak is VmHWM."
)


def bench(options: Options) -> Result:
    pods = 500 if options.quick else options.pods
    with LocalCluster(ClusterSettings(name=CLUSTER, components=API_ONLY)) as cluster:
        kubectl(cluster, "apply", "--server-side", "-f", str(ROOT / "crds"))
        kubectl(cluster, "create", "namespace", SPACE)
        figures = asyncio.run(asyncio.wait_for(measure(cluster, pods), TIMEOUT_SECONDS))
    method = METHOD.format(pods=pods, nodes=NODES, every=COUNT_SECONDS, counts=COUNTS)
    return Result(figures={"pods": pods, "nodes": NODES, **figures}, method=method)

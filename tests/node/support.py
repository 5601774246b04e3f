"""A node to test on: a cluster in memory, real sockets, network namespaces that stand for pods, and the hook as the runtime calls it."""

import asyncio
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from aios_api import names
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, NODES, RESOURCE_CLAIMS
from aios_sidecar.contracts.gpus import GPU, InventoryReport
from aios_sidecar.contracts.worker import Booked, WorkerMessage, Workers
from aios_sidecar.gateway.main import serve
from aios_sidecar.gateway.settings import Settings
from aios_sidecar.node._proto import dra_pb2, dra_pb2_grpc
from aios_sidecar.node.agent import NodeAgent
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.vram.calibration import Calibration
from aios_sidecar.vram.settings import VramSettings
from aios_sidecar.vram.supervisor import Supervisor

Object = dict[str, Any]

NODE = "node-a"
NAMESPACE = "team"
GPU_A = GPU(uuid="GPU-aaaaaaaa-0000-4000-8000-000000000001", model="Fake H100", index=0, memory_mib=81920, fake=True)
HTTP_HOST = "127.0.0.1"
NATIVE = Path(__file__).parents[2] / "sidecar" / "native"


def uid(number: int) -> str:
    return f"11111111-0000-4000-8000-{number:012d}"


CLAIM_UID, RUNTIME_UID, POD_UID, AGENT_UID = uid(1), uid(2), uid(3), uid(4)


class FixedInventory:
    """GPUs as a test says; `report` may be changed while it is read."""

    def __init__(self, *gpus: GPU) -> None:
        self.report = InventoryReport(gpus=gpus)

    async def read(self) -> InventoryReport:
        return self.report

    async def close(self) -> None:
        return


class Silent:
    """Workers of which nothing is heard."""

    async def run(self, hear: Callable[[str, WorkerMessage], None]) -> None:
        await asyncio.Event().wait()

    def book(self, booked: dict[str, Booked]) -> None:
        return


def a_runtime(agent: str = "agent", attempt: int = 1, gpu: GPU | None = GPU_A, memory: str = "10Gi", **spec: Any) -> Object:
    order: Object = {
        "agentUID": AGENT_UID,
        "attempt": attempt,
        "templateDigest": "d1",
        "nodeName": NODE,
        "claimName": f"{agent}-{attempt}",
        "podName": f"{agent}-{attempt}",
    }
    if gpu is not None:
        order["gpu"] = {"uuid": gpu.uuid, "model": gpu.model, "memory": memory}
    return {"metadata": {"namespace": NAMESPACE, "name": agent, "uid": RUNTIME_UID}, "spec": {**order, **spec}}


def a_claim(
    agent: str = "agent",
    attempt: int = 1,
    gpu: GPU | None = GPU_A,
    memory: str = "10Gi",
    allocated: bool = True,
    claim_uid: str = CLAIM_UID,
    pod_uid: str = POD_UID,
) -> Object:
    device = {"driver": names.DRIVER, "pool": NODE}
    results: list[Object] = [{**device, "request": "runtime", "device": "runtime", "shareID": uid(90), "consumedCapacity": {"slots": "1"}}]
    if gpu is not None:
        name = f"gpu-{gpu.uuid.removeprefix('GPU-')}"
        results.append({**device, "request": "gpu", "device": name, "shareID": uid(91), "consumedCapacity": {"memory": memory}})
    owner = {"apiVersion": names.API_VERSION, "kind": "AgentRuntime", "name": agent, "uid": RUNTIME_UID, "controller": True}
    claim: Object = {
        "metadata": {"namespace": NAMESPACE, "name": f"{agent}-{attempt}", "uid": claim_uid, "ownerReferences": [owner]},
        "spec": {"devices": {"requests": []}},
    }
    if allocated:
        claim["status"] = {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": f"{agent}-{attempt}", "uid": pod_uid}],
        }
    return claim


def a_cluster(*, claim: Object | None = None, runtime: Object | None = None) -> FakeCluster:
    """A cluster with our Node and one Agent's order and claim."""
    cluster = FakeCluster()
    cluster.put(NODES, {"metadata": {"name": NODE, "uid": uid(80)}, "status": {"allocatable": {"cpu": "2"}}})
    cluster.put(AGENT_RUNTIMES, runtime or a_runtime())
    cluster.put(RESOURCE_CLAIMS, claim or a_claim())
    return cluster


def condition(cluster: FakeCluster, kind: str) -> tuple[str, str] | None:
    """Status and reason of a condition that the node agent has written of the one Agent; None while there is none."""
    order = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)
    assert order is not None
    found = [c for c in (order.get("status") or {}).get("conditions") or () if c["type"] == kind]
    return (found[0]["status"], found[0]["reason"]) if found else None


def a_supervisor(settings: VramSettings, inventory: FixedInventory | None = None, contexts: Path = Path("/nonexistent")) -> Supervisor:
    """Of the workers of these GPUs, or of GPU_A; measurements of contexts are kept in `contexts`."""
    return Supervisor(inventory or FixedInventory(GPU_A), settings, Calibration(settings, contexts, time.monotonic))


def rewrite(file: Path, text: str) -> None:
    """The file has this content, at once."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def make_hook(directory: Path) -> Path:
    subprocess.run(["make", "--silent", "-C", str(NATIVE), f"OUT={directory}", f"{directory}/aios-hook"], check=True)
    return directory / "aios-hook"


def settings_in(directory: Path, hook: Path, **changes: Any) -> NodeSettings:
    """Everything in one short directory (paths of sockets have at most 107 characters), and patience that fits a test."""
    defaults: Object = {
        "kubelet_dir": directory / "kubelet",
        "run_dir": directory / "run",
        "state_dir": directory / "state",
        "cdi_dir": directory / "cdi",
        "vendor_cdi_dirs": (directory / "cdi", directory / "etc-cdi"),
        "hook_binary": hook,
        "gateway_uid": os.geteuid(),
        "http_host": HTTP_HOST,
        "http_port": 0,
        "inventory_seconds": 0.2,
        "driver_module": directory / "driver",
        "prepare_seconds": 2.0,
        "api_seconds": 1.0,
        "handback_seconds": 0.5,
    }
    return NodeSettings(NODE, **{**defaults, **changes})


@contextmanager
def short_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="aios", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def running(
    settings: NodeSettings, cluster: FakeCluster, *gpus: GPU, workers: Workers | None = None, inventory: FixedInventory | None = None
) -> AsyncIterator[NodeAgent]:
    """A node agent that works until the end of the block."""
    offered = inventory or FixedInventory(*(gpus or (GPU_A,)))
    agent = NodeAgent(settings, cluster, offered, workers or Silent(), lambda: datetime.now(UTC))
    stop, started = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(agent.run(stop, started))
    await asyncio.wait((task, asyncio.create_task(started.wait())), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield agent
    finally:
        stop.set()
        await task


async def prepare(
    settings: NodeSettings, claim_uid: str = CLAIM_UID, name: str = "agent-1", namespace: str = NAMESPACE
) -> dra_pb2.NodePrepareResourceResponse:
    """What the kubelet gets for one claim."""
    async with grpc.aio.insecure_channel(f"unix:{settings.plugin_socket}") as channel:
        claim = dra_pb2.Claim(namespace=namespace, uid=claim_uid, name=name)
        answer = await dra_pb2_grpc.DRAPluginStub(channel).NodePrepareResources(dra_pb2.NodePrepareResourcesRequest(claims=[claim]))
        return answer.claims[claim_uid]


async def unprepare(
    settings: NodeSettings, claim_uid: str = CLAIM_UID, name: str = "agent-1", namespace: str = NAMESPACE
) -> dra_pb2.NodeUnprepareResourceResponse:
    async with grpc.aio.insecure_channel(f"unix:{settings.plugin_socket}") as channel:
        claim = dra_pb2.Claim(namespace=namespace, uid=claim_uid, name=name)
        answer = await dra_pb2_grpc.DRAPluginStub(channel).NodeUnprepareResources(dra_pb2.NodeUnprepareResourcesRequest(claims=[claim]))
        return answer.claims[claim_uid]


@dataclass
class Pod:
    """A network namespace with a way out (a veth pair to the test's namespace), and a process in it that stands for a container."""

    name: str
    pid: int
    outside4: str
    outside6: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def container(self) -> int:
        """One more process in the pod."""
        self.processes.append(subprocess.Popen(["ip", "netns", "exec", self.name, "sleep", "1000"]))
        wait_for_namespace(self.processes[-1].pid, self.name)
        return self.processes[-1].pid

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program in the pod, to its end."""
        return subprocess.run(["ip", "netns", "exec", self.name, *command], capture_output=True, text=True, timeout=20, check=False)

    def python(self, code: str) -> str:
        """What Python code printed in the pod."""
        done = self.run(sys.executable, "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def oci_state(self, *, pid: int | None = None, pod_uid: str = POD_UID, pod_name: str = "agent-1", namespace: str = NAMESPACE) -> bytes:
        return oci_state(self.pid if pid is None else pid, pod_uid, pod_name, namespace)


def oci_state(pid: int, pod_uid: str = POD_UID, pod_name: str = "agent-1", namespace: str = NAMESPACE) -> bytes:
    """As containerd's runtime writes it on the hook's standard input."""
    annotations = {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-uid": pod_uid,
        "io.kubernetes.cri.sandbox-name": pod_name,
        "io.kubernetes.cri.sandbox-namespace": namespace,
    }
    state = {"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": pid, "bundle": "/run/b", "annotations": annotations}
    return json.dumps(state).encode()


def wait_for_namespace(pid: int, name: str) -> None:
    wanted = Path(f"/run/netns/{name}").stat().st_ino
    while Path(f"/proc/{pid}/ns/net").stat().st_ino != wanted:
        os.sched_yield()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def a_turn() -> Iterator[None]:
    """Nobody else plays a whole node on this machine meanwhile: two that take pods by and by would wait for each other's."""
    with Path(tempfile.gettempdir(), "aiosnode.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def a_pod(number: int) -> Iterator[Pod]:
    """The pod has 10.210.<number>.2 and fd00:210:<number>::2; the test's namespace is its gateway."""
    with Path(tempfile.gettempdir(), f"aiospod{number}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the names are the machine's: another run of these tests waits for its turn
        with _pod(number) as pod:
            yield pod


@contextmanager
def _pod(number: int) -> Iterator[Pod]:
    name, host, inner = f"aiospod{number}", f"aiosh{number}", f"aiosp{number}"
    outside4, outside6 = f"10.210.{number}.1", f"fd00:210:{number}::1"
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    ip("netns", "add", name)
    pod = Pod(name, 0, outside4, outside6)
    try:
        ip("link", "add", host, "type", "veth", "peer", "name", inner, "netns", name)
        ip("addr", "add", f"{outside4}/24", "dev", host)
        ip("addr", "add", f"{outside6}/64", "dev", host, "nodad")
        ip("link", "set", host, "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "addr", "add", f"10.210.{number}.2/24", "dev", inner)
        ip("-n", name, "addr", "add", f"fd00:210:{number}::2/64", "dev", inner, "nodad")
        ip("-n", name, "link", "set", inner, "up")
        ip("-n", name, "route", "add", "default", "via", outside4)
        ip("-n", name, "route", "add", "default", "via", outside6)
        pod.pid = pod.container()
        yield pod
    finally:
        for process in pod.processes:
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", host], check=False, capture_output=True)


@dataclass
class Answer:
    """What a run of the hook ended with."""

    code: int
    error: str
    seconds: float


async def ask(settings: NodeSettings, state: bytes, claim_uid: str = CLAIM_UID) -> Answer:
    """The installed hook, called as the runtime does."""
    began = asyncio.get_running_loop().time()
    process = await asyncio.create_subprocess_exec(
        str(settings.hook_path),
        str(settings.hook_socket),
        claim_uid,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await process.communicate(state)
    assert process.returncode is not None
    return Answer(process.returncode, error.decode(), asyncio.get_running_loop().time() - began)


def socket_answers(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


async def eventually(condition: Any, seconds: float = 60.0) -> None:
    """Returns when the condition holds; fails when it does not within the time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def a_gateway(node: NodeSettings) -> AsyncIterator[None]:
    """A gateway in this process, with contexts, and a channel to other nodes on loopback."""
    stop = asyncio.Event()
    settings = Settings(
        node_socket=node.gateway_socket,
        node_uid=os.geteuid(),
        metrics_port=0,
        context_dir=node.context_dir,
        move_host="127.0.0.1",
        move_port=0,
    )
    task = asyncio.create_task(serve(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await task

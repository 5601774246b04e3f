"""The operator on a cluster in memory, and a node with a real node agent, gateway, hook, fences and cgroups: the test is kube-scheduler,
kubelet and the owner of what is declared."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from aios_api.quantity import parse_bytes
from aios_bench.faults.node.checker import Held, Look
from aios_kube import resources
from aios_kube.resources import Resource
from aios_sidecar.contracts.gpus import GPU
from aios_sidecar.contracts.worker import Booked, BookedShare, Reading, Use, WorkerMessage
from aios_sidecar.node import cdi, fence
from aios_sidecar.node.agent import NodeAgent
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.slices import gpu_device_name
from aios_sidecar.node.state import ClaimState, Opening, StateFiles
from node.played import Played, cgroup_root
from node.support import NODE, Pod, a_gateway, a_pod, a_turn, ask, prepare, running, unprepare
from unit.operator.world import GPU as GPU_UUID
from unit.operator.world import World

Object = dict[str, Any]
NS = "ns"
OWNED = (resources.AGENT_RUNTIMES, resources.PODS, resources.RESOURCE_CLAIMS, resources.SERVICES, resources.NETWORK_POLICIES)
WRITTEN = (resources.AGENTS, resources.GPU_QUOTAS, resources.TOOL_BINDINGS, *OWNED)
QUIET_TURNS, MOST_TURNS = 8, 600
CALL = """
import http.client
call = http.client.HTTPConnection("127.0.0.1", 2489, timeout=5)
call.request({})
print(call.getresponse().read().decode())
"""
WHO = CALL.format("'GET', '/v1/agent'")
APPEND = CALL.format('\'POST\', \'/v1/context/items\', \'{"items": [{"role": "user", "content": "said"}]}\'')


class Idle:
    """A worker of the GPU that finds nothing used of it. It speaks often, so that the GPU is monitored from its first word on."""

    def __init__(self) -> None:
        self._shares: tuple[BookedShare, ...] = ()

    async def run(self, hear: Callable[[str, WorkerMessage], None]) -> None:
        while True:
            known = [share for share in self._shares if share.pod_uid is not None]
            uses = tuple(_unused(each) for each in known)
            hear(
                GPU_UUID,
                Reading(capacity_bytes=80 << 30, used_bytes=0, unattributed_bytes=0, uses=uses, context_bytes=0, context_source="Setting"),
            )
            await asyncio.sleep(0.1)

    def book(self, booked: dict[str, Booked]) -> None:
        """From now on it reads these."""
        self._shares = booked[GPU_UUID].shares if GPU_UUID in booked else ()


@dataclass
class Sandbox:
    """A pod that its kubelet has started, or is starting."""

    name: str
    claim_uid: str
    pod: Pod
    stack: ExitStack
    prepared: bool = False
    runs: bool = False


class WholeNode:
    """`await settle()` lets everybody do their part until nothing changes any more."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.world = World()
        self.cluster = self.world.cluster
        self.world.node(NODE)
        slices: Any = self.cluster.peek(resources.RESOURCE_SLICES, f"{NODE}-slice")
        slices["spec"]["devices"][1]["name"] = gpu_device_name(GPU_UUID)
        self.cluster.put(resources.RESOURCE_SLICES, slices)
        self.sandboxes: dict[str, Sandbox] = {}
        """By the uid of the pod."""

    @asynccontextmanager
    async def working(self) -> AsyncIterator[NodeAgent]:
        gpu = GPU(uuid=GPU_UUID, model="H100", index=0, memory_mib=80 << 10, fake=True)
        turn = ExitStack()
        await asyncio.to_thread(turn.enter_context, a_turn())
        try:
            async with a_gateway(self.settings), running(self.settings, self.cluster, gpu, workers=Idle()) as self.agent:
                yield self.agent
        finally:
            for sandbox in self.sandboxes.values():
                await asyncio.to_thread(sandbox.stack.close)
            turn.close()

    # Everybody's part.

    def state(self) -> list[tuple[str, str]]:
        """Everything that somebody has declared, decided or said, by its version."""
        return [(each["metadata"]["uid"], each["metadata"]["resourceVersion"]) for kind in WRITTEN for each in self.cluster.all(kind)]

    async def settle(self) -> None:
        quiet = 0
        for _ in range(MOST_TURNS):
            before = self.state()
            self.world.deliver()
            await self.world.loop.settle()
            self.world.collect_garbage()
            self._schedule()
            await self._kubelet()
            await asyncio.sleep(0.05)
            quiet = quiet + 1 if self.state() == before else 0
            self.world.now += timedelta(seconds=1)
            if quiet >= QUIET_TURNS:
                return
        raise AssertionError(f"it never comes to rest: {[(s.name, s.prepared, s.runs) for s in self.sandboxes.values()]}")

    def _schedule(self) -> None:
        self.world.schedule()
        for claim in self.cluster.all(resources.RESOURCE_CLAIMS):
            name, status = claim["metadata"]["name"], claim.get("status") or {}
            pod = self.cluster.peek(resources.PODS, name, NS)
            if "allocation" not in status or "reservedFor" in status or pod is None:
                continue
            for result in status["allocation"]["devices"]["results"]:
                result["device"] = gpu_device_name(GPU_UUID) if result["device"] == "gpu-a" else result["device"]
            status["reservedFor"] = [{"resource": "pods", "name": name, "uid": pod["metadata"]["uid"]}]
            self.cluster.alter(resources.RESOURCE_CLAIMS, name, {"status": status}, NS)

    async def _kubelet(self) -> None:
        bound = {pod["metadata"]["uid"]: pod for pod in self.cluster.all(resources.PODS) if pod["spec"].get("nodeName") == NODE}
        wanted = {uid: pod for uid, pod in bound.items() if "deletionTimestamp" not in pod["metadata"]}
        for uid in [uid for uid in self.sandboxes if uid not in wanted]:
            await self._end(uid)
        for uid in bound.keys() - wanted.keys():
            self.cluster.remove(resources.PODS, bound[uid]["metadata"]["name"], NS)
        for uid, pod in wanted.items():
            await self._start(uid, pod)

    async def _start(self, uid: str, pod: Object) -> None:
        name = pod["metadata"]["name"]
        claim = self.cluster.peek(resources.RESOURCE_CLAIMS, name, NS)
        if claim is None or "reservedFor" not in (claim.get("status") or {}):
            return
        if uid not in self.sandboxes:
            stack, number = ExitStack(), min(set(range(1, 10)) - {int(s.pod.name[-1]) for s in self.sandboxes.values()})
            played = await asyncio.to_thread(stack.enter_context, a_pod(number))
            root = cgroup_root()
            assert root is not None
            stack.enter_context(contextlib.closing(Played(root, uid, number))).take(played.pid)
            self.sandboxes[uid] = Sandbox(name, claim["metadata"]["uid"], played, stack)
        sandbox = self.sandboxes[uid]
        if not sandbox.prepared:
            sandbox.prepared = not (await prepare(self.settings, sandbox.claim_uid, name, NS)).error
        if sandbox.prepared and not sandbox.runs:
            state = sandbox.pod.oci_state(pod_uid=uid, pod_name=name, namespace=NS)
            sandbox.runs = (await ask(self.settings, state, sandbox.claim_uid)).code == 0
            if sandbox.runs:
                await asyncio.to_thread(sandbox.pod.python, APPEND)
                ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                self.cluster.alter(resources.PODS, name, {"status": {"phase": "Running", "conditions": [ready]}}, NS)

    async def _end(self, uid: str) -> None:
        sandbox = self.sandboxes.pop(uid)
        await asyncio.to_thread(sandbox.stack.close)
        if sandbox.prepared:
            assert (await unprepare(self.settings, sandbox.claim_uid, sandbox.name, NS)).error == ""

    # What is there.

    def held(self) -> dict[str, Held]:
        """By claim, as the kubelet has it."""
        found = {}
        for sandbox in self.sandboxes.values():
            claim: Any = self.cluster.peek(resources.RESOURCE_CLAIMS, sandbox.name, NS)
            booked = [each["consumedCapacity"].get("memory", "0") for each in claim["status"]["allocation"]["devices"]["results"]]
            found[sandbox.claim_uid] = Held(sandbox.name.rpartition("-")[0], sum(map(parse_bytes, booked)), sandbox.pod.name)
        return found

    async def look(self) -> Look:
        """What the judge of a node asks for."""
        files = StateFiles(self.settings.claims_dir)
        states = {uid: state for uid in files.uids() if (state := files.read(uid)) is not None}
        prefix = self.settings.cdi_file("").name.removesuffix(".json")
        cdi_files = {path.stem.removeprefix(prefix): path.read_bytes() for path in self.settings.cdi_dir.glob(f"{prefix}*.json")}
        odd = [uid for uid, text in cdi_files.items() if uid not in states or text != cdi.content(self.settings, states[uid])]
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout.splitlines()
        strays = [f"CDI file of {uid}" for uid in odd] + [line for line in tables if line.endswith(" aios")]
        strays += [str(path) for place in (self.settings.claims_dir, self.settings.cdi_dir) for path in place.glob(".*")]
        sockets = list(self.settings.run_dir.glob("agents/*/agent.sock"))
        voices = {f"socket {path.parent.name}": await asyncio.to_thread(_who, path) for path in sockets}
        said = {s.pod.name: await asyncio.to_thread(s.pod.python, WHO) for s in self.sandboxes.values()}
        voices |= {f"loopback {name}": json.loads(text)["identity"]["name"] for name, text in said.items()}
        booked = sum(sample.value for family in self.agent.metrics.booked.collect() for sample in family.samples)
        return Look(
            states=frozenset(states),
            known=frozenset(uid for uid, state in states.items() if state.pod_uid is not None and state.sandbox is not None),
            cdi_files=frozenset(cdi_files.keys() - set(odd)),
            directories=frozenset(path.name for path in (self.settings.run_dir / "agents").iterdir()),
            strays=tuple(strays),
            fenced={sandbox.claim_uid: self._is_fenced(sandbox, states) for sandbox in self.sandboxes.values()},
            voices=voices,
            booked_bytes=int(booked),
            prepared=len(list(self.agent.claims)),
            served=len([live for live in self.agent.claims if live.facts.serving]),
        )

    def _is_fenced(self, sandbox: Sandbox, states: dict[str, ClaimState]) -> bool:
        """With the ports open that its order names, and no others."""
        order: Any = self.cluster.peek(resources.AGENT_RUNTIMES, states[sandbox.claim_uid].agent, NS)
        ports = frozenset(Opening(protocol=each.get("protocol", "TCP"), port=each["port"]) for each in order["spec"].get("expose") or ())
        with NetworkNamespace(Path(f"/run/netns/{sandbox.pod.name}")) as namespace:
            return fence.stands(namespace, ports)

    def files(self) -> dict[Path, bytes]:
        """Of ours on the node, apart from contexts."""
        places = (self.settings.claims_dir, self.settings.cdi_dir, self.settings.run_dir / "agents")
        return {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}

    def contexts(self) -> set[str]:
        """Agents, by uid, of which there is a context."""
        return {path.name for path in self.settings.context_dir.glob("*-*-*-*-*")}

    def left(self) -> list[tuple[str, str]]:
        """Of API objects."""
        kinds: tuple[Resource, ...] = (resources.AGENTS, *OWNED)
        return [(kind.plural, each["metadata"]["name"]) for kind in kinds for each in self.cluster.all(kind)]


def _unused(share: BookedShare) -> Use:
    size = share.booked_bytes
    return Use(claim_uid=share.claim_uid, booked_bytes=size, allowed_bytes=size, used_bytes=0, processes=0, containers=())


def _who(path: Path) -> str:
    connection = http.client.HTTPConnection("aios", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    with contextlib.closing(connection):
        connection.sock.connect(str(path))
        connection.request("GET", "/v1/agent")
        return str(json.loads(connection.getresponse().read())["identity"]["name"])

"""One node with its programs as processes, pods in network namespaces, and Agents in them that ask and append all the time."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

import grpc

from aios_bench.faults.checkout import of_tests
from aios_bench.faults.clock import Clock
from aios_bench.faults.node.checker import Held, Look
from aios_bench.faults.node.program import SHARE_BYTES, InMemory, World, agent_name, settings_of
from aios_bench.faults.node.tenant import Tenant
from aios_bench.ports import free_port
from aios_sidecar.node import cdi, fence
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.records import UnreadableState
from aios_sidecar.node.state import ClaimState, Opening, StateFiles

Program = Literal["node", "gateway", "worker"]
PATIENCE_SECONDS = 120
ANSWER_SECONDS = 2.0
DISK_BYTES = 64 << 20
WORKER = "aios_sidecar.vram.worker"
GATEWAY = "from aios_bench.faults.node import other_release; other_release.as_told(); from aios_sidecar.gateway.main import main; main()"


class NodeHouse:
    """Agents below `tenants` have a pod that runs; one more, the guest, comes and goes."""

    def __init__(self, directory: Path, tenants: int, world: World) -> None:
        support = of_tests("node.support")
        self.directory = directory
        self.world = world
        self.tenants = [Tenant(number, world) for number in range(tenants)]
        self.guest = tenants
        self.visitor: Tenant | None = None
        """The guest's pod, while it is there."""
        self.held: dict[str, Held] = {}
        """As the kubelet's own checkpoint has them."""
        self.refused = ""
        """Why the last question of `ask` was not answered."""
        self._hook = support.make_hook(directory)
        subprocess.run(["make", "-s", "-C", str(support.NATIVE), "fakes", f"OUT={directory}/native"], check=True)
        self.put_gpu()
        self._ports = {"node": free_port(), "gateway": free_port()}
        self.settings = settings_of(directory, self._hook, self._ports["node"])
        self._files = StateFiles(self.settings.claims_dir)
        self.settings.state_dir.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(self.settings.state_dir)], check=True)
        self.clock = Clock(directory)
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    # ── the programs ──

    async def start(self, program: Program, **told: str) -> None:
        """It runs, if it did not, with `told` in its environment; what it says goes into a file."""
        if program == "worker" or (program in self._processes and self._processes[program].returncode is None):
            return
        given = {
            "node": (
                "-m",
                "aios_bench.faults.node.program",
                str(self.directory),
                str(self._hook),
                self.world.argument,
                str(self._ports["node"]),
            ),
            "gateway": ("-c", GATEWAY),
        }[program]
        environment = {
            "AIOS_FAKE_GPUS": str(self.directory / "gpus.conf"),
            "LD_LIBRARY_PATH": str(self.directory / "native"),
            "AIOS_GATEWAY_NODE_SOCKET": str(self.settings.gateway_socket),
            "AIOS_GATEWAY_NODE_UID": str(os.geteuid()),
            "AIOS_GATEWAY_METRICS_PORT": str(self._ports["gateway"]),
            "AIOS_GATEWAY_METRICS_HOST": "127.0.0.1",
            "AIOS_GATEWAY_CONTEXT_DIR": str(self.settings.context_dir),
        }
        with (self.directory / f"{program}.log").open("ab") as log:
            self._processes[program] = await asyncio.create_subprocess_exec(
                sys.executable, *given, env={**os.environ, **environment, **self.clock.environment, **told}, stderr=log
            )

    def suspend(self, program: Program) -> None:
        """It does nothing, and its time passes."""
        self._signal(program, signal.SIGSTOP)

    def wake(self, program: Program) -> None:
        self._signal(program, signal.SIGCONT)

    def _signal(self, program: Program, what: signal.Signals) -> None:
        for pid in self._workers() if program == "worker" else [self._processes[program].pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def has_ended(self, program: Program) -> bool:
        return self._processes[program].returncode is not None

    async def follow(self, program: Program) -> None:
        """Once it has ended, another one runs."""
        await self._processes[program].wait()
        await self.start(program)

    async def kill(self, program: Program) -> None:
        if program == "worker":
            self._signal(program, signal.SIGKILL)
        elif (process := self._processes.get(program)) is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _workers(self) -> list[int]:
        """Of this node, by what their environment names."""
        mine = f"AIOS_FAKE_GPUS={self.directory / 'gpus.conf'}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and WORKER.encode() in (entry / "cmdline").read_bytes()
                    and mine in (entry / "environ").read_bytes()
                ):
                    found.append(int(entry.name))
        return found

    # ── the kubelet's part ──

    async def prepare(self, number: int) -> None:
        """The claim is prepared; asked again until it is."""
        await self._asked("prepare", number)
        self.held[self.world.claim_uid(number)] = Held(agent_name(number), SHARE_BYTES)

    async def refuses(self, number: int) -> bool:
        """The claim is asked for once, and not prepared: its GPU is not there."""
        answer = await of_tests("node.support").prepare(self.settings, self.world.claim_uid(number), self.world.of_attempt(number))
        return "is not on this node now" in answer.error

    async def release(self, number: int) -> None:
        await self._asked("unprepare", number)
        del self.held[self.world.claim_uid(number)]

    async def _asked(self, verb: Literal["prepare", "unprepare"], number: int) -> None:
        ask, name, error = getattr(of_tests("node.support"), verb), self.world.of_attempt(number), "nobody answered"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while error:
                    try:
                        error = (await ask(self.settings, self.world.claim_uid(number), name)).error
                    except grpc.aio.AioRpcError:
                        error = "nobody answered"
                    await asyncio.sleep(0.05 if error else 0)
        except TimeoutError:
            raise TimeoutError(f"claim {name} must be {verb}d within {PATIENCE_SECONDS} s: {error}") from None

    async def come_or_go(self) -> bool:
        """The guest goes, or comes where it is not there. False when it started without its fence."""
        if self.visitor is None:
            return await self.visit()
        await self.leave()
        return True

    async def visit(self) -> bool:
        """The guest comes: there is a sandbox, its claim is prepared, its first container starts. Whether that stood behind its fence."""
        visitor = Tenant(self.guest, self.world)
        await asyncio.to_thread(visitor.enter)
        await self.prepare(self.guest)
        self.visitor = visitor
        return await self.container(visitor)

    async def leave(self) -> None:
        """Nothing is left of the guest's pod, and its claim is released."""
        if self.visitor is not None:
            await self.visitor.end()
        self.visitor = None
        await self.release(self.guest)

    async def container(self, tenant: Tenant) -> bool:
        """One more container of the pod starts; tried until it does. Whether it stood behind its fence when it was let in."""
        support, number, world = of_tests("node.support"), tenant.number, self.world
        claim_uid = world.claim_uid(number)
        state = tenant.pod.oci_state(pid=tenant.pod.container(), pod_uid=world.pod_uid(number), pod_name=world.of_attempt(number))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await support.ask(self.settings, state, claim_uid)).code != 0:
                pass  # nobody answered as long as the hook waits, or not yes: the kubelet tries again
        fenced = any(self._is_fenced(tenant, openings) for openings in world.openings(number))
        self.held[claim_uid] = Held(agent_name(number), SHARE_BYTES, tenant.pod_name)
        return fenced

    # ── the look ──

    async def look(self) -> Look:
        return await asyncio.to_thread(self._look)

    def _look(self) -> Look:
        said = {program: self._metrics(program) for program in ("node", "gateway")}
        voices = {f"socket {path.parent.name}": self._who(path) for path in self.settings.run_dir.glob("agents/*/agent.sock")}
        pods = [*self.tenants, *([self.visitor] if self.visitor else [])]
        voices |= {f"loopback {tenant.pod_name}": self._who(tenant) for tenant in pods}
        states = {uid: state for uid in self._files.uids() if (state := self._state(uid)) is not None}
        prefix = self.settings.cdi_file("").name.removesuffix(".json")
        cdi_files = {path.stem.removeprefix(prefix): path.read_bytes() for path in self.settings.cdi_dir.glob(f"{prefix}*.json")}
        damaged = {uid for uid, text in cdi_files.items() if uid in states and text != cdi.content(self.settings, states[uid])}
        host = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
        strays = [uid for uid in self._files.uids() if uid not in states] + sorted(damaged)
        strays += [line for line in host.splitlines() if line.endswith(" aios")]
        strays += [
            path.name for place in (self.settings.claims_dir, self.settings.cdi_dir, self.settings.gpus_dir) for path in place.glob(".*")
        ]
        return Look(
            states=frozenset(states),
            known=frozenset(uid for uid, state in states.items() if state.pod_uid is not None and state.sandbox is not None),
            cdi_files=frozenset(cdi_files.keys() - damaged),
            directories=frozenset(path.name for path in (self.settings.run_dir / "agents").iterdir()),
            strays=tuple(strays),
            fenced={self.world.claim_uid(tenant.number): self.is_fenced(tenant) for tenant in pods},
            voices={place: who for place, who in voices.items() if who is not None},
            booked_bytes=int(said["node"].get("aios_gpu_booked_bytes", 0)),
            prepared=int(said["node"].get("aios_node_prepared_claims", -1)),
            served=int(said["gateway"].get("aios_gateway_agents", -1)),
            workers=len(self._workers()),
            gpus=self._gpus,
        )

    def _state(self, uid: str) -> ClaimState | None:
        """None for one that is damaged, or just gone."""
        try:
            return self._files.read(uid)
        except (UnreadableState, OSError):
            return None

    def is_fenced(self, tenant: Tenant) -> bool:
        """As the order says."""
        return self._is_fenced(tenant, self.world.openings(tenant.number)[0])

    def _is_fenced(self, tenant: Tenant, openings: frozenset[Opening]) -> bool:
        with NetworkNamespace(Path(f"/run/netns/{tenant.pod_name}")) as namespace:
            return fence.stands(namespace, openings)

    def _who(self, place: Path | Tenant) -> str | None:
        """The name of the Agent that answers there."""
        if isinstance(place, Tenant):
            answer = self.ask(place, "GET", "/v1/agent")
            return None if answer is None else str(answer["identity"]["name"])
        connection = http.client.HTTPConnection("aios", timeout=ANSWER_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(ANSWER_SECONDS)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            connection.sock.connect(str(place))
            connection.request("GET", "/v1/agent")
            return str(json.loads(connection.getresponse().read())["identity"]["name"])
        return None

    def ask(self, tenant: Tenant, method: str, target: str) -> Any:
        """What the pod is answered at its loopback; None when it is not, or is refused."""
        code = (
            "import http.client\n"
            f"c = http.client.HTTPConnection('127.0.0.1', 2489, timeout={ANSWER_SECONDS})\n"
            f"c.request({method!r}, {target!r}, headers={{'Host': 'localhost'}})\n"
            "a = c.getresponse()\n"
            "t = a.read().decode()\n"
            "a.status == 200 or exit(f'{a.status}: {t}')\n"
            "print(t)"
        )
        done = tenant.pod.run(sys.executable, "-c", code)
        self.refused = done.stderr.strip()[-300:]
        return json.loads(done.stdout) if done.returncode == 0 else None

    def _metrics(self, program: str) -> dict[str, float]:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[program], timeout=ANSWER_SECONDS)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
            return {line.rpartition(" ")[0].partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
        return {}

    # ── what happens to a whole node ──

    async def reboot(self) -> None:
        """Every process is gone, and what lies under /run; the kubelet makes sandboxes anew for the claims that it has."""
        await asyncio.gather(*(self.kill(program) for program in ("node", "gateway", "worker")), *(tenant.end() for tenant in self.tenants))
        for path in (self.settings.run_dir, self.settings.cdi_dir):
            shutil.rmtree(path)
        for uid, claim in self.held.items():
            self.held[uid] = Held(claim.agent, claim.booked_bytes)
        for tenant in self.tenants:
            await asyncio.to_thread(tenant.enter)

    def put_gpu(self) -> None:
        """The driver offers the GPU."""
        gpu = of_tests("node.support").GPU_A
        line = f'gpu uuid={gpu.uuid} model="{gpu.model}" memory=80Gi reserved=1Gi'
        of_tests("node.support").rewrite(self.directory / "gpus.conf", f"{line}\nprograms proc=/proc\n")
        self._gpus = 1

    def take_gpu(self) -> None:
        """The GPU is lost to those who hold it, and the driver does not offer it any more."""
        of_tests("node.support").rewrite(self.directory / "gpus.conf", "programs proc=/proc\n")
        self._gpus = 0

    def fill_disk(self) -> None:
        """What lies below /var takes nothing any more."""
        with (self.settings.state_dir / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free_disk(self) -> None:
        (self.settings.state_dir / "filler").unlink()

    async def close(self) -> None:
        for program in ("node", "gateway", "worker"):
            await self.kill(program)
        try:
            for tenant in (*self.tenants, *([self.visitor] if self.visitor else [])):
                await tenant.end()
        finally:
            await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(self.settings.state_dir)], check=True)


def lacking() -> str | None:
    """Why no node can be played here; None when one can."""
    reason: str | None = of_tests("node.conftest").missing()
    if reason is None and of_tests("node.played").cgroup_root() is None:
        return "this machine lets nobody make cgroups"
    return reason


@contextlib.asynccontextmanager
async def a_house(tenants: int, world: World | None = None, hosts: Mapping[int, str] | None = None) -> AsyncIterator[NodeHouse]:
    """The programs run, and every tenant is let in and speaks; those of `hosts` try to go there."""
    support = of_tests("node.support")
    with contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, support.a_turn())
        directory = stack.enter_context(support.short_directory())
        house = NodeHouse(directory, tenants, world or InMemory(tenants + 1))
        try:
            for tenant in house.tenants:
                tenant.host = (hosts or {}).get(tenant.number, "")
                await asyncio.to_thread(tenant.enter)
            await asyncio.gather(house.start("node"), house.start("gateway"))
            for tenant in house.tenants:
                await house.prepare(tenant.number)
                if not await house.container(tenant):
                    raise RuntimeError(f"{agent_name(tenant.number)} started without its fence, before anything was disturbed")
                await tenant.speak()
            yield house
        finally:
            await house.close()

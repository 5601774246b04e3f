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
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import grpc

from aios_bench.faults.checkout import of_tests
from aios_bench.faults.node_checker import Held, Look
from aios_bench.faults.node_program import SHARE_BYTES, InMemory, World, agent_name, settings_of
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

TENANT = """
import http.client, json, sys, time
name, number, host = sys.argv[1], int(sys.argv[2]), sys.argv[3]
said = None
while True:
    call = http.client.HTTPConnection("127.0.0.1", 2489, timeout=5)
    try:
        call.request("GET", "/v1/agent", headers={"Host": "localhost"})
        answer = call.getresponse()
        who = json.loads(answer.read())
        if answer.status == 200 and who["identity"]["name"] != name:
            print("double", who["identity"]["name"], flush=True)
        body = json.dumps({"items": [{"role": "user", "content": f"{name} {number}"}]})
        call.request("POST", "/v1/context/items", body, {"Host": "localhost", "Idempotency-Key": f"{name}-{number}"})
        answer = call.getresponse()
        answer.read()
        if answer.status in (200, 201):
            print("kept", number, flush=True)
            number += 1
        if host:
            call.request("CONNECT", host, headers={"Host": host})
            word = {403: "shut", 502: "open"}.get(call.getresponse().status, said)
            if word != said:
                print(word, host, flush=True)
            said = word
    except (OSError, http.client.HTTPException, ValueError):
        pass
    finally:
        call.close()
    time.sleep(0.02)
"""
"""It repeats what was not acknowledged, and says whether it may go to `host`, if one is named and where nobody listens, whenever that
changes."""


class Tenant:
    """One Agent's pod, and the program in it. A pod can be lost with all that is in it and come back under its uid, as after a reboot."""

    def __init__(self, number: int, world: World) -> None:
        self.number = number
        self.host = ""
        """Where it tries to go all the time, with a port; empty: nowhere."""
        self.acknowledged = 0
        self.doubled = 0
        self.may_go: bool | None = None
        """Whether it was let through the last time; None before it tried."""
        self.let_through = 0
        """How often it was let through after it had not been."""
        self._world = world
        self._heard = asyncio.Event()
        self._stack = ExitStack()
        self._reading: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pod_name(self) -> str:
        return str(self.pod.name)

    def enter(self) -> None:
        """There is a sandbox."""
        self.pod = self._stack.enter_context(of_tests("node.support").a_pod(self.number + 1))
        played = of_tests("node.played")
        self._container = self._stack.enter_context(
            contextlib.closing(played.Played(played.cgroup_root(), self._world.pod_uid(self.number), self.number + 1))
        )
        self._container.take(self.pod.pid)

    async def speak(self) -> None:
        """Its program runs, and goes on where the one before was."""
        told = agent_name(self.number), str(self.acknowledged), self.host
        command = ("ip", "netns", "exec", self.pod_name, sys.executable, "-c", TENANT, *told)
        self._process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            word, _, rest = line.decode().strip().partition(" ")
            if word == "kept":
                self.acknowledged = int(rest) + 1
            elif word in ("open", "shut"):
                self.let_through += word == "open" and self.may_go is False
                self.may_go = word == "open"
            else:
                self.doubled += 1
            self._heard.set()

    async def next_word(self) -> None:
        """One more item was acknowledged, or it was answered as somebody else."""
        self._heard.clear()
        await self._heard.wait()

    async def end(self) -> None:
        """Nothing is left of the pod."""
        if self._process is not None and self._reading is not None:
            self._process.kill()
            await self._process.wait()
            await self._reading
        self._process = None
        await asyncio.to_thread(self._stack.close)


class NodeHouse:
    """Agents below `tenants` have a pod that runs; one more comes and goes without one."""

    def __init__(self, directory: Path, tenants: int, world: World) -> None:
        support = of_tests("node.support")
        self.directory = directory
        self.world = world
        self.tenants = [Tenant(number, world) for number in range(tenants)]
        self.guest = tenants
        self.held: dict[str, Held] = {}
        """As the kubelet's own checkpoint has them."""
        self.refused = ""
        """Why the last question of `ask` was not answered."""
        self._hook = support.make_hook(directory)
        subprocess.run(["make", "-s", "-C", str(support.NATIVE), "fakes", f"OUT={directory}/native"], check=True)
        (directory / "gpus.conf").write_text(f'gpu uuid={support.GPU_A.uuid} model="Fake" memory=80Gi reserved=1Gi\nprograms proc=/proc\n')
        self._ports = {"node": free_port(), "gateway": free_port()}
        self.settings = settings_of(directory, self._hook, self._ports["node"])
        self._files = StateFiles(self.settings.claims_dir)
        self.settings.state_dir.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(self.settings.state_dir)], check=True)
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    # ── the programs ──

    async def start(self, program: Program) -> None:
        """It runs, if it did not; what it says goes into a file."""
        if program == "worker" or (program in self._processes and self._processes[program].returncode is None):
            return
        given = {
            "node": (
                "-m",
                "aios_bench.faults.node_program",
                str(self.directory),
                str(self._hook),
                self.world.argument,
                str(self._ports["node"]),
            ),
            "gateway": ("-c", "from aios_sidecar.gateway.main import main; main()"),
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
                sys.executable, *given, env={**os.environ, **environment}, stderr=log
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
        world = self.world
        said = {program: self._metrics(program) for program in ("node", "gateway")}
        voices = {f"socket {path.parent.name}": self._who(path) for path in self.settings.run_dir.glob("agents/*/agent.sock")}
        voices |= {f"loopback {tenant.pod_name}": self._who(tenant) for tenant in self.tenants}
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
            fenced={world.claim_uid(tenant.number): self._is_fenced(tenant, world.openings(tenant.number)[0]) for tenant in self.tenants},
            voices={place: who for place, who in voices.items() if who is not None},
            booked_bytes=int(said["node"].get("aios_gpu_booked_bytes", 0)),
            prepared=int(said["node"].get("aios_node_prepared_claims", -1)),
            served=int(said["gateway"].get("aios_gateway_agents", -1)),
            workers=len(self._workers()),
        )

    def _state(self, uid: str) -> ClaimState | None:
        """None for one that is damaged, or just gone."""
        try:
            return self._files.read(uid)
        except (UnreadableState, OSError):
            return None

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
        for tenant in self.tenants:
            await tenant.end()
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
    with of_tests("node.support").short_directory() as directory:
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

"""Faults at random: our programs are killed for a part of the soak, those of the cluster all the time."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from aios_bench.faults.cluster.ground import Ground
from aios_bench.start import SPACE
from aios_localcluster.errors import LocalClusterError
from aios_localcluster.kubeaios import NAMESPACE

PAUSE_SECONDS = (5.0, 15.0)
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd", "kubelet")
PROGRAMS = ("node", "gateway")

Fault = Callable[[], Awaitable[None]]


class Disturber:
    """Injects one fault after the other. What can't be done at a moment, because of the fault before, is left out."""

    def __init__(self, ground: Ground, chance: random.Random) -> None:
        self._ground = ground
        self._chance = chance
        self.injected: Counter[str] = Counter()
        self._gentle: dict[str, Fault] = {
            **{f"{name} killed": lambda name=name: self._component(name) for name in COMPONENTS},  # type: ignore[misc]
            "ResourceSlice deleted": self._slice,
            "Agent's pod deleted": self._pod,
            "Agent's container killed": self._container,
        }
        self._hard: dict[str, Fault] = {
            "deciding operator killed": self._leader,
            "node agent killed": lambda: self._programs("node"),
            "gateway killed": lambda: self._programs("gateway"),
            "node agent and gateway killed": lambda: self._programs(*PROGRAMS),
        }

    async def run(self, hard_until: float) -> None:
        """Until cancelled; our own programs are killed until that moment of the monotonic clock."""
        while True:
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
            choice = {**self._gentle, **(self._hard if time.monotonic() < hard_until else {})}
            name = self._chance.choice(sorted(choice))
            try:
                await choice[name]()
            except (subprocess.CalledProcessError, LocalClusterError, RuntimeError, TimeoutError):
                continue
            self.injected[name] += 1

    async def _component(self, name: str) -> None:
        await asyncio.to_thread(self._ground.cluster.kill, name)

    async def _slice(self) -> None:
        slices = await self._ground.kubectl("get", "resourceslices", "-o", "name")
        await self._ground.kubectl("delete", self._chance.choice(sorted(name for name in slices.split() if "kwok" not in name)))

    async def _pod(self) -> None:
        pods = json.loads(await self._ground.kubectl("-n", SPACE, "get", "pods", "-o", "json"))["items"]
        name = self._chance.choice(sorted(each["metadata"]["name"] for each in pods))
        await self._ground.kubectl("-n", SPACE, "delete", "pod", name, "--wait=false")

    async def _container(self) -> None:
        listed = await self._ground.on_node("ps", "-eo", "pid,args")
        pids = [line.split()[0] for line in listed.splitlines() if " remembers " in line or "/v1/context/" in line]
        if not pids:
            raise RuntimeError("no Agent runs on the node")
        await self._ground.on_node("kill", "-9", self._chance.choice(sorted(pids)))

    async def _leader(self) -> None:
        leader = await self._ground.leader()
        await self._ground.kill("aios-operator", leader)
        await self._ground.kubectl("-n", NAMESPACE, "delete", "pod", leader, "--grace-period=0", "--force", "--wait=false")

    async def _programs(self, *programs: str) -> None:
        restarts = {program: (await self._ground.restarts(program))[0] for program in programs}
        for program in programs:
            await self._ground.kill(f"aios-{program}")
        for program in programs:
            await self._ground.back(program, restarts[program])
        for program in programs:
            await self._ground.replaced(f"aios-{program}")

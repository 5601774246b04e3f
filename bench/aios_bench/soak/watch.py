"""What is seen all along: memory and descriptors of our processes, who speaks twice, and who gets out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from aios_api import names
from aios_kube import ClusterClient, resources
from aios_kube.errors import ApiError
from aios_localcluster.kubeaios import NAMESPACE

SAMPLE_SECONDS = 2.0
PROGRAM = re.compile(rb"bin/(aios-operator|aios-node|aios-gateway)\0|aios_sidecar\.vram\.(worker)\0")
REMEMBERS = re.compile(rb" remembers [^\0]*\0(real-\d+)\0")


@dataclass(frozen=True)
class Sample:
    at: float
    rss_kib: int
    descriptors: int
    leads: bool = False
    """It is the operator that decides: such a one has more in memory, and open, than one that waits for its turn."""


@dataclass
class Processes:
    """Those in the cluster's cgroups, looked at every two seconds."""

    group: str
    lives: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    """By program and process id."""
    doubles: set[str] = field(default_factory=set)
    """Agents whose program ran twice at once."""
    leader: str = ""
    """The identity of the operator that decides."""

    async def run(self, client: ClusterClient) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(ApiError):  # it is killed now and then
                lease = await client.get(resources.LEASES, names.MANAGED_BY, NAMESPACE)
                self.leader = str(lease["spec"].get("holderIdentity") or "")
            await asyncio.to_thread(self._look)
            await asyncio.sleep(SAMPLE_SECONDS)

    def _look(self) -> None:
        running: Counter[str] = Counter()
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if not folder.name.isdigit() or self.group not in (folder / "cgroup").read_text():
                    continue
                arguments = (folder / "cmdline").read_bytes()
                if (agent := REMEMBERS.search(arguments)) is not None:
                    running[agent[1].decode()] += 1
                if (program := PROGRAM.search(arguments)) is not None:
                    name = (program[1] or program[2]).decode()
                    self.lives.setdefault((name, int(folder.name)), []).append(_sample(folder, self.leader))
        self.doubles |= {agent for agent, number in running.items() if number > 1}

    def growth(self, began: float, ended: float) -> dict[str, float]:
        """Of the processes that had begun before, and then did the same thing for at least half of that time: medians of the last quarter
        of that part against those of its first, the worst of each program. Memory in percent, descriptors as a number."""
        figures: dict[str, float] = {}
        for (program, _), samples in sorted(self.lives.items()):
            same = steady([each for each in samples if began <= each.at < ended])
            if samples[0].at > began or not same or same[-1].at - same[0].at < (ended - began) / 2:
                continue
            quarter = (same[-1].at - same[0].at) / 4
            first = [each for each in same if each.at <= same[0].at + quarter]
            last = [each for each in same if each.at >= same[-1].at - quarter]
            word = program.removeprefix("aios-")
            memory = 100 * (_median(last, "rss_kib") / _median(first, "rss_kib") - 1)
            descriptors = _median(last, "descriptors") - _median(first, "descriptors")
            for name, value in ((f"{word}_memory_growth_percent", memory), (f"{word}_descriptors_growth", descriptors)):
                figures[name] = round(max(value, figures.get(name, value)), 1)
        return figures

    def by_minute(self, ended: float) -> dict[str, list[float]]:
        """Of the process of each program that was there at the end and had lived longest: medians of memory in MiB and of descriptors."""
        found: dict[str, list[float]] = {}
        there = [life for life in self.lives.items() if life[1][-1].at > ended - 10 * SAMPLE_SECONDS]
        for program, samples in {name: samples for (name, _), samples in sorted(there, key=lambda life: len(life[1]))}.items():
            word, each = program.removeprefix("aios-"), round(60 / SAMPLE_SECONDS)
            minutes = [samples[at : at + each] for at in range(0, len(samples), each)]
            found[f"{word}_rss_mib"] = [round(_median(minute, "rss_kib") / 1024, 1) for minute in minutes]
            found[f"{word}_descriptors"] = [_median(minute, "descriptors") for minute in minutes]
        return found

    def memory_mib(self, ended: float) -> dict[str, float]:
        """At the end, of the largest process of each program."""
        sizes: dict[str, float] = {}
        for (program, _), samples in sorted(self.lives.items()):
            if samples[-1].at > ended - 10 * SAMPLE_SECONDS:
                name = f"{program.removeprefix('aios-')}_rss_mib"
                sizes[name] = max(sizes.get(name, 0.0), round(samples[-1].rss_kib / 1024, 1))
        return sizes


def steady(samples: list[Sample]) -> list[Sample]:
    """The longest part in which the process led, or did not, all the time."""
    runs = [list(run) for _, run in itertools.groupby(samples, key=lambda each: each.leads)]
    return max(runs, key=len, default=[])


def _median(samples: list[Sample], name: str) -> float:
    return float(statistics.median(getattr(each, name) for each in samples))


def _sample(folder: Path, leader: str) -> Sample:
    rss = re.search(r"^VmRSS:\s+(\d+)", (folder / "status").read_text(), re.MULTILINE)
    if rss is None:
        raise ValueError("a process that has ended")
    leads = bool(leader) and f"AIOS_IDENTITY={leader}\0".encode() in (folder / "environ").read_bytes()
    return Sample(time.monotonic(), int(rss[1]), len(list((folder / "fd").iterdir())), leads)


@dataclass
class Witness:
    """A port of this machine that pods could reach if nothing kept them from it: whoever does was not fenced."""

    address: str
    port: int = 0
    reached: int = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Witness]:
        def heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            del reader
            self.reached += 1
            writer.close()

        with socket.create_server((self.address, 0)) as listener:
            self.port = listener.getsockname()[1]
            server = await asyncio.start_server(heard, sock=listener)
            try:
                yield self
            finally:
                server.close()

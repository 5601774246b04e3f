"""The operator as a process beside a bench, so that its memory and its requests can be read."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import aios_api
import aios_kube
import aios_operator
from aios_bench.ports import free_port

TICKS = os.sysconf("SC_CLK_TCK")
QUIET_SECONDS = 5
"""Without a write for so long, it has come to rest."""
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Operator:
    """The operator as a process: what it says of itself, and what the kernel does."""

    process: subprocess.Popen[bytes]
    port: int
    began: float

    @classmethod
    def start(cls, kubeconfig: Path, log: Path, **more: str) -> "Operator":
        port = free_port()
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

    def requests(self) -> dict[str, int]:
        """So far, by verb."""
        counted = re.findall(r'^aios_operator_api_requests_total\{code="\w+",verb="(\w+)"\} (\S+)$', self.get("/metrics"), re.MULTILINE)
        made: dict[str, int] = {}
        for verb, number in counted:
            made[verb] = made.get(verb, 0) + int(float(number))
        return made

    def writes(self) -> int:
        """Requests so far that change something, events included."""
        return sum(number for verb, number in self.requests().items() if verb not in ("get", "list", "watch"))

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


def cpu_seconds(group: str, *pids: int) -> float:
    """What all processes in cgroups whose path contains `group`, and these, have used of the CPUs since they began. Other work on the
    machine changes it little, while it changes every time on a clock."""
    ticks = 0
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (int(folder.name) in pids or group in (folder / "cgroup").read_text()):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS

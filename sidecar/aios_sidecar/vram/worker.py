"""The process that watches one GPU: reads it a few times a second, keeps its ledger, and tells the node agent. It never touches an agent.

    python -m aios_sidecar.vram.worker UUID DESCRIPTOR SETTINGS

A process of its own, because a call into a driver in trouble can hang for ever or take the process with it.
"""

import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pynvml

from aios_sidecar.cgroups import Container, containers_of
from aios_sidecar.contracts import (
    MESSAGE_LIMIT_BYTES,
    MIB,
    Booked,
    BookedShare,
    ProtocolError,
    Reading,
    Unread,
    WorkerMessage,
    decode_worker,
    encode,
)
from aios_sidecar.vram.ledger import Allowance, Ledger, ProcessUse, account, merge
from aios_sidecar.vram.settings import VramSettings
from aios_sidecar.vram.watch import Watch


class Driver:
    """What NVML says of one GPU. Every call may raise NVMLError; the next one then begins with a fresh connection."""

    def __init__(self, uuid: str, nvml: ModuleType = pynvml) -> None:
        self._uuid = uuid
        self._nvml: Any = nvml
        self._device: Any = None

    def read(self) -> tuple[int, int, dict[int, int | None]]:
        """Bytes that programs can use, bytes that are used, and the processes that use them."""
        try:
            if self._device is None:
                self._nvml.nvmlInit()
                self._device = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            # Processes first: memory that is allocated in between is unattributed rather than somebody's.
            processes = merge((self._listed("Compute"), self._listed("Graphics")))
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._device, version=self._nvml.nvmlMemory_v2)
        except self._nvml.NVMLError:
            self._device = None
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            raise
        return memory.total - memory.reserved, memory.used, processes

    def _listed(self, kind: str) -> list[ProcessUse]:
        found = getattr(self._nvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")(self._device)
        return [ProcessUse(each.pid, each.usedGpuMemory) for each in found]


class Worker:
    """Of one GPU."""

    def __init__(
        self,
        driver: Driver,
        settings: VramSettings,
        clock_seconds: Callable[[], float],
        containers: Callable[[int], tuple[Container, ...]] = containers_of,
    ) -> None:
        self._driver = driver
        self._settings = settings
        self._clock_seconds = clock_seconds
        self._containers = containers
        self._allowance = Allowance(settings.context_mib * MIB, settings.contexts)
        self._watch = Watch(settings.grace_seconds, settings.stale_seconds)
        self.shares: tuple[BookedShare, ...] = ()

    def look(self) -> list[WorkerMessage]:
        """One reading, and who is to be stopped for it."""
        began = self._clock_seconds()
        try:
            usable, used, processes = self._driver.read()
        except pynvml.NVMLError as error:
            return [Unread(reason=f"the driver gives no answer: {error}")]
        ledger = account(self.shares, processes, self._containers, used, self._allowance)
        if self._clock_seconds() - began > self._settings.stale_seconds:  # what the driver said first may be true no longer
            return [self._reading(ledger, usable)]
        return [self._reading(ledger, usable), *self._watch.judge(ledger, began)]

    def _reading(self, ledger: Ledger, usable: int) -> Reading:
        return Reading(
            capacity_bytes=max(0, usable // MIB - self._settings.withheld_mib) * MIB,
            used_bytes=ledger.used_bytes,
            unattributed_bytes=ledger.unattributed_bytes,
            uses=ledger.uses,
            context_bytes=self._allowance.context_bytes,
        )

    def serve(self, node: socket.socket) -> None:
        """Until the node agent's end of the socket is closed."""
        due = self._clock_seconds()
        while True:
            wait = max(0.0, due - self._clock_seconds())
            if select.select([node], [], [], wait)[0]:
                packet = node.recv(MESSAGE_LIMIT_BYTES + 1)
                if not packet:
                    return
                message = decode_worker(packet)
                if not isinstance(message, Booked):
                    raise ProtocolError(f"a worker is told what is booked, not {message.type}")
                self.shares = message.shares
                continue
            due = self._clock_seconds() + self._settings.read_seconds
            for said in self.look():
                node.sendall(encode(said))


def main(arguments: list[str]) -> int:
    uuid, descriptor, settings = arguments
    with socket.socket(fileno=int(descriptor)) as node, contextlib.suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        Worker(Driver(uuid), VramSettings(**json.loads(settings)), time.monotonic).serve(node)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

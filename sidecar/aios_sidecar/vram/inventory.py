"""The GPUs of this node, read through NVML."""

import asyncio
import contextlib
import logging
import threading
from types import ModuleType
from typing import Any, Final

import pynvml

from aios_sidecar.contracts.gpus import GPU, MIB, InventoryReport, WithheldGPU

log = logging.getLogger(__name__)

FAKE_MARKER: Final = "aios-fake"
"""In the driver version of our fake library, whatever else its file says."""


class NvmlInventory:
    """Reads the inventory anew on each call, in a thread of its own: a call into a driver in trouble can hang for long, or for ever."""

    def __init__(self, nvml: ModuleType = pynvml, answer_seconds: float = 10.0, withheld_mib: int = 0) -> None:
        """`answer_seconds`: how long the driver may take. Without its persistence daemon it takes seconds to wake a GPU.

        `withheld_mib`: what is not given away of each GPU, beside what the driver reserves.
        """
        self._nvml: Any = nvml
        self._answer_seconds = answer_seconds
        self._withheld_mib = withheld_mib
        self._initialized = False
        self._asking: asyncio.Future[InventoryReport] | None = None

    async def read(self) -> InventoryReport:
        """What the driver says now; raises nothing. After a failure the next call begins with a fresh connection to the driver."""
        if self._asking is None or self._asking.done():
            self._asking = self._in_thread()
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await asyncio.shield(self._asking)
        except TimeoutError:
            return InventoryReport(absent=f"the NVIDIA driver library has given no answer for {self._answer_seconds:g} seconds")

    async def close(self) -> None:
        """Let the driver go. A call that hangs in it is left behind and ends with the process."""
        if self._asking is None or self._asking.done():
            self._shut_down()

    def _in_thread(self) -> "asyncio.Future[InventoryReport]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[InventoryReport] = loop.create_future()

        def ask() -> None:
            try:
                report = self._read()
            except Exception as error:
                log.exception("reading the GPUs failed")
                report = InventoryReport(absent=f"reading the GPUs failed: {error}")
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(answer.set_result, report)

        # A daemon, so that the process can end while the driver hangs. There is never a second one.
        threading.Thread(target=ask, name="nvml", daemon=True).start()
        return answer

    def _read(self) -> InventoryReport:
        try:
            return self._ask()
        except self._nvml.NVMLError as error:
            # A reloaded driver answers nobody who connected before; one new connection tells that from one that is really in trouble.
            reconnect = self._initialized
            self._shut_down()
            if not reconnect:
                return InventoryReport(absent=f"the NVIDIA driver library gives no answer: {error}")
        try:
            return self._ask()
        except self._nvml.NVMLError as error:
            self._shut_down()
            return InventoryReport(absent=f"the NVIDIA driver library gives no answer any more: {error}")

    def _ask(self) -> InventoryReport:
        if not self._initialized:
            self._nvml.nvmlInit()
            self._initialized = True
        version = str(self._nvml.nvmlSystemGetDriverVersion())
        gpus: list[GPU] = []
        withheld: list[WithheldGPU] = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                device = self._nvml.nvmlDeviceGetHandleByIndex(index)
                if self._is_partitioned(device):
                    reason = "MIG mode is enabled on it; only whole GPUs are shared here"
                    withheld.append(WithheldGPU(index, reason, str(self._nvml.nvmlDeviceGetUUID(device))))
                    continue
                gpu = self._describe(device, index, fake=FAKE_MARKER in version)
                if gpu.memory_mib > 0:
                    gpus.append(gpu)
                else:
                    withheld.append(
                        WithheldGPU(index, f"it has no more memory than the {self._withheld_mib} MiB that are kept back", gpu.uuid)
                    )
            except self._nvml.NVMLError as error:
                withheld.append(WithheldGPU(index, f"the driver gives no answer for it: {error}"))
        return InventoryReport(tuple(gpus), tuple(withheld), driver_version=version)

    def _is_partitioned(self, device: object) -> bool:
        """A GPU in MIG mode runs programs only in its partitions, whose memory is not what the GPU tells."""
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(device)[0] == self._nvml.NVML_DEVICE_MIG_ENABLE)
        except self._nvml.NVMLError_NotSupported:
            return False

    def _describe(self, device: object, index: int, *, fake: bool) -> GPU:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
        return GPU(
            uuid=str(nvml.nvmlDeviceGetUUID(device)),
            model=str(nvml.nvmlDeviceGetName(device)),
            index=index,
            memory_mib=(memory.total - memory.reserved) // MIB - self._withheld_mib,
            fake=fake,
        )

    def _shut_down(self) -> None:
        if not self._initialized:
            return
        self._initialized = False
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            log.debug("the driver library did not shut down: %s", error)

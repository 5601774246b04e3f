"""What NVML says of one GPU."""

import contextlib
from types import ModuleType
from typing import Any, Final

import pynvml

from aios_sidecar.contracts.worker import Recovery, Vitals
from aios_sidecar.vram.health import recovery
from aios_sidecar.vram.ledger import ProcessUse, merge

XIDS_AT_ONCE: Final = 32
"""A fault that repeats without end must not keep a worker from its readings; the rest is heard at the next one."""


class Driver:
    """Every call may raise NVMLError; the next one then begins with a fresh connection."""

    def __init__(self, uuid: str, nvml: ModuleType = pynvml) -> None:
        self._uuid = uuid
        self._nvml: Any = nvml
        self._device: Any = None
        self._events: Any = None
        self._deaf: str | None = "nobody has listened yet"

    def read(self) -> tuple[int, int, dict[int, int | None]]:
        """Bytes that programs can use, bytes that are used, and the processes that use them."""
        try:
            self._connect()
            # Processes first: memory that is allocated in between is unattributed rather than somebody's.
            processes = merge((self._listed("Compute"), self._listed("Graphics")))
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._device, version=self._nvml.nvmlMemory_v2)
        except self._nvml.NVMLError:
            self._disconnect()
            raise
        return memory.total - memory.reserved, memory.used, processes

    def xids(self) -> list[int]:
        """The errors that were reported since the last call, in their order; none before the first `read`. Never waits."""
        heard: list[int] = []
        while self._events is not None and len(heard) < XIDS_AT_ONCE:
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError_Timeout:
                break
            except self._nvml.NVMLError as error:
                self._stop_listening(f"listening to its errors failed: {error}")
                break
            if event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                heard.append(int(event.eventData))
        return heard

    def vitals(self) -> Vitals:
        """As the driver tells it now. What this driver or this GPU doesn't know is not told."""
        self._connect()
        return Vitals(deaf=self._deaf, recovery=self._recovery(), rows_failed=self._rows_failed())

    def _connect(self) -> None:
        if self._device is not None:
            return
        self._nvml.nvmlInit()
        self._device = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
        self._listen()

    def _disconnect(self) -> None:
        self._stop_listening("the driver gives no answer")
        self._device = None
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _listen(self) -> None:
        kind = self._nvml.nvmlEventTypeXidCriticalError
        try:
            if not self._nvml.nvmlDeviceGetSupportedEventTypes(self._device) & kind:
                self._deaf = "this GPU reports no errors to NVML"
                return
            self._events = self._nvml.nvmlEventSetCreate()
            self._nvml.nvmlDeviceRegisterEvents(self._device, kind, self._events)
        except self._nvml.NVMLError as error:
            self._stop_listening(f"its errors can't be listened to: {error}")
        else:
            self._deaf = None

    def _stop_listening(self, why: str) -> None:
        self._deaf = why
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlEventSetFree(events)

    def _recovery(self) -> Recovery | None:
        try:
            (value,) = self._nvml.nvmlDeviceGetFieldValues(self._device, [self._nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
        except self._nvml.NVMLError:
            return None
        return recovery(int(value.value.uiVal)) if value.nvmlReturn == self._nvml.NVML_SUCCESS else None

    def _rows_failed(self) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetRemappedRows(self._device)[3])
        except self._nvml.NVMLError:
            return False

    def _listed(self, kind: str) -> list[ProcessUse]:
        found = getattr(self._nvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")(self._device)
        return [ProcessUse(each.pid, each.usedGpuMemory) for each in found]

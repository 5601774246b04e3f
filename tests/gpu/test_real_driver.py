"""What nodes with GPUs publish, hear and measure, on a real NVIDIA driver. Everything that needs no GPU runs on the fake libraries."""

import asyncio
import time
from pathlib import Path

import pynvml
import pytest

from aios_sidecar.contracts.gpus import MIB, InventoryReport
from aios_sidecar.vram.calibration import Calibration
from aios_sidecar.vram.driver import Driver
from aios_sidecar.vram.inventory import NvmlInventory
from aios_sidecar.vram.settings import VramSettings


@pytest.fixture(scope="module")
def report() -> InventoryReport:
    if not Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has no NVIDIA GPU (/dev/nvidiactl is missing)")

    async def read() -> InventoryReport:
        inventory = NvmlInventory()
        try:
            return await inventory.read()
        finally:
            await inventory.close()

    return asyncio.run(read())


def test_every_gpu_of_the_driver_is_offered_or_withheld_with_a_reason(report: InventoryReport):
    assert report.absent is None
    pynvml.nvmlInit()
    try:
        assert len(report.gpus) + len(report.withheld) == pynvml.nvmlDeviceGetCount()
    finally:
        pynvml.nvmlShutdown()
    assert all(withheld.reason for withheld in report.withheld)


def test_what_is_offered_is_real_and_no_more_than_the_gpu_has_beside_what_the_driver_keeps(report: InventoryReport):
    pynvml.nvmlInit()
    try:
        for gpu in report.gpus:
            handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
            assert 0 < gpu.memory_mib <= (memory.total - memory.reserved) >> 20
            assert gpu.model == pynvml.nvmlDeviceGetName(handle)
            assert not gpu.fake
    finally:
        pynvml.nvmlShutdown()


def test_the_health_of_a_gpu_is_told_and_its_errors_are_listened_to_or_it_is_said_why_not(report: InventoryReport):
    for gpu in report.gpus:
        driver = Driver(gpu.uuid)
        driver.read()
        vitals = driver.vitals()
        print(f"{gpu.model}: {vitals}")
        assert vitals.deaf is None or vitals.deaf
        assert driver.xids() == [], "nothing is wrong with it, and asking does not wait"
        assert driver.vitals() == vitals


def test_what_a_context_takes_is_measured_and_kept(report: InventoryReport, tmp_path: Path):
    settings = VramSettings(context_slack_mib=0)

    async def measure() -> list[str]:
        calibration = Calibration(settings, tmp_path, time.monotonic)
        sources = []
        for gpu in report.gpus:
            found = await calibration.of(gpu.uuid, report.driver_version or "")
            print(f"a context takes {found.context_bytes / MIB:.0f} MiB of {gpu.model} with driver {report.driver_version}")
            sources.append(found.source)
        return sources

    assert asyncio.run(measure()) == ["Calibrated"] * len(report.gpus)
    assert len(list(tmp_path.glob("GPU-*.json"))) == len(report.gpus)

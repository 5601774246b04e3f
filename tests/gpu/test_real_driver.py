"""The inventory on a real NVIDIA driver: what nodes with GPUs publish. Everything else that needs no GPU runs on the fake library."""

import asyncio
from pathlib import Path

import pynvml
import pytest

from aios_sidecar.contracts import InventoryReport
from aios_sidecar.vram.inventory import NvmlInventory


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

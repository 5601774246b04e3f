"""The inventory when there is no driver, or one that hangs. What it reads from one that answers is shown on the fake library."""

import asyncio
import threading
from types import SimpleNamespace

import pynvml
import pytest

from aios_sidecar.contracts.gpus import Inventory, InventoryReport
from aios_sidecar.vram.inventory import NvmlInventory


def no_library() -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


async def test_without_a_driver_library_there_are_no_gpus_and_a_reason():
    inventory: Inventory = NvmlInventory(SimpleNamespace(nvmlInit=no_library, NVMLError=pynvml.NVMLError))
    expected = InventoryReport(absent="the NVIDIA driver library gives no answer: NVML Shared Library Not Found")
    assert await inventory.read() == expected
    assert await inventory.read() == expected
    await inventory.close()


@pytest.mark.timeout(60)
async def test_a_driver_that_hangs_holds_up_neither_the_loop_nor_a_second_question():
    released, asked = threading.Event(), []

    def hang() -> None:
        asked.append(threading.current_thread().name)
        released.wait(10)
        no_library()

    inventory = NvmlInventory(SimpleNamespace(nvmlInit=hang, NVMLError=pynvml.NVMLError), answer_seconds=0.1)
    reports = await asyncio.gather(inventory.read(), inventory.read())
    reports.append(await inventory.read())
    assert reports == [InventoryReport(absent="the NVIDIA driver library has given no answer for 0.1 seconds")] * 3
    assert asked == ["nvml"], "one call is in the driver, however often it is asked for"
    await inventory.close()
    released.set()
    while "no answer: " not in ((await inventory.read()).absent or ""):  # when the driver comes back, so does the inventory
        await asyncio.sleep(0.01)

"""What a context takes, measured: a program makes one with libcuda and asks NVML for itself. Both libraries are fakes, the way is real."""

import json
import os
from pathlib import Path

import pytest

from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.contracts.worker import BookedShare
from aios_sidecar.vram.settings import VramSettings
from node.support import CLAIM_UID, POD_UID, eventually, rewrite
from node.test_watching import readings, supervised

MEASURING = VramSettings(margin_mib=0, context_mib=500, context_slack_mib=100, contexts=8, look_seconds=0.2)


def with_contexts(driver: Path, size: str) -> None:
    rewrite(driver, driver.read_text().replace("reserved=1Gi", f"reserved=1Gi context={size}"))


async def test_a_context_is_measured_once_and_granted_to_each_process(driver: Path, directory: Path) -> None:
    whole = driver.read_text()
    with_contexts(driver, "300Mi")
    share = BookedShare(claim_uid=CLAIM_UID, pod_uid=POD_UID, booked_bytes=MIB)
    async with supervised(share, settings=MEASURING, contexts=directory / "contexts") as (_, heard):
        await eventually(lambda: readings(heard), 30)
        told = readings(heard)[-1]
        assert (told.context_bytes, told.context_source) == (400 * MIB, "Calibrated")
        await eventually(lambda: readings(heard)[-1].used_bytes == 0)
    (kept,) = (directory / "contexts").iterdir()
    assert json.loads(kept.read_text()) == {"driver": "", "bytes": 300 * MIB}
    rewrite(driver, whole)
    with_contexts(driver, "310Mi")
    async with supervised(settings=MEASURING, contexts=directory / "contexts") as (_, heard):
        await eventually(lambda: readings(heard), 30)
        assert readings(heard)[-1].context_bytes == 400 * MIB, "the same driver is not measured again"


@pytest.mark.parametrize("size", ["", "8Gi", "8Mi"], ids=["none", "too much", "too little"])
async def test_what_can_not_be_measured_is_as_set_and_said_to_be(
    driver: Path, directory: Path, size: str, caplog: pytest.LogCaptureFixture
) -> None:
    if size:
        with_contexts(driver, size)
    async with supervised(settings=MEASURING, contexts=directory / "contexts") as (_, heard):
        await eventually(lambda: readings(heard), 30)
        told = readings(heard)[-1]
        assert (told.context_bytes, told.context_source) == (500 * MIB, "Setting")
    assert ("must take from 16 to 4096 MiB" if size else "CUDA_ERROR_NOT_SUPPORTED") in caplog.text
    assert not (directory / "contexts").exists()


async def test_a_full_gpu_is_not_measured(driver: Path, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_contexts(driver, "300Mi")
    rewrite(driver, driver.read_text() + f"process gpu=0 pid={os.getpid()} used=79Gi\n")
    async with supervised(settings=MEASURING, contexts=directory / "contexts") as (_, heard):
        await eventually(lambda: readings(heard), 30)
        assert readings(heard)[-1].context_source == "Setting"
    assert "cuDevicePrimaryCtxRetain says CUDA_ERROR_OUT_OF_MEMORY" in caplog.text

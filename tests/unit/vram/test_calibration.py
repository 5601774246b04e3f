"""What a context takes: measured when it can be, kept per driver, and never believed when it can't be true."""

import json
from pathlib import Path
from typing import Any

import pytest

from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.vram.calibration import AGAIN_SECONDS, Calibration, Refused, believable
from aios_sidecar.vram.ledger import Allowance
from aios_sidecar.vram.probe import NAMED_SECONDS, NoContext, make_context, own_use
from aios_sidecar.vram.settings import VramSettings

GPU = "GPU-aaaa"
SETTINGS = VramSettings(context_mib=500, context_slack_mib=100, contexts=4)
AS_SET = Allowance(500 * MIB, 4, "Setting")


class Probed(Calibration):
    """What probes say is given; they are counted."""

    def __init__(self, directory: Path, *said: Any, settings: VramSettings = SETTINGS) -> None:
        self.said, self.probes, self.now = list(said), 0, 1000.0
        super().__init__(settings, directory, lambda: self.now)

    async def _probe(self, uuid: str) -> Any:
        self.probes += 1
        return self.said.pop(0)


async def test_what_was_measured_is_granted_with_a_slack_and_measured_once(tmp_path: Path) -> None:
    first = Probed(tmp_path, {"bytes": 300 * MIB})
    assert await first.of(GPU, "615") == await first.of(GPU, "615") == Allowance(400 * MIB, 4, "Calibrated")
    assert first.probes == 1
    again = Probed(tmp_path)
    assert (await again.of(GPU, "615")).source == "Calibrated", "also by the next program"


async def test_another_driver_is_measured_anew(tmp_path: Path) -> None:
    calibration = Probed(tmp_path, {"bytes": 300 * MIB}, {"bytes": 350 * MIB})
    await calibration.of(GPU, "615")
    assert (await calibration.of(GPU, "616")).context_bytes == 450 * MIB


@pytest.mark.parametrize(
    "said",
    [
        {"error": "cuInit says CUDA_ERROR_NO_DEVICE"},
        {"bytes": 15 * MIB},
        {"bytes": 4097 * MIB},
        {"bytes": -1},
        {"bytes": True},
        {"bytes": "300"},
        {"bytes": 3e8},
        {},
        [],
        None,
    ],
)
async def test_what_can_not_be_measured_or_be_true_is_not_used_and_not_asked_for_at_once_again(tmp_path: Path, said: Any) -> None:
    calibration = Probed(tmp_path, said, {"bytes": 300 * MIB})
    assert await calibration.of(GPU, "615") == await calibration.of(GPU, "615") == AS_SET
    assert calibration.probes == 1
    assert list(tmp_path.iterdir()) == []
    calibration.now += AGAIN_SECONDS
    assert (await calibration.of(GPU, "615")).source == "Calibrated"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"driver": "615"}', '{"driver": "615", "bytes": 1}', '{"driver": "614", "bytes": 314572800}']
)
async def test_a_file_that_can_not_be_believed_is_measured_again(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{GPU}.json").write_text(text)
    calibration = Probed(tmp_path, {"bytes": 200 * MIB})
    assert (await calibration.of(GPU, "615")).context_bytes == 300 * MIB
    assert json.loads((tmp_path / f"{GPU}.json").read_text()) == {"driver": "615", "bytes": 200 * MIB}


async def test_whoever_wants_no_measurement_gets_none(tmp_path: Path) -> None:
    calibration = Probed(tmp_path, settings=VramSettings(calibrate=False, context_mib=500, contexts=4))
    assert await calibration.of(GPU, "615") == AS_SET
    assert calibration.probes == 0


async def test_a_machine_without_the_library_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(Refused, match=r"libcuda\.so\.1 can't be loaded"):
        believable(await Calibration(SETTINGS, tmp_path, lambda: 0.0)._probe(GPU))


def test_a_use_counts_when_two_readings_agree() -> None:
    readings = iter([{}, {7: None}, {7: 0}, {7: 100, 8: 900}, {7: 300}, {7: 300}])
    assert own_use(lambda: next(readings), 7, lambda: 0.0, lambda: None) == 300


@pytest.mark.parametrize(("readings", "sentence"), [([{8: 1}] * 9, "does not name"), ([{7: n + 1} for n in range(9)], "does not settle")])
def test_a_use_that_is_not_told_or_does_not_settle_is_none(readings: list[dict[int, int | None]], sentence: str) -> None:
    said, clock = iter(readings), iter(n * NAMED_SECONDS / 5 for n in range(9))
    with pytest.raises(NoContext, match=sentence):
        own_use(lambda: next(said), 7, lambda: next(clock), lambda: None)


def test_a_call_that_fails_is_named() -> None:
    class Library:
        def cuInit(self, flags: int) -> int:
            return 100

        def cuGetErrorName(self, code: int, name: Any) -> int:
            return 1

    with pytest.raises(NoContext, match="cuInit says error 100"):
        make_context(Library())

"""What a worker says of its GPU's errors: to whom they may belong, and when its health is told."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pynvml
import pytest

from aios_sidecar.cgroups import Container
from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.contracts.worker import BookedShare, Excess, Fault, FaultGroup, Reading, Recovery, Unread, Vitals
from aios_sidecar.vram.ledger import Allowance
from aios_sidecar.vram.settings import VramSettings
from aios_sidecar.vram.worker import Worker

A, B = "0" * 8 + "-0000-0000-0000-" + "a" * 12, "0" * 8 + "-0000-0000-0000-" + "b" * 12
SHARES = (BookedShare(claim_uid="aa", pod_uid=A, booked_bytes=MIB), BookedShare(claim_uid="bb", pod_uid=B, booked_bytes=MIB))
CGROUPS = {1: (Container(A, "x"),), 2: (Container(B, "y"),), 3: (), 4: (Container(A, "x"),)}


@dataclass
class Driver:
    """Says what a test wants it to."""

    processes: dict[int, int | None] = field(default_factory=dict)
    errors: list[int] = field(default_factory=list)
    told: Vitals = field(default_factory=Vitals)
    gone: bool = False

    def read(self) -> tuple[int, int, dict[int, int | None]]:
        if self.gone:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return 100 * MIB, sum(used or 0 for used in self.processes.values()), dict(self.processes)

    def xids(self) -> list[int]:
        heard, self.errors = self.errors, []
        return heard

    def vitals(self) -> Vitals:
        return self.told


def a_worker(driver: Driver, settings: VramSettings | None = None, times: Iterator[float] | None = None) -> Worker:
    clock = times or iter(float(n) / 8 for n in range(10_000))
    any_driver: Any = driver
    worker = Worker(any_driver, settings or VramSettings(), Allowance(MIB, 8, "Setting"), lambda: next(clock), lambda pid: CGROUPS[pid])
    worker.shares = SHARES
    return worker


def faults(said: list[Any]) -> list[Fault]:
    return [message for message in said if isinstance(message, Fault)]


def test_an_error_is_that_of_the_only_agent_on_the_gpu() -> None:
    driver = Driver({1: 100})
    worker = a_worker(driver)
    worker.look()
    driver.errors = [31]
    (fault,) = faults(worker.look())
    assert (fault.xid, fault.group, fault.claims, fault.others) == (31, FaultGroup.Application, ("aa",), False)
    assert faults(worker.look()) == [], "it is told once"


def test_a_program_that_erred_and_is_gone_is_still_named_and_so_is_one_that_is_new() -> None:
    driver = Driver({1: 100})
    worker = a_worker(driver)
    worker.look()
    driver.processes, driver.errors = {2: 100}, [13]
    (fault,) = faults(worker.look())
    assert set(fault.claims) == {"aa", "bb"}


def test_programs_that_are_nobody_s_are_said_to_have_been_there() -> None:
    driver = Driver({1: 100, 3: None})
    worker = a_worker(driver)
    driver.errors = [13]
    assert faults(worker.look())[0].others


def test_errors_are_told_also_when_the_gpu_can_be_read_no_more() -> None:
    driver = Driver({1: 100})
    worker = a_worker(driver)
    worker.look()
    driver.gone, driver.errors = True, [79]
    fault, unread = worker.look()
    assert isinstance(fault, Fault)
    assert isinstance(unread, Unread)
    assert (fault.group, fault.claims) == (FaultGroup.Broken, ("aa",))


def test_ignored_errors_are_told_as_notices() -> None:
    driver = Driver(errors=[119])
    assert faults(a_worker(driver, VramSettings(ignored_xids=(119,))).look())[0].group is FaultGroup.Notice


def test_health_is_told_at_the_start_when_it_changes_and_at_once_after_an_error() -> None:
    driver = Driver()
    worker = a_worker(driver, VramSettings(vitals_seconds=1000))
    first = worker.look()
    assert [message for message in first if isinstance(message, Vitals)] == [Vitals()]
    assert isinstance(first[-1], Reading), "readings come after what they must be read with"
    driver.told = Vitals(recovery=Recovery.Reset)
    assert not [message for message in worker.look() if isinstance(message, Vitals)]
    driver.errors = [95]
    assert [message for message in worker.look() if isinstance(message, Vitals)] == [driver.told]


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_health_is_asked_for_again_after_a_while(seconds: float) -> None:
    driver = Driver()
    worker = a_worker(driver, VramSettings(vitals_seconds=2.0), iter((0.0, 0.0, seconds, seconds)))
    worker.look()
    driver.told = Vitals(deaf="x")
    told = [message for message in worker.look() if isinstance(message, Vitals)]
    assert told == ([driver.told] if seconds >= 2 else [])


def over(worker: Worker, looks: int) -> list[Excess]:
    return [message for _ in range(looks) for message in worker.look() if isinstance(message, Excess)]


def test_who_is_above_his_share_is_told_with_all_processes_of_the_pod_together() -> None:
    driver = Driver({1: 2 * MIB, 4: MIB + 1, 2: MIB})
    worker = a_worker(driver, VramSettings(grace_seconds=0.5))
    (first, *_) = over(worker, 12)
    assert (first.use.claim_uid, first.use.processes, first.use.used_bytes) == ("aa", 2, 3 * MIB + 1)
    driver.processes[4] = MIB
    assert over(worker, 12) == [], "a share and a context for each of two processes"


def test_a_reading_that_took_too_long_stops_nobody() -> None:
    driver = Driver({1: 50 * MIB})
    slow = (float(n) for n in range(10_000))  # two seconds for each look
    worker = a_worker(driver, VramSettings(grace_seconds=0.5, stale_seconds=0.75), slow)
    assert over(worker, 50) == []


def test_a_process_of_another_namespace_or_one_that_has_ended_is_nobody_s() -> None:
    driver = Driver({3: 50 * MIB, 0: 10 * MIB})
    worker = a_worker(driver, VramSettings(grace_seconds=0.5))
    assert over(worker, 12) == []
    (reading,) = [message for message in worker.look() if isinstance(message, Reading)]
    assert reading.unattributed_bytes == 60 * MIB

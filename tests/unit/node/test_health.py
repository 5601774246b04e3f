"""What follows from a GPU's faults, when it is over, and that it is not forgotten in between."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aios_kube.events import EventRecorder
from aios_kube.fake import FakeCluster
from aios_kube.resources import EVENTS, NODES
from aios_sidecar.contracts.gpus import GPU, InventoryReport, WithheldGPU
from aios_sidecar.contracts.worker import Fault, FaultGroup, Recovery, Vitals
from aios_sidecar.node import health
from aios_sidecar.node.health import GPURecord
from aios_sidecar.node.health_keeper import HealthKeeper, epoch
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.settings import NodeSettings
from unit.node.support import CLAIM_UID, GPU_A, NOW, a_state

LATER = NOW + timedelta(minutes=5)
GPU_B = GPU(uuid="GPU-bbbbbbbb-0000-4000-8000-000000000002", model="H100", index=1, memory_mib=81559, fake=True)


def a_fault(xid: int = 79, group: FaultGroup = FaultGroup.Broken, claims: tuple[str, ...] = (), others: bool = False) -> Fault:
    return Fault(xid=xid, group=group, what="what it is", claims=claims, others=others)


def a_record() -> GPURecord:
    return health.seen(None, GPU_A, "boot").model_copy(update={"unmonitored": False})


def tainted(record: GPURecord, at: Any = NOW) -> tuple[str, str] | None:
    found = health.taint(record, at)
    return (found.value, found.effect) if found else None


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (FaultGroup.Application, None),
        (FaultGroup.Notice, None),
        (FaultGroup.Unknown, None),
        (FaultGroup.Degraded, ("Xid79", "NoSchedule")),
        (FaultGroup.Broken, ("Xid79", "NoExecute")),
    ],
)
def test_only_faults_of_the_device_taint_it(group: FaultGroup, expected: tuple[str, str] | None) -> None:
    after = health.after_fault(a_record(), a_fault(group=group), NOW)
    assert tainted(after) == expected
    assert health.state(after, NOW) == ("Faulty" if expected else "Healthy")


@pytest.mark.parametrize(
    ("recovery", "expected"),
    [
        (None, None),
        (Recovery.NoAction, None),
        (Recovery.Drain, ("DrainRequired", "NoSchedule")),
        (Recovery.DrainAndReset, ("DrainAndResetRequired", "NoSchedule")),
        (Recovery.Reset, ("ResetRequired", "NoExecute")),
        (Recovery.Reboot, ("RebootRequired", "NoExecute")),
    ],
)
def test_what_the_driver_asks_for_taints_the_device_as_long_as_it_asks(recovery: Recovery | None, expected: Any) -> None:
    after = health.after_vitals(a_record(), Vitals(recovery=recovery), NOW)
    assert tainted(after) == expected
    assert tainted(health.after_vitals(after, Vitals(recovery=Recovery.NoAction), LATER)) is None


def test_the_gravest_and_oldest_reason_is_the_one_that_is_published() -> None:
    record = health.after_fault(a_record(), a_fault(64, FaultGroup.Degraded), NOW)
    record = health.after_fault(record, a_fault(95), LATER)
    record = health.after_fault(record, a_fault(119), LATER + timedelta(seconds=1))
    found = health.taint(record, LATER)
    assert found is not None
    assert found.published() == {
        "key": "gpu.aios.dev/unhealthy",
        "value": "Xid95",
        "effect": "NoExecute",
        "timeAdded": "2026-01-01T00:05:00Z",
    }


def test_a_fault_that_repeats_changes_nothing() -> None:
    once = health.after_fault(a_record(), a_fault(), NOW)
    assert health.after_fault(once, a_fault(), LATER) == once


def test_a_fault_is_over_when_the_driver_has_asked_for_a_recovery_and_asks_no_more() -> None:
    record = health.after_fault(a_record(), a_fault(95), NOW)
    record = health.after_vitals(record, Vitals(recovery=Recovery.Reset), NOW)
    assert tainted(record) == ("ResetRequired", "NoExecute")
    assert tainted(health.after_vitals(record, Vitals(recovery=Recovery.NoAction), LATER)) is None


def test_a_fault_that_is_told_after_the_drivers_request_is_over_with_it() -> None:
    record = health.after_vitals(a_record(), Vitals(recovery=Recovery.Reset), NOW)
    record = health.after_fault(record, a_fault(95), LATER)
    assert tainted(health.after_vitals(record, Vitals(recovery=Recovery.NoAction), LATER)) is None


def test_a_fault_is_not_over_because_the_driver_asks_for_nothing() -> None:
    record = health.after_fault(a_record(), a_fault(119), NOW)
    for vitals in (Vitals(recovery=Recovery.NoAction), Vitals(), Vitals(recovery=Recovery.NoAction)):
        record = health.after_vitals(record, vitals, LATER)
    assert tainted(record) == ("Xid119", "NoExecute")


def test_a_fault_is_over_with_another_start_of_machine_or_driver() -> None:
    record = health.after_fault(a_record(), a_fault(), NOW)
    assert tainted(health.seen(record, GPU_A, "boot")) == ("Xid79", "NoExecute")
    assert tainted(health.seen(record, GPU_A, "another")) is None


def test_rows_that_can_not_be_remapped_keep_new_agents_away() -> None:
    record = health.after_vitals(a_record(), Vitals(rows_failed=True), NOW)
    assert tainted(record) == ("RowRemappingFailed", "NoSchedule")
    again = health.after_vitals(record, Vitals(rows_failed=True, deaf="x"), LATER)
    assert again == record, "it stands since it was first told"


def test_a_gpu_that_is_missing_takes_nobody_at_once_and_loses_its_agents_after_a_while() -> None:
    record = health.missed(a_record(), NOW)
    assert tainted(record, NOW) == ("Missing", "NoSchedule")
    assert tainted(health.missed(record, LATER), LATER) == ("Missing", "NoExecute")
    assert tainted(health.seen(record, GPU_A, "boot"), LATER) is None


def test_a_gpu_that_is_missing_loses_its_agents_after_a_while_although_the_clock_was_set_back() -> None:
    record = health.missed(health.missed(a_record(), LATER), NOW)
    assert tainted(record, NOW + health.MISSING_GRACE) == ("Missing", "NoExecute")


def test_not_being_monitored_is_a_state_and_no_fault() -> None:
    blind = a_record().model_copy(update={"unmonitored": True})
    assert (health.state(blind, NOW), tainted(blind)) == ("Unmonitored", None)
    assert health.state(health.after_fault(blind, a_fault(), NOW), NOW) == "Faulty"


def test_an_epoch_is_of_the_machine_and_of_the_driver(tmp_path: Path) -> None:
    module = tmp_path / "nvidia"
    none = epoch("boot", module)
    module.mkdir()
    first = epoch("boot", module)
    assert len({none, first, epoch("other", module)}) == 3
    assert epoch("boot", module) == first


class House:
    """A keeper that may be started again on the same disk."""

    def __init__(self, directory: Path) -> None:
        self.settings = NodeSettings("node-a", state_dir=directory, driver_module=directory / "none")
        self.now, self.boot = NOW, "boot"
        self.cluster = FakeCluster()
        self.nodes = Mirror()
        self.nodes.upsert(self.cluster.put(NODES, {"metadata": {"name": "node-a"}}))
        self.claims = LiveClaims(lambda: self.now)
        self.start()

    def start(self) -> None:
        self.events = EventRecorder(self.cluster, "c", "i", lambda: self.now)
        self.metrics = Metrics(lambda: 0.0)
        self.keeper = HealthKeeper(self.settings, self.claims, self.nodes, self.events, self.metrics, lambda: self.now, lambda: self.boot)
        self.keeper.open()

    def look(self, *gpus: GPU, withheld: tuple[WithheldGPU, ...] = ()) -> list[str]:
        return [gpu.uuid for gpu in self.keeper.look(InventoryReport(gpus, withheld))]

    def said(self, uuid: str = GPU_A.uuid) -> tuple[str, str | None]:
        state, taint = self.keeper.published()[uuid]
        return state, taint.value if taint else None

    async def told(self) -> list[tuple[str, str, str]]:
        await self.events.flush()
        return [(each["regarding"]["kind"], each["reason"], each["note"]) for each in self.cluster.all(EVENTS)]

    def metric(self, name: str) -> float | None:
        for line in self.metrics.text().decode().splitlines():
            if line.startswith(f'{name}{{gpu="{GPU_A.uuid}"'):
                return float(line.split()[-1])
        return None


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_a_fault_survives_restarts_and_ends_with_the_next_boot(house: House) -> None:
    house.look(GPU_A)
    house.keeper.monitor(GPU_A.uuid, read=True)
    assert house.said() == ("Healthy", None)
    house.keeper.hear(GPU_A.uuid, a_fault())
    for _ in range(2):
        assert house.look(GPU_A) == [GPU_A.uuid]
        assert house.said() == ("Faulty", "Xid79")
        assert house.metric("aios_gpu_healthy") == 0
        house.start()
    house.boot = "next"
    house.look(GPU_A)
    assert house.said() == ("Unmonitored", None)


async def test_at_rest_nothing_is_written_and_nobody_is_woken(house: House) -> None:
    house.look(GPU_A)
    house.keeper.hear(GPU_A.uuid, Vitals())
    house.keeper.monitor(GPU_A.uuid, read=True)
    file, change = house.settings.gpus_dir / f"{GPU_A.uuid}.json", house.keeper.next_change()
    written = file.stat().st_ino
    for _ in range(5):
        house.look(GPU_A)
        house.keeper.monitor(GPU_A.uuid, read=True)
    house.start()
    house.look(GPU_A)
    assert (file.stat().st_ino, change.is_set(), house.said()) == (written, False, ("Healthy", None))


async def test_what_was_heard_before_the_gpu_was_looked_at_is_not_lost(house: House) -> None:
    house.keeper.hear(GPU_A.uuid, a_fault())
    house.keeper.hear(GPU_A.uuid, Vitals(rows_failed=True))
    house.look(GPU_A)
    assert house.said() == ("Faulty", "Xid79")


async def test_state_that_can_not_be_read_keeps_new_agents_away_and_is_kept(house: House) -> None:
    house.look(GPU_A)
    file = house.settings.gpus_dir / f"{GPU_A.uuid}.json"
    file.write_text(file.read_text().replace("boot", "root"))
    house.start()
    house.look(GPU_A)
    assert house.said() == ("Faulty", "StateUnreadable")
    assert file.with_name(f"{file.name}.unreadable-1").exists()
    house.start()
    house.look(GPU_A)
    assert house.said() == ("Faulty", "StateUnreadable"), "also after another start"


async def test_a_missing_gpu_is_published_while_an_agent_holds_a_share_of_it(house: House) -> None:
    house.look(GPU_A, GPU_B)
    assert house.look(GPU_B) == [GPU_B.uuid]
    house.claims.put(a_state())
    assert house.look(GPU_B) == [GPU_B.uuid, GPU_A.uuid]
    assert house.said() == ("Faulty", "Missing")
    assert house.look(GPU_A, GPU_B) == [GPU_A.uuid, GPU_B.uuid]
    assert house.said()[1] is None
    mig = WithheldGPU(0, "MIG mode is enabled on it", GPU_A.uuid)
    assert house.look(GPU_B, withheld=(mig,)) == [GPU_B.uuid], "who was given another use is not missing"


async def test_faults_are_remembered_of_a_gpu_that_vanishes_and_comes_back(house: House) -> None:
    house.look(GPU_A, GPU_B)
    house.keeper.hear(GPU_A.uuid, a_fault())
    house.look(GPU_B)
    house.start()
    house.look(GPU_A, GPU_B)
    assert house.said() == ("Faulty", "Xid79")


async def test_a_driver_that_gives_no_answer_at_all_says_nothing_of_its_gpus(house: House) -> None:
    house.look(GPU_A)
    house.claims.put(a_state())
    assert house.keeper.look(InventoryReport(absent="not loaded")) == ()
    assert house.said()[1] is None


async def test_a_broken_gpu_that_makes_the_driver_fail_as_a_whole_keeps_its_taint_while_an_agent_holds_it(house: House) -> None:
    absent = InventoryReport(absent="the NVIDIA driver library gives no answer any more: GPU is lost")
    house.look(GPU_A, GPU_B)
    house.keeper.hear(GPU_A.uuid, a_fault())
    assert house.keeper.look(absent) == (), "nobody is on it"
    house.claims.put(a_state())
    for _ in range(2):
        assert house.keeper.look(absent) == (GPU_A,)
        assert house.said() == ("Faulty", "Xid79")
        house.start()
    house.boot = "next"
    assert house.keeper.look(absent) == (), "the fault was of another start of the machine"


async def test_people_are_told_when_a_missing_gpu_loses_its_agents_while_the_driver_gives_no_answer(house: House) -> None:
    house.claims.put(a_state())
    house.look(GPU_A, GPU_B)
    house.look(GPU_B)
    house.now = LATER
    assert house.keeper.look(InventoryReport(absent="no answer")) == (GPU_A,)
    told = [note for kind, _, note in await house.told() if kind == "Agent"]
    assert any(note.endswith("the Agents on it are evicted") for note in told)


async def test_a_gpu_that_left_with_its_boot_is_forgotten(house: House) -> None:
    house.look(GPU_A, GPU_B)
    house.boot = "next"
    house.look(GPU_B)
    assert list(house.keeper.published()) == [GPU_B.uuid]
    assert not (house.settings.gpus_dir / f"{GPU_A.uuid}.json").exists()


async def test_a_missing_gpu_is_told_twice_that_it_takes_nobody_and_that_its_agents_leave(house: House) -> None:
    house.claims.put(a_state())
    house.look(GPU_A, GPU_B)
    house.look(GPU_B)
    house.look(GPU_B)
    await house.told()
    house.start()
    house.now = LATER
    house.look(GPU_B)
    notes = {note.rpartition("; ")[2] for kind, reason, note in await house.told() if (kind, reason) == ("Node", "GPUUnhealthy")}
    assert notes == {"it takes no new Agent, and those on it go on", "the Agents on it are evicted"}


async def test_after_a_reboot_without_it_a_gpu_is_forgotten_by_a_new_program(house: House) -> None:
    house.look(GPU_A, GPU_B)
    house.boot = "next"
    house.start()
    assert house.look(GPU_B) == [GPU_B.uuid]
    assert list(house.keeper.published()) == [GPU_B.uuid]


@pytest.mark.parametrize(
    ("read", "vitals", "state", "heard"),
    [
        (True, Vitals(), "Healthy", 1),
        (True, Vitals(deaf="this GPU reports no errors"), "Unmonitored", 0),
        (False, Vitals(), "Unmonitored", 1),
    ],
)
async def test_a_gpu_is_monitored_when_it_is_read_and_heard(house: House, read: bool, vitals: Vitals, state: str, heard: int) -> None:
    house.look(GPU_A)
    house.keeper.hear(GPU_A.uuid, vitals)
    house.keeper.monitor(GPU_A.uuid, read=read)
    assert house.said() == (state, None)
    assert house.metric("aios_gpu_errors_heard") == heard


async def test_a_device_fault_is_told_to_the_node_and_to_the_agents_on_it(house: House) -> None:
    house.claims.put(a_state())
    house.look(GPU_A)
    house.keeper.hear(GPU_A.uuid, a_fault())
    note = f"GPU {GPU_A.uuid} is unhealthy (Xid79): Xid 79, what it is; the Agents on it are evicted"
    assert set(await house.told()) == {("Node", "GPUUnhealthy", note), ("Agent", "GPUUnhealthy", note)}
    house.boot = "next"
    house.look(GPU_A)
    assert ("Node", "GPUHealthy", f"GPU {GPU_A.uuid} is as it should be again") in await house.told()


@pytest.mark.parametrize(
    ("claims", "others", "words"),
    [
        ((CLAIM_UID,), False, "it was this Agent's. The GPU goes on"),
        ((CLAIM_UID, "bb"), False, "it was of one of the 2 Agents on it, the driver does not say whose"),
        ((CLAIM_UID,), True, "of one of the 1 Agents on it or of programs that are no Agent's"),
    ],
)
async def test_a_programs_fault_is_told_to_the_agents_that_it_may_be_of(
    house: House, claims: tuple[str, ...], others: bool, words: str
) -> None:
    house.claims.put(a_state())
    house.look(GPU_A)
    house.keeper.hear(GPU_A.uuid, a_fault(31, FaultGroup.Application, claims, others))
    ((kind, reason, note),) = await house.told()
    assert (kind, reason) == ("Agent", "GPUProgramFault")
    assert words in note
    assert house.said()[1] is None


async def test_a_program_that_was_not_there_is_not_blamed_and_unknown_errors_are_told_of(house: House) -> None:
    house.claims.put(a_state())
    house.look(GPU_A)
    house.keeper.hear(GPU_A.uuid, a_fault(31, FaultGroup.Application))
    house.keeper.hear(GPU_A.uuid, a_fault(63, FaultGroup.Notice))
    assert await house.told() == []
    house.keeper.hear(GPU_A.uuid, a_fault(998, FaultGroup.Unknown))
    ((kind, reason, note),) = await house.told()
    assert (kind, reason) == ("Node", "GPUErrorUnknown")
    assert "Xid 998" in note

"""What is known of a GPU's health, what follows from it, and when it is over. Pure.

A fault is forgotten by one of three rules, and by nothing else: the machine or the driver was started anew; the driver asked for a
recovery because of it and asks for none any more; a person removed the GPU's file. That a GPU is missing is over when it is back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from aios_api.names import DRIVER
from aios_sidecar.contracts.gpus import GPU
from aios_sidecar.contracts.worker import Fault, FaultGroup, Recovery, Vitals

TAINT_KEY: Final = f"{DRIVER}/unhealthy"
MISSING_GRACE: Final = timedelta(seconds=30)
"""How long a GPU may be missing before its Agents leave it: a driver that is loaded anew is back within seconds."""

Effect = Literal["NoSchedule", "NoExecute"]
State = Literal["Healthy", "Faulty", "Unmonitored"]

EFFECTS: Final[dict[FaultGroup, Effect]] = {FaultGroup.Degraded: "NoSchedule", FaultGroup.Broken: "NoExecute"}
_RECOVERY_EFFECTS: Final[dict[Recovery, Effect]] = {
    Recovery.Drain: "NoSchedule",
    Recovery.DrainAndReset: "NoSchedule",
    Recovery.Reset: "NoExecute",
    Recovery.Reboot: "NoExecute",
}
"""What the driver wants drained may go on until its end; what it wants reset now is of no use to anybody."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class KnownFault(_Record):
    """One that has consequences."""

    value: str
    """The value of the taint, such as Xid79."""
    effect: Effect
    since: datetime
    confirmed: bool = False
    """Whether the driver asked for a recovery after it."""


class GPURecord(_Record):
    """All that is kept of a GPU across restarts of this program."""

    uuid: str
    model: str
    index: int
    memory_mib: int
    fake: bool
    epoch: str
    """Of the machine and its driver: what was known in another one means nothing."""
    faults: tuple[KnownFault, ...] = ()
    recovery: Recovery | None = None
    """What the driver asked for last, and since when; None when it never told."""
    recovery_since: datetime | None = None
    rows_failed_since: datetime | None = None
    missing_since: datetime | None = None
    unmonitored: bool = True

    @property
    def gpu(self) -> GPU:
        return GPU(self.uuid, self.model, self.index, self.memory_mib, self.fake)


@dataclass(frozen=True, slots=True)
class Taint:
    """The one that is published, if any: the gravest, and of those the oldest."""

    value: str
    effect: Effect
    since: datetime

    def published(self) -> dict[str, Any]:
        """As the API has it. The time is given: one that the API server fills in would look like a change."""
        time = self.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"key": TAINT_KEY, "value": self.value, "effect": self.effect, "timeAdded": time}


def seen(known: GPURecord | None, gpu: GPU, epoch: str) -> GPURecord:
    """After the driver has named the GPU."""
    now = GPURecord(uuid=gpu.uuid, model=gpu.model, index=gpu.index, memory_mib=gpu.memory_mib, fake=gpu.fake, epoch=epoch)
    if known is None or known.epoch != epoch:
        return now
    described = {"model": now.model, "index": now.index, "memory_mib": now.memory_mib, "fake": now.fake}
    return known.model_copy(update={**described, "missing_since": None})


def missed(known: GPURecord, now: datetime) -> GPURecord:
    """After the driver has named other GPUs and not this one."""
    since = known.missing_since  # one in the future was written before the clock was set back
    return known if since is not None and since <= now else known.model_copy(update={"missing_since": now})


def unreadable(known: GPURecord, now: datetime) -> GPURecord:
    """When what was known of it could not be read: it takes nobody new until somebody has looked."""
    return _with_fault(known, KnownFault(value="StateUnreadable", effect="NoSchedule", since=now))


def after_fault(known: GPURecord, fault: Fault, now: datetime) -> GPURecord:
    """After the driver has reported an error."""
    effect = EFFECTS.get(fault.group)
    if effect is None:
        return known
    asked = known.recovery in _RECOVERY_EFFECTS
    return _with_fault(known, KnownFault(value=f"Xid{fault.xid}", effect=effect, since=now, confirmed=asked))


def after_vitals(known: GPURecord, vitals: Vitals, now: datetime) -> GPURecord:
    """After the driver has told what it asks for."""
    faults = known.faults
    if vitals.recovery in _RECOVERY_EFFECTS:
        faults = tuple(fault.model_copy(update={"confirmed": True}) for fault in faults)
    elif vitals.recovery is not None:
        faults = tuple(fault for fault in faults if not fault.confirmed)
    changes: dict[str, Any] = {"faults": faults}
    if vitals.recovery != known.recovery:
        changes |= {"recovery": vitals.recovery, "recovery_since": now}
    if vitals.rows_failed != (known.rows_failed_since is not None):
        changes["rows_failed_since"] = now if vitals.rows_failed else None
    return known.model_copy(update=changes)


def taint(known: GPURecord, now: datetime) -> Taint | None:
    """What keeps Agents away from the GPU."""
    found = sorted(_reasons(known, now), key=lambda each: (each.effect != "NoExecute", each.since, each.value))
    return found[0] if found else None


def state(known: GPURecord, now: datetime) -> State:
    """In a word. That a fault is known says more than that no new one can be heard."""
    if taint(known, now) is not None:
        return "Faulty"
    return "Unmonitored" if known.unmonitored else "Healthy"


def _reasons(known: GPURecord, now: datetime) -> Iterable[Taint]:
    yield from (Taint(fault.value, fault.effect, fault.since) for fault in known.faults)
    if known.recovery in _RECOVERY_EFFECTS and known.recovery_since is not None:
        yield Taint(f"{known.recovery}Required", _RECOVERY_EFFECTS[known.recovery], known.recovery_since)
    if known.rows_failed_since is not None:
        yield Taint("RowRemappingFailed", "NoSchedule", known.rows_failed_since)
    if known.missing_since is not None:
        yield Taint("Missing", "NoExecute" if now - known.missing_since >= MISSING_GRACE else "NoSchedule", known.missing_since)


def _with_fault(known: GPURecord, fault: KnownFault) -> GPURecord:
    """A fault that is known already stays what it was, so that one which repeats changes nothing."""
    if any(each.value == fault.value for each in known.faults):
        return known
    return known.model_copy(update={"faults": (*known.faults, fault)})

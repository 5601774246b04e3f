"""Keeps what is known of each GPU's health, on the disk as well, and tells people of it: what follows is decided in `health.py`."""

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from aios_api import names
from aios_kube.events import EventRecorder, Regarding
from aios_sidecar.contracts.gpus import GPU, InventoryReport
from aios_sidecar.contracts.worker import Fault, FaultGroup, Vitals
from aios_sidecar.node import health, records
from aios_sidecar.node.files import remove, remove_leftovers, write_atomically
from aios_sidecar.node.health import GPURecord
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.settings import NodeSettings

log = logging.getLogger(__name__)

KIND: Final = "gpu"
UUID: Final = re.compile(r"GPU-[0-9A-Za-z-]{1,75}", re.ASCII)
"""Uuids become parts of paths, so nothing else passes for one."""
EARLY_MESSAGES: Final = 64
CONSEQUENCES: Final = {
    "NoSchedule": "it takes no new Agent, and those on it go on",
    "NoExecute": "the Agents on it are evicted",
}


def epoch(boot_id: str, driver_module: Path) -> str:
    """Names this start of the machine and of the driver: a kernel module that is loaded again has another inode."""
    try:
        return f"{boot_id}/{driver_module.stat().st_ino}"
    except OSError:
        return f"{boot_id}/-"


class HealthKeeper:
    """Writes are few and small, and done where they are due: a fault that is forgotten at a crash would put Agents on a broken GPU.

    What the disk does not take is in force all the same, and written at one of the next looks."""

    def __init__(
        self,
        settings: NodeSettings,
        claims: LiveClaims,
        nodes: Mirror,
        events: EventRecorder,
        metrics: Metrics,
        clock: Callable[[], datetime],
        boot_id: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._nodes = nodes
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._boot_id = boot_id
        self._known: dict[str, GPURecord] = {}
        self._unreadable: set[str] = set()
        self._early: dict[str, deque[Fault | Vitals]] = {}
        """What workers said of GPUs that were not looked at yet."""
        self._told: dict[str, health.Taint | None] = {}
        """What people were told of each GPU, by this program or by the one before."""
        self._deaf: dict[str, bool] = {}
        self._unwritten: set[str] = set()
        """GPUs of which the disk has not taken what is known."""
        self._changed = asyncio.Event()

    def open(self) -> None:
        """What the program before knew is known."""
        directory = self._settings.gpus_dir
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_leftovers(directory, "*")
        for path in sorted(directory.glob("GPU-*.json")):
            try:
                record = records.decode(KIND, GPURecord, path.read_bytes())
                if record.uuid != path.stem:
                    raise records.UnreadableState(f"it speaks of {record.uuid}")
                self._known[record.uuid] = record
                self._told[record.uuid] = health.taint(record, self._clock())
            except (records.UnreadableState, OSError) as error:
                self._unreadable.add(path.stem)
                log.error("what was known of the health of %s can't be read: %s", path.stem, error)
                with contextlib.suppress(OSError):
                    log.error("it is kept as %s", records.set_aside(path))

    def next_change(self) -> asyncio.Event:
        """Set when what is to be published changes from now on. Take it before looking, wait for it afterwards."""
        return self._changed

    def look(self, report: InventoryReport) -> tuple[GPU, ...]:
        """The GPUs to publish: those that there are, and of those that are missing the ones of which an Agent holds a share.

        When the driver gives no answer: those of which an Agent holds a share and that were known to be unhealthy.
        """
        for uuid in tuple(self._unwritten & self._known.keys()):
            self._write(self._known[uuid])
        now, current = self._clock(), epoch(self._boot_id(), self._settings.driver_module)
        held = {live.state.gpu.uuid for live in self._claims if live.state.gpu is not None}
        if report.absent is not None:
            return self._still_broken(held, current)
        present = {gpu.uuid: gpu for gpu in report.gpus} | {item.uuid: None for item in report.withheld if item.uuid is not None}
        for uuid, gpu in present.items():
            if gpu is not None and UUID.fullmatch(uuid):
                after = health.seen(self._known.get(uuid), gpu, current)
                if uuid in self._unreadable:
                    self._unreadable.discard(uuid)
                    after = health.unreadable(after, now)
                self._keep(after, "what was known of it can't be read" if after.faults else "it is there")
                for message in self._early.pop(uuid, ()):
                    self._learn(uuid, message)
        for record in [record for record in self._known.values() if record.uuid not in present]:
            if record.epoch != current:
                self._forget(record.uuid)
            else:
                self._keep(health.missed(record, now), "the driver does not name it any more")
        missing = (record.gpu for record in self._known.values() if record.missing_since is not None and record.uuid in held)
        return (*report.gpus, *missing)

    def _still_broken(self, held: set[str], current: str) -> tuple[GPU, ...]:
        """While the driver gives no answer at all: nothing new can be said of any GPU, and what is not published disturbs nobody. Yet one
        broken GPU may be why, and the Agents on it must not be kept because its taint went away with it."""
        broken: list[GPU] = []
        for record in [self._known[uuid] for uuid in sorted(held & self._known.keys())]:
            if record.epoch == current and health.taint(record, self._clock()) is not None:
                self._keep(record, "the driver gives no answer any more")
                broken.append(record.gpu)
        return tuple(broken)

    def published(self) -> Mapping[str, tuple[health.State, health.Taint | None]]:
        """What the slice says of each GPU."""
        now = self._clock()
        return {record.uuid: (health.state(record, now), health.taint(record, now)) for record in self._known.values()}

    def hear(self, uuid: str, message: Fault | Vitals) -> None:
        """A worker has spoken of its GPU's health."""
        if isinstance(message, Fault):
            self._metrics.faults.labels(uuid, str(message.group)).inc()
            self._tell_fault(uuid, message)
        else:
            self._deaf[uuid] = message.deaf is not None
            self._metrics.listening.labels(uuid).set(message.deaf is None)
            if message.deaf is not None:
                log.warning("errors of GPU %s can't be heard: %s", uuid, message.deaf)
        self._learn(uuid, message)

    def _learn(self, uuid: str, message: Fault | Vitals) -> None:
        known, now = self._known.get(uuid), self._clock()
        if known is None:
            self._early.setdefault(uuid, deque(maxlen=EARLY_MESSAGES)).append(message)
        elif isinstance(message, Fault):
            self._keep(health.after_fault(known, message, now), f"Xid {message.xid}, {message.what}")
        else:
            why = "rows of its memory could not be remapped" if message.rows_failed else f"the driver asks for {message.recovery}"
            self._keep(health.after_vitals(known, message, now), why)

    def monitor(self, uuid: str, read: bool) -> None:
        """Whether the GPU is being read. It is monitored when its errors can be heard, too."""
        known, unmonitored = self._known.get(uuid), not read or self._deaf.get(uuid, False)
        if known is not None and known.unmonitored != unmonitored:
            self._keep(known.model_copy(update={"unmonitored": unmonitored}), "it can't be read" if unmonitored else "it is read")

    def _keep(self, after: GPURecord, why: str) -> None:
        """This is known now. `why` is what people read when it makes a difference to them."""
        if after != self._known.get(after.uuid):
            self._known[after.uuid] = after
            self._write(after)
            self._changed.set()
            self._changed = asyncio.Event()
        taint = health.taint(after, self._clock())
        self._metrics.healthy.labels(after.uuid).set(taint is None)
        if taint != self._told.get(after.uuid):
            self._told[after.uuid] = taint
            self._tell_taint(after.uuid, taint, why)

    def _write(self, record: GPURecord) -> None:
        try:
            write_atomically(self._path(record.uuid), records.encode(KIND, record), 0o600)
        except OSError as error:
            if record.uuid not in self._unwritten:
                log.error("what is known of the health of %s is not on the disk: %s", record.uuid, error)
            self._unwritten.add(record.uuid)
        else:
            self._unwritten.discard(record.uuid)

    def _forget(self, uuid: str) -> None:
        del self._known[uuid]
        self._told.pop(uuid, None)
        try:
            remove(self._path(uuid))
        except OSError as error:  # of an epoch that is over: the next program forgets it again
            log.warning("what was known of the health of %s is still on the disk: %s", uuid, error)
        self._metrics.forget(uuid)

    def _path(self, uuid: str) -> Path:
        return self._settings.gpus_dir / f"{uuid}.json"

    def _tell_taint(self, uuid: str, taint: health.Taint | None, why: str) -> None:
        if taint is None:
            note = f"GPU {uuid} is as it should be again"
            log.info("%s", note)
            self._about_node("Normal", "GPUHealthy", note)
            return
        note = f"GPU {uuid} is unhealthy ({taint.value}): {why}; {CONSEQUENCES[taint.effect]}"
        log.error("%s", note)
        self._about_node("Warning", "GPUUnhealthy", note)
        for live in self._on(uuid):
            self._events.record(_agent(live), "Warning", "GPUUnhealthy", "Watch", note)

    def _tell_fault(self, uuid: str, fault: Fault) -> None:
        log.warning("GPU %s reported Xid %d (%s): %s", uuid, fault.xid, fault.group, fault.what)
        if fault.group is FaultGroup.Unknown:
            note = f"GPU {uuid} reported Xid {fault.xid}, which this version does not know; nothing is done about it"
            self._about_node("Warning", "GPUErrorUnknown", note)
        if fault.group is not FaultGroup.Application:
            return
        concerned = [live for live in self._on(uuid) if live.state.claim_uid in fault.claims]
        for live in concerned:
            whose = "this Agent's"
            if len(fault.claims) > 1 or fault.others:
                others = " or of programs that are no Agent's" if fault.others else ""
                whose = f"of one of the {len(fault.claims)} Agents on it{others}, the driver does not say whose"
            note = f"Xid {fault.xid} on GPU {uuid}: a program had {fault.what}; it was {whose}. The GPU goes on"
            self._events.record(_agent(live), "Warning", "GPUProgramFault", "Watch", note)

    def _on(self, uuid: str) -> list[LiveClaim]:
        return [live for live in self._claims if live.state.gpu is not None and live.state.gpu.uuid == uuid]

    def _about_node(self, kind: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        for node in self._nodes.all():
            regarding = Regarding("v1", "Node", "", self._settings.node_name, node["metadata"]["uid"])
            self._events.record(regarding, kind, reason, "Watch", note)


def _agent(live: LiveClaim) -> Regarding:
    state = live.state
    return Regarding(names.API_VERSION, "Agent", state.namespace, state.agent, state.agent_uid)

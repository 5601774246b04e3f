"""What the workers of the GPUs say becomes facts, metrics and, for who takes more than his share, the end of his container."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from aios_api import names
from aios_api.quantity import format_bytes
from aios_kube.events import EventRecorder, Regarding
from aios_sidecar.cgroups import Container
from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.contracts.worker import Booked, BookedShare, Excess, Reading, Unread, Use, WorkerMessage, Workers
from aios_sidecar.node.health_keeper import HealthKeeper
from aios_sidecar.node.live import USE_WORDS, LiveClaim, LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.shots import kill_container
from aios_sidecar.node.state import StateFiles
from aios_sidecar.node.waiting import Turns, first_of, to_the_end

log = logging.getLogger(__name__)

UNREAD_SECONDS = 5.0
"""Without a reading for so long, a GPU is not monitored. A worker that is replaced is back earlier, so that no status flaps with it."""
TICK_SECONDS = 1.0
USE_SECONDS = 10.0
"""Between two words about how much an Agent uses, on average: each is a write to the API."""
USE_STEP = 20
"""Only a change by this part of the share is told: at rest, nothing is."""
UNATTRIBUTED_BYTES = 64 * MIB
"""Use by nobody we know that is worth a line in the log; the metric shows it all."""


@dataclass
class _Heard:
    """Of one GPU, last."""

    since: float
    """When we began to wait for the next reading."""
    reason: str = "the worker of the GPU has not spoken yet"
    monitored: bool | None = None
    told_unattributed: bool = False


class GPUs:
    """`run` in a task. Decides nothing itself: a worker says who is above his share, and it is checked that he still holds that share."""

    def __init__(
        self,
        workers: Workers,
        claims: LiveClaims,
        files: StateFiles,
        turns: Turns,
        events: EventRecorder,
        health: HealthKeeper,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._workers = workers
        self._claims = claims
        self._files = files
        self._turns = turns
        self._events = events
        self._health = health
        self._metrics = metrics
        self._clock = clock
        self._heard: dict[str, _Heard] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled. A container that is being stopped then is stopped."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._workers.run(self.hear))
                group.create_task(self._keep_booked())
        finally:
            if self._stopping:
                await asyncio.wait(self._stopping.values())

    async def _keep_booked(self) -> None:
        while True:
            change = self._claims.next_change()
            self._workers.book(self._booked())
            self._look_for_silence()
            await first_of(change, seconds=TICK_SECONDS)

    def _booked(self) -> dict[str, Booked]:
        shares: dict[str, list[BookedShare]] = {}
        for live in self._claims:
            if live.state.gpu is not None:
                share = BookedShare(claim_uid=live.state.claim_uid, pod_uid=live.state.pod_uid, booked_bytes=live.state.gpu.memory_bytes)
                shares.setdefault(live.state.gpu.uuid, []).append(share)
        for uuid in shares.keys() | self._heard.keys():
            self._metrics.booked.labels(uuid).set(sum(share.booked_bytes for share in shares.get(uuid, ())))
        return {uuid: Booked(shares=tuple(of_gpu)) for uuid, of_gpu in shares.items()}

    def hear(self, uuid: str, message: WorkerMessage) -> None:
        """A worker has spoken."""
        if isinstance(message, Reading):
            self._read(uuid, message)
        elif isinstance(message, Unread):
            self._of(uuid).reason = message.reason
        elif isinstance(message, Excess):
            self._excess(uuid, message)
        else:
            self._health.hear(uuid, message)

    def _of(self, uuid: str) -> _Heard:
        return self._heard.setdefault(uuid, _Heard(asyncio.get_running_loop().time()))

    def _read(self, uuid: str, reading: Reading) -> None:
        heard = self._of(uuid)
        heard.since, heard.reason, heard.monitored = asyncio.get_running_loop().time(), "the worker of the GPU is silent", True
        self._metrics.monitored.labels(uuid).set(1)
        self._health.monitor(uuid, read=True)
        self._metrics.capacity.labels(uuid).set(reading.capacity_bytes)
        self._metrics.used.labels(uuid).set(reading.used_bytes)
        self._metrics.unattributed.labels(uuid).set(reading.unattributed_bytes)
        self._metrics.context.labels(uuid).set(reading.context_bytes)
        self._metrics.calibrated.labels(uuid).set(reading.context_source == "Calibrated")
        self._tell_unattributed(uuid, heard, reading.unattributed_bytes)
        for use in reading.uses:
            live = self._holder(uuid, use)
            if live is None or live.state.pod_uid is None:
                continue
            if not live.facts.watched:
                self._claims.learn(live, replace(live.facts, watched=True, watch_message=self._verified(uuid, use, reading)))
            used_mib = -(-use.used_bytes // MIB)
            lately = len(live.used_told) == USE_WORDS and heard.since - live.used_told[0] < USE_WORDS * USE_SECONDS
            if not lately and worth_telling(live.used_mib, used_mib, use.booked_bytes // MIB):
                self._claims.tell_use(live, used_mib, heard.since)

    def _verified(self, uuid: str, use: Use, reading: Reading) -> str:
        how = "as measured" if reading.context_source == "Calibrated" else "as set"
        return (
            f"{uuid} was read at {self._time()}: {_mib(use.used_bytes)} used by {use.processes} processes of the pod; its limit is "
            f"{_mib(use.booked_bytes)}, and {_mib(reading.context_bytes)} for the context of each process, {how}"
        )

    def _tell_unattributed(self, uuid: str, heard: _Heard, unattributed_bytes: int) -> None:
        much = unattributed_bytes >= UNATTRIBUTED_BYTES
        if much and not heard.told_unattributed:
            log.warning("%s of GPU %s are used by no Agent that booked a share; nobody is stopped for it", _mib(unattributed_bytes), uuid)
        heard.told_unattributed = much

    def _holder(self, uuid: str, use: Use) -> LiveClaim | None:
        """The claim that the worker speaks of, if it still holds just that share."""
        live = self._claims.get(use.claim_uid)
        if live is None or live.state.gpu is None:
            return None
        return live if (live.state.gpu.uuid, live.state.gpu.memory_bytes) == (uuid, use.booked_bytes) else None

    def _look_for_silence(self) -> None:
        """Without readings nothing is enforced, and it must be said."""
        now = asyncio.get_running_loop().time()
        for live in self._claims:
            if live.state.gpu is not None:
                self._of(live.state.gpu.uuid)
        for uuid, heard in self._heard.items():
            if now - heard.since < UNREAD_SECONDS:
                continue
            if heard.monitored is not False:
                heard.monitored = False
                log.error("GPU %s can't be monitored: %s; no Agent on it is held to its share", uuid, heard.reason)
                self._metrics.monitored.labels(uuid).set(0)
                self._health.monitor(uuid, read=False)
                for gauge in (self._metrics.used, self._metrics.unattributed):
                    gauge.remove(uuid)
            for live in self._claims:
                if live.state.gpu is not None and live.state.gpu.uuid == uuid and live.facts.watched is not False:
                    message = f"{uuid} can't be read since {self._time()}: {heard.reason}"
                    self._claims.tell_use(live, None, now)
                    self._claims.learn(live, replace(live.facts, watched=False, watch_message=message))

    def _excess(self, uuid: str, excess: Excess) -> None:
        live = self._holder(uuid, excess.use)
        if live is None or live.state.pod_uid is None or excess.use.claim_uid in self._stopping:
            return
        task = asyncio.create_task(self._stop(uuid, live, live.state.pod_uid, excess), name=f"stop {live.state.pod_name}")
        self._stopping[excess.use.claim_uid] = task
        task.add_done_callback(lambda done: self._stopped(excess.use.claim_uid, done))

    def _stopped(self, claim_uid: str, done: "asyncio.Task[None]") -> None:
        del self._stopping[claim_uid]
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("claim %s is above its share and was not stopped as it should be", claim_uid, exc_info=error)

    async def _stop(self, uuid: str, live: LiveClaim, pod_uid: str, excess: Excess) -> None:
        """First the shot, then the words about it."""
        state, use = live.state, excess.use
        killed = 0
        for container in use.containers:
            killed += await asyncio.to_thread(kill_container, Container(pod_uid, container))
        over = use.used_bytes - use.allowed_bytes
        note = (
            f"attempt {state.attempt} used {_mib(use.used_bytes)} of {uuid} for {excess.seconds:g} s: {_mib(over)} more than its share of "
            f"{_mib(use.booked_bytes)} and {_mib(use.allowed_bytes - use.booked_bytes)} for contexts; its container was killed "
            f"at {self._time()}"
        )
        log.warning("%s/%s: %s (%d processes)", state.namespace, state.agent, note, killed)
        self._metrics.shots.labels(uuid).inc()
        agent = Regarding(names.API_VERSION, "Agent", state.namespace, state.agent, state.agent_uid)
        self._events.record(agent, "Warning", "ShareExceeded", "Watch", note)
        async with self._turns.at(state.claim_uid):
            if self._claims.get(state.claim_uid) is live:
                await to_the_end(self._remember(live, note))

    async def _remember(self, live: LiveClaim, note: str) -> None:
        state = live.state.model_copy(update={"excess": note})
        await asyncio.to_thread(self._files.write, state)
        self._claims.put(state)

    def _time(self) -> str:
        return self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def worth_telling(told_mib: int | None, used_mib: int, share_mib: int) -> bool:
    """Whether a person who was told `told_mib` would want to know: it changed by a part of the share, or from or to nothing."""
    if told_mib is None or (told_mib == 0) != (used_mib == 0):
        return told_mib != used_mib
    return abs(used_mib - told_mib) * USE_STEP >= share_mib and used_mib != told_mib


def _mib(size_bytes: int) -> str:
    """Rounded up to whole MiB: what is over is over by at least one."""
    return format_bytes(-(-size_bytes // MIB) * MIB)

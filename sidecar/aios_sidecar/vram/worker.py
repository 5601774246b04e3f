"""The process that watches one GPU: reads it a few times a second, keeps its ledger, and tells the node agent. It never touches an agent.

    python -m aios_sidecar.vram.worker UUID DESCRIPTOR SETTINGS ALLOWANCE

A process of its own, because a call into a driver in trouble can hang for ever or take the process with it.
"""

import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Callable

import pynvml

from aios_sidecar.cgroups import Container, containers_of
from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.contracts.packets import MESSAGE_LIMIT_BYTES, ProtocolError, encode
from aios_sidecar.contracts.worker import Booked, BookedShare, Fault, Reading, Unread, Vitals, WorkerMessage, decode
from aios_sidecar.vram.driver import Driver
from aios_sidecar.vram.health import meaning
from aios_sidecar.vram.ledger import Allowance, Ledger, account
from aios_sidecar.vram.settings import VramSettings
from aios_sidecar.vram.watch import Watch


class Worker:
    """Of one GPU."""

    def __init__(
        self,
        driver: Driver,
        settings: VramSettings,
        allowance: Allowance,
        clock_seconds: Callable[[], float],
        containers: Callable[[int], tuple[Container, ...]] = containers_of,
    ) -> None:
        self._driver = driver
        self._settings = settings
        self._clock_seconds = clock_seconds
        self._containers = containers
        self._allowance = allowance
        self._watch = Watch(settings.grace_seconds, settings.stale_seconds)
        self._last: Ledger | None = None
        self._vitals: Vitals | None = None
        self._vitals_due = 0.0
        self.shares: tuple[BookedShare, ...] = ()

    def look(self) -> list[WorkerMessage]:
        """What the driver reported since the last look, one reading, and who is to be stopped for it."""
        began = self._clock_seconds()
        xids = self._driver.xids()
        try:
            usable, used, processes = self._driver.read()
        except pynvml.NVMLError as error:
            return [*self._faults(xids, None), Unread(reason=f"the driver gives no answer: {error}")]
        ledger = account(self.shares, processes, self._containers, used, self._allowance)
        said: list[WorkerMessage] = [*self._faults(xids, ledger), *self._health(began, at_once=bool(xids)), self._reading(ledger, usable)]
        if self._clock_seconds() - began > self._settings.stale_seconds:  # what the driver said first may be true no longer
            return said
        return [*said, *self._watch.judge(ledger, began)]

    def _faults(self, xids: list[int], now: Ledger | None) -> list[Fault]:
        """Of errors that were reported between the last reading and `now`: a program that erred may be gone, or new."""
        seen = [ledger for ledger in (self._last, now) if ledger is not None]
        self._last = now or self._last
        claims = tuple(dict.fromkeys(use.claim_uid for ledger in seen for use in ledger.uses if use.processes))
        others = any(ledger.strangers for ledger in seen)
        meant = ((xid, meaning(xid, self._settings.ignored_xids)) for xid in xids)
        return [Fault(xid=xid, group=each.group, what=each.what, claims=claims, others=others) for xid, each in meant]

    def _health(self, now: float, *, at_once: bool) -> list[Vitals]:
        """When it has changed; an error that was just reported may have changed it."""
        if now < self._vitals_due and not at_once:
            return []
        self._vitals_due = now + self._settings.vitals_seconds
        try:
            vitals = self._driver.vitals()
        except pynvml.NVMLError:
            return []  # the next reading says so
        if vitals == self._vitals:
            return []
        self._vitals = vitals
        return [vitals]

    def _reading(self, ledger: Ledger, usable: int) -> Reading:
        return Reading(
            capacity_bytes=max(0, usable // MIB - self._settings.withheld_mib) * MIB,
            used_bytes=ledger.used_bytes,
            unattributed_bytes=ledger.unattributed_bytes,
            uses=ledger.uses,
            context_bytes=self._allowance.context_bytes,
            context_source=self._allowance.source,
        )

    def serve(self, node: socket.socket) -> None:
        """Until the node agent's end of the socket is closed."""
        due = self._clock_seconds()
        while True:
            wait = max(0.0, due - self._clock_seconds())
            if select.select([node], [], [], wait)[0]:
                packet = node.recv(MESSAGE_LIMIT_BYTES + 1)
                if not packet:
                    return
                message = decode(packet)
                if not isinstance(message, Booked):
                    raise ProtocolError(f"a worker is told what is booked, not {message.type}")
                self.shares = message.shares
                continue
            due = self._clock_seconds() + self._settings.read_seconds
            for said in self.look():
                node.sendall(encode(said))


def main(arguments: list[str]) -> int:
    uuid, descriptor, settings, allowance = arguments
    with socket.socket(fileno=int(descriptor)) as node, contextlib.suppress(BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        Worker(Driver(uuid), VramSettings(**json.loads(settings)), Allowance(**json.loads(allowance)), time.monotonic).serve(node)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Keeps one worker running for each GPU. A worker that ends or falls silent is replaced, later each time; agents never notice."""

import asyncio
import contextlib
import json
import logging
import random
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict

from aios_sidecar.contracts.gpus import Inventory
from aios_sidecar.contracts.packets import MESSAGE_LIMIT_BYTES, ProtocolError, encode
from aios_sidecar.contracts.worker import Booked, Unread, WorkerMessage, decode
from aios_sidecar.vram.calibration import Calibration
from aios_sidecar.vram.ledger import Allowance
from aios_sidecar.vram.settings import VramSettings

log = logging.getLogger(__name__)

Hear = Callable[[str, WorkerMessage], None]

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
END_SECONDS = 2.0
STEADY_SECONDS = 60.0
"""A worker that ran for so long was well: its end is the first again."""


class Supervisor:
    """`run` in a task; `book` from the same event loop."""

    def __init__(self, inventory: Inventory, settings: VramSettings, calibration: Calibration) -> None:
        self._inventory = inventory
        self._calibration = calibration
        self._settings = settings
        self._booked: dict[str, Booked] = {}
        self._links: dict[str, socket.socket] = {}
        self._kept: dict[str, asyncio.Task[None]] = {}
        self.pids: dict[str, int] = {}
        """Of the workers that run, by GPU."""

    async def run(self, hear: Hear) -> None:
        """Until cancelled; the workers end with it."""
        try:
            while True:
                report = await self._inventory.read()
                present = {gpu.uuid for gpu in report.gpus}
                for uuid in present - self._kept.keys():
                    self._kept[uuid] = asyncio.create_task(self._keep(uuid, report.driver_version or "", hear), name=f"worker of {uuid}")
                for uuid in self._kept.keys() - present:
                    await self._let_go(uuid)
                    hear(uuid, Unread(reason=report.absent or "the driver does not offer this GPU any more"))
                await asyncio.sleep(self._settings.look_seconds)
        finally:
            for uuid in list(self._kept):
                await self._let_go(uuid)

    def book(self, booked: dict[str, Booked]) -> None:
        """Each worker knows these shares from its next reading on."""
        before, self._booked = self._booked, dict(booked)
        for uuid in before.keys() | booked.keys():
            if before.get(uuid, Booked()) != booked.get(uuid, Booked()):
                self._send(uuid)

    def _send(self, uuid: str) -> None:
        link = self._links.get(uuid)
        if link is None:
            return
        try:
            link.send(encode(self._booked.get(uuid, Booked())))
        except (OSError, ValueError) as error:  # what it says from now on would be about bookings of the past
            log.warning("the worker of GPU %s can't be told what is booked: %s; it is replaced", uuid, error)
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    async def _let_go(self, uuid: str) -> None:
        task = self._kept.pop(uuid)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _keep(self, uuid: str, driver_version: str, hear: Hear) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                reason = await self._run_once(uuid, await self._calibration.of(uuid, driver_version), hear)
            except Exception as error:
                log.exception("the worker of GPU %s could not be run", uuid)
                reason = f"could not be run: {error}"
            failures = 1 if loop.time() - began > STEADY_SECONDS else failures + 1
            wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (failures - 1)) * random.uniform(0.8, 1.2)  # noqa: S311  jitter
            log.warning("the worker of GPU %s %s; the next one starts in %.1f s", uuid, reason, wait)
            hear(uuid, Unread(reason=f"the worker of the GPU {reason}"))
            await asyncio.sleep(wait)

    async def _run_once(self, uuid: str, allowance: Allowance, hear: Hear) -> str:
        """A worker from its start to its end; the answer says how it ended."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with its:
                arguments = (uuid, str(its.fileno()), json.dumps(asdict(self._settings)), json.dumps(asdict(allowance)))
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "aios_sidecar.vram.worker", *arguments, pass_fds=(its.fileno(),), stdin=asyncio.subprocess.DEVNULL
                )
            self.pids[uuid], self._links[uuid] = process.pid, ours
            log.info("the worker of GPU %s is process %d", uuid, process.pid)
            try:
                self._send(uuid)
                return await self._listen(uuid, ours, hear)
            finally:
                del self.pids[uuid], self._links[uuid]
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                with contextlib.suppress(TimeoutError):  # one that hangs in the driver ends when the driver lets it
                    await asyncio.wait_for(process.wait(), END_SECONDS)

    async def _listen(self, uuid: str, link: socket.socket, hear: Hear) -> str:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._settings.silent_seconds):
                    packet = await loop.sock_recv(link, MESSAGE_LIMIT_BYTES + 1)
                if not packet:
                    return "ended"
                message = decode(packet)
            except TimeoutError:
                return f"has said nothing for {self._settings.silent_seconds:g} seconds"
            except (OSError, ProtocolError) as error:
                return f"broke off: {error}"
            if isinstance(message, Booked):
                return "said what only the node agent says"
            hear(uuid, message)

"""What a CUDA context takes of a GPU beside anything that a program asks for: measured once for each GPU and driver, and kept.

It differs by a factor of three between GPUs and changes with drivers, and booking too little of it shoots the innocent. What can't be
measured, or can't be true, is not used: then the setting is, and it is said so.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.vram.ledger import Allowance
from aios_sidecar.vram.settings import VramSettings

log = logging.getLogger(__name__)

LEAST_MIB, MOST_MIB = 16, 4096
"""Contexts take 250 to 800 MiB. What is far from that was not a context, or not ours alone."""
PROBE_SECONDS: Final = 20.0
"""A driver that wakes a GPU for its first context takes seconds."""
AGAIN_SECONDS: Final = 600.0
"""After a failure: a GPU that is full now may have room then."""
END_SECONDS: Final = 2.0


class Refused(Exception):
    """There is no measurement that could be used; the message says why."""


def believable(found: Any) -> int:
    """The bytes that a probe measured. Raises Refused for anything else than a size that a context can have."""
    if not isinstance(found, dict):
        raise Refused("the probe said nothing")
    if "error" in found:
        raise Refused(str(found["error"]))
    size = found.get("bytes")
    if not isinstance(size, int) or isinstance(size, bool) or not LEAST_MIB * MIB <= size <= MOST_MIB * MIB:
        raise Refused(f"a context must take from {LEAST_MIB} to {MOST_MIB} MiB, not {size} bytes")
    return size


class Calibration:
    """Of all GPUs of the node. One measurement at a time for each GPU; the caller sees to that."""

    def __init__(self, settings: VramSettings, directory: Path, clock_seconds: Callable[[], float]) -> None:
        """`directory`: where measurements are kept, a file for each GPU. It may vanish: they are made again."""
        self._settings = settings
        self._directory = directory
        self._clock_seconds = clock_seconds
        self._not_before: dict[str, float] = {}

    async def of(self, uuid: str, driver_version: str) -> Allowance:
        """What was measured on this GPU with this driver, now or before, and a slack; else what is set. Raises nothing."""
        as_set = Allowance(self._settings.context_mib * MIB, self._settings.contexts, "Setting")
        if not self._settings.calibrate:
            return as_set
        size = self._kept(uuid, driver_version)
        if size is None and self._clock_seconds() >= self._not_before.get(uuid, 0.0):
            try:
                size = believable(await self._probe(uuid))
                self._keep(uuid, driver_version, size)
                log.info("a CUDA context takes %d MiB of GPU %s with driver %s", size // MIB, uuid, driver_version)
            except (Refused, OSError) as error:
                self._not_before[uuid] = self._clock_seconds() + AGAIN_SECONDS
                log.warning("what a CUDA context takes of GPU %s is %d MiB as set: %s", uuid, self._settings.context_mib, error)
        if size is None:
            return as_set
        return Allowance(size + self._settings.context_slack_mib * MIB, self._settings.contexts, "Calibrated")

    async def _probe(self, uuid: str) -> Any:
        """What a process of its own says. It sees that GPU alone and is gone afterwards."""
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid, "CUDA_CACHE_DISABLE": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aios_sidecar.vram.probe",
            uuid,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                said, _ = await process.communicate()
            return json.loads(said)
        except TimeoutError:
            raise Refused(f"no context could be made within {PROBE_SECONDS:g} seconds") from None
        except ValueError:
            raise Refused(f"the probe ended with {process.returncode} and no word") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(TimeoutError):  # one that hangs in the driver ends when the driver lets it
                await asyncio.wait_for(process.wait(), END_SECONDS)

    def _kept(self, uuid: str, driver_version: str) -> int | None:
        try:
            kept = json.loads(self._path(uuid).read_text())
            return believable(kept) if isinstance(kept, dict) and kept.get("driver") == driver_version else None
        except (OSError, ValueError, Refused):
            return None

    def _keep(self, uuid: str, driver_version: str, size: int) -> None:
        path = self._path(uuid)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps({"driver": driver_version, "bytes": size}) + "\n")
        fresh.rename(path)

    def _path(self, uuid: str) -> Path:
        if not uuid.startswith("GPU-") or "/" in uuid:
            raise ValueError(f"{uuid!r} is not the uuid of a GPU")
        return self._directory / f"{uuid}.json"

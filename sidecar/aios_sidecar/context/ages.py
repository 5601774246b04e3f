"""How old things are, whatever the clock of the machine is set to: what a wrong clock would retire is not to be had back.

Time passes here as on the machine. A clock that was set back is followed at once, since nothing ages by that. A clock that was set forward
is believed after a day in which it was not set again: until then nothing ages by the leap, and a person has the day to set it right. A
machine that was off looks the same, and what aged meanwhile is retired that day later. The belief is kept in a file, so that a process
that starts anew does not take a wrong clock for a right one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

log = logging.getLogger(__name__)

FILE: Final = ".ages.json"
LEAP_SECONDS: Final = 60.0
"""What a clock may gain between two looks and is not a leap: no daemon that keeps time moves it so far without setting it."""
DOUBT_SECONDS: Final = 86_400.0
KEEP_SECONDS: Final = 3_600.0
"""Between two writes of the file: how much later things age, at most, after a machine was off."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class _Belief:
    """Seconds. An offset is what the clock shows when the machine has run for none."""

    boot: str
    told: float
    """When this was written, by the machine's running time."""
    offset: float
    doubted: float | None = None
    """The offset of a clock that was set forward."""
    since: float = 0.0
    """When it was first seen, by the machine's running time."""


_KEPT: Final = TypeAdapter(_Belief)


class Ages:
    """`now` is for whoever asks whether something is too old. Safe to ask from any thread; never raises."""

    def __init__(
        self,
        directory: Path,
        *,
        wall: Callable[[], float] = time.time,
        running: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot_id: Callable[[], str] = lambda: BOOT_ID.read_text().strip(),
    ) -> None:
        """`running` counts since the machine named by `boot_id` started, sleep included. Raises OSError when that can't be read."""
        self._path, self._wall, self._running = directory / FILE, wall, running
        self._lock = threading.Lock()
        self._belief = self._begin(boot_id())

    def now(self) -> datetime:
        """The time by which nothing ages too early: never after the machine's clock."""
        with self._lock:
            return datetime.fromtimestamp(self._look(), UTC)

    def _begin(self, boot: str) -> _Belief:
        running = self._running()
        try:
            kept = _KEPT.validate_json(self._path.read_bytes())
            if kept.boot != boot:  # no time has passed since, as far as is known
                kept = _Belief(boot, running, kept.told + kept.offset - running)
        except (OSError, ValueError):
            return _Belief(boot, -KEEP_SECONDS, self._wall() - running)  # the first start, or a file that says nothing
        return kept

    def _look(self) -> float:
        belief, running = self._belief, self._running()
        offset = self._wall() - running
        if offset - belief.offset <= LEAP_SECONDS:
            if belief.doubted is not None:
                belief.doubted = None
                log.info("the clock is as it was before it was set forward")
                self._keep()
            belief.offset = offset
        elif belief.doubted is None or abs(offset - belief.doubted) > LEAP_SECONDS:
            belief.doubted, belief.since = offset, running
            leap, until = timedelta(seconds=round(offset - belief.offset)), timedelta(seconds=DOUBT_SECONDS)
            log.warning("the clock is %s ahead of what has passed: nothing ages by that until it has stayed so for %s", leap, until)
            self._keep()
        elif running - belief.since >= DOUBT_SECONDS:
            belief.offset, belief.doubted = offset, None
            log.warning("the clock has stayed so for a day, and is believed")
            self._keep()
        else:
            belief.doubted = offset  # a daemon that keeps time moves it a little
        if running - belief.told >= KEEP_SECONDS:
            self._keep()
        return running + belief.offset

    def _keep(self) -> None:
        self._belief.told = self._running()
        part = self._path.with_suffix(".part")
        with contextlib.suppress(OSError), part.open("wb") as stream:  # a disk that takes nothing: the belief holds while we run
            stream.write(_KEPT.dump_json(self._belief))
            stream.flush()
            os.fsync(stream.fileno())
            part.rename(self._path)

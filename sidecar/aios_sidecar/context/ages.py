"""How old things are, whatever the clock of the machine is set to: what a wrong clock would retire is not to be had back.

Time passes here as on the machine. What a clock gains by being set forward is believed once the machine has run for a day with it: until
then nothing ages by that leap, and a person has the day to set it right. A machine that was off looks the same, and what aged meanwhile is
retired that day later. Each leap has its own day, and the days are counted over reboots, so that a machine that is off every night does
not fall behind more and more. A clock that is behind ages nothing, and after an hour it is taken for the right one: before the network has
set it, a machine may wake in the past. All this is kept in a file, so that a process that starts anew does not take a wrong clock for a
right one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

log = logging.getLogger(__name__)

FILE: Final = ".ages.json"
LEAP_SECONDS: Final = 60.0
"""What a clock may gain between two looks and is not a leap: no daemon that keeps time moves it so far without setting it."""
DOUBT_SECONDS: Final = 86_400.0
BEHIND_SECONDS: Final = 3_600.0
LEAPS_LIMIT: Final = 64
"""Doubted leaps that are told apart; the oldest of more are taken for one."""
KEEP_SECONDS: Final = 300.0
"""Between two writes of the file: how much later things age, at most, after a machine was off."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass
class _Leap:
    """What the clock gained by being set forward, and for how long the machine has run with it since, in seconds."""

    seconds: float
    ran: float = 0.0


@dataclass
class _Belief:
    """Seconds. An offset is what the clock shows when the machine has run for none."""

    boot: str
    told: float
    """When this was written, by the machine's running time."""
    offset: float
    """That is believed."""
    leaps: list[_Leap] = field(default_factory=list)
    """That are doubted, the oldest first."""


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
        self._looked, self._behind = running(), 0.0
        self._belief = self._begin(boot_id())

    def now(self) -> datetime:
        """The time by which nothing ages too early: never after the machine's clock."""
        with self._lock:
            return datetime.fromtimestamp(self._look(), UTC)

    def expected(self) -> datetime:
        """What the clock should show, by what it showed before: one that is behind may be wrong for an hour."""
        with self._lock:
            self._look()
            belief = self._belief
            return datetime.fromtimestamp(self._running() + belief.offset + sum(leap.seconds for leap in belief.leaps), UTC)

    def _begin(self, boot: str) -> _Belief:
        running = self._running()
        try:
            kept = _KEPT.validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            return _Belief(boot, -KEEP_SECONDS, self._wall() - running)  # the first start, or a file that says nothing
        if kept.boot != boot:  # no time has passed since, as far as is known
            return _Belief(boot, running, kept.told + kept.offset - running, kept.leaps)
        for leap in kept.leaps:
            leap.ran += max(0.0, running - kept.told)
        return kept

    def _look(self) -> float:
        belief, running, wall = self._belief, self._running(), self._wall()
        ran, self._looked = running - self._looked, running
        ahead = wall - running - belief.offset - sum(leap.seconds for leap in belief.leaps)
        if ahead < -LEAP_SECONDS:
            self._behind += ran
            if self._behind >= BEHIND_SECONDS:
                self._set_back(ahead)
        else:
            self._behind = 0.0
            self._go_on(ahead, ran)
        if running - belief.told >= KEEP_SECONDS:
            self._keep()
        return min(running + belief.offset, wall)

    def _go_on(self, ahead: float, ran: float) -> None:
        belief = self._belief
        for leap in belief.leaps:
            leap.ran += ran
        if ahead > LEAP_SECONDS:
            belief.leaps.append(_Leap(ahead))
            if len(belief.leaps) > LEAPS_LIMIT:
                oldest, next_one = belief.leaps[:2]
                belief.leaps[:2] = [_Leap(oldest.seconds + next_one.seconds, next_one.ran)]
            by = timedelta(seconds=round(ahead))
            log.warning("the clock is %s ahead of what has passed: nothing ages by that until the machine has run for a day with it", by)
            self._keep()
        else:
            belief.offset += ahead  # a daemon that keeps time moves it a little
        while belief.leaps and belief.leaps[0].ran >= DOUBT_SECONDS:
            believed = belief.leaps.pop(0)
            belief.offset += believed.seconds
            log.warning("the clock was %s ahead for a day, and is believed", timedelta(seconds=round(believed.seconds)))
            self._keep()

    def _set_back(self, ahead: float) -> None:
        """The clock that is behind is right: the leaps that it took back are none, the newest first, and then it was too late before."""
        belief = self._belief
        while ahead < 0 and belief.leaps:
            newest = belief.leaps[-1]
            back = min(newest.seconds, -ahead)
            newest.seconds -= back
            ahead += back
            if newest.seconds <= 0:
                belief.leaps.pop()
        belief.offset += ahead
        log.info("the clock was set back, and is believed")
        self._keep()

    def _keep(self) -> None:
        self._belief.told = self._running()
        part = self._path.with_suffix(".part")
        with contextlib.suppress(OSError), part.open("wb") as stream:  # a disk that takes nothing: the belief holds while we run
            stream.write(_KEPT.dump_json(self._belief))
            stream.flush()
            os.fsync(stream.fileno())
            part.rename(self._path)

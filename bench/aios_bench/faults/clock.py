"""A wall clock that is set while programs run by it."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

from aios_bench.faults.checkout import of_tests

JUMPS_SECONDS = (60, 3600, 86_400, 7 * 86_400)
"""How far ahead it is set; when to less than before, it jumps back. Never behind what is so: new certificates must be valid."""


class Clock:
    """That of programs started with `environment`. What else they measure time by goes on as it does."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock-ahead"
        subprocess.run(["make", "-s", "-C", str(of_tests("node.support").NATIVE), "clock", f"OUT={directory}/native"], check=True)
        self.environment = {"LD_PRELOAD": str(directory / "native" / "libaios-clock.so"), "AIOS_FAKE_CLOCK": str(self._file)}
        self.jumps = 0

    def set(self, seconds: int) -> None:
        """It is so far ahead of what is so."""
        of_tests("node.support").rewrite(self._file, str(seconds))
        self.jumps += 1

    def jump(self, chance: random.Random) -> None:
        """Ahead, or back."""
        self.set(chance.choice((0, *JUMPS_SECONDS)))


def lacking() -> str | None:
    """Why no clock can be set here; None when one can."""
    missing = next((each for each in ("make", "cc") if shutil.which(each) is None), None)
    return f"{missing} is missing" if missing else None

"""The clock for what two processes must agree on by waiting, such as a Lease."""

from __future__ import annotations

import time


def machine_seconds() -> float:
    """Since this machine started, the time that it slept included. `time.monotonic` stands still in a machine that was suspended, while
    all others go on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

"""The time that all processes of a node share."""

import time


def machine_seconds() -> float:
    """Since this machine started, the time that it slept included: the same clock in all processes of a node."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

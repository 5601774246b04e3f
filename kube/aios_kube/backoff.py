"""How long to wait before trying again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double up to a longest one; each is drawn from its upper half, so that clients that failed together part."""

    first_seconds: float = 0.2
    longest_seconds: float = 30.0

    def wait(self, failures: int, chance: Callable[[], float], at_least: float | None = None) -> float:
        """Seconds to wait after `failures` (from 1 on) in a row; never less than `at_least`. `chance` yields numbers in [0, 1)."""
        full = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 32))
        drawn = full * (0.5 + chance() / 2)
        if at_least is None or drawn >= at_least:
            return drawn
        return at_least * (1 + chance() / 4)

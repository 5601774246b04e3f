"""Whether the gateway may act on what it knows. It may not when nothing was heard for too long: the agents may be at work elsewhere."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.problems import Problem, ProblemKind

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
"""Between two looks at the clock, which runs on while the machine sleeps; requests look for themselves."""
RETRY_AFTER_SECONDS: Final = 5


class Freshness:
    """Mute at first, and whenever `mute_seconds` passed since the node agent heard the API server last."""

    def __init__(self, mute_seconds: float, clock_seconds: Callable[[], float], metrics: Metrics) -> None:
        """`clock_seconds`: the machine's clock, which the node agent shares."""
        self._mute_seconds = mute_seconds
        self._clock_seconds = clock_seconds
        self._metrics = metrics
        self._until: float | None = None
        self._was_mute = True
        metrics.watch_mute(lambda: self.mute)

    @property
    def mute(self) -> bool:
        """Whether no request may be answered now."""
        return self._until is None or self._clock_seconds() >= self._until

    def require(self) -> None:
        """Raises Problem while mute."""
        if self.mute:
            detail = "The node agent has not said yet what is in force."
            if self._until is not None:
                detail = f"Nothing was heard for {self._clock_seconds() - self._until + self._mute_seconds:.0f} seconds."
            raise Problem(ProblemKind.MUTE, detail, {"Retry-After": str(RETRY_AFTER_SECONDS)})

    def renew(self, until_seconds: float) -> None:
        """What is known may be acted on until then, but not for longer than `mute_seconds` from now, whatever the node agent says."""
        until = min(until_seconds, self._clock_seconds() + self._mute_seconds)
        self._until = until if self._until is None else max(self._until, until)
        if self._was_mute and not self.mute:
            self._was_mute = False
            log.info("the API server is heard: agents are answered")

    async def run(self, silence: Callable[[], None]) -> None:
        """Until cancelled. `silence` is called each time that the gateway goes mute."""
        while True:
            if self.mute and not self._was_mute:
                self._was_mute = True
                log.error("nothing was heard of the API server for %g s: no agent is answered", self._mute_seconds)
                self._metrics.mutes.inc()
                silence()
            await asyncio.sleep(LOOK_SECONDS)

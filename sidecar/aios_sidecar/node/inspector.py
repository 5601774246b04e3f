"""Looks at agents again while they run: the fence is read back, listeners and CDI file are in place, and what is missing
is restored."""

import asyncio
import logging

from aios_api.names import API_VERSION
from aios_kube.events import EventRecorder, Regarding
from aios_sidecar.node import cdi
from aios_sidecar.node.endpoints import Endpoints
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.waiting import Turns, first_of, to_the_end

log = logging.getLogger(__name__)

NOTE = "the fence of the agent's pod was missing or had been changed, by somebody with rights on the node or in the pod"


class Inspector:
    """One claim at a time, in its turn. What is wrong with one claim is said, and holds up no other."""

    def __init__(
        self, settings: NodeSettings, claims: LiveClaims, endpoints: Endpoints, turns: Turns, events: EventRecorder, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._endpoints = endpoints
        self._turns = turns
        self._events = events
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled: every claim once in `inspection_seconds`, spread over that time."""
        while True:
            claims = list(self._claims)
            pause = self._settings.inspection_seconds / max(len(claims), 1)
            if not claims:
                await asyncio.sleep(pause)
            for live in claims:
                await asyncio.sleep(pause)
                if await self.inspect(live):
                    self._tell(live)

    async def follow(self) -> None:
        """Until cancelled: a fence is opened and closed as its order changes, without a wait for the next inspection."""
        while True:
            changes = (self._endpoints.next_change(), self._claims.next_change())
            for live in self._claims:
                in_force = live.facts.openings
                if in_force is not None and in_force != self._endpoints.openings(live) and await self.inspect(live):
                    self._tell(live)
            await first_of(*changes)

    async def inspect(self, live: LiveClaim) -> bool:
        """The claim has its CDI file, and fence and listeners as far as its pod has a process. Whether the fence was not as it must be."""
        async with self._turns.at(live.state.claim_uid):
            if self._claims.get(live.state.claim_uid) is not live:
                return False  # released meanwhile
            try:
                await asyncio.to_thread(cdi.put, self._settings, live.state)
            except OSError as error:
                log.error("claim %s has no CDI file by which a container could start: %s", live.state.claim_name, error)
            try:
                return await to_the_end(self._endpoints.restore(live))
            except OSError:
                log.exception("claim %s could not be inspected", live.state.claim_name)
                return False

    def _tell(self, live: LiveClaim) -> None:
        state, now = live.state, "it stands again" if live.facts.fenced else f"it could not be restored: {live.facts.fence_message}"
        log.error("pod %s/%s: %s; %s", state.namespace, state.pod_name, NOTE, now)
        self._metrics.breaches.inc()
        agent = Regarding(API_VERSION, "Agent", state.namespace, state.agent, state.agent_uid)
        self._events.record(agent, "Warning", "FenceMissing", "Inspect", f"{NOTE}; {now}")

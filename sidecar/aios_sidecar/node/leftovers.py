"""Ends what still runs of a pod that the API knows no more: its booking is gone, and another may have it by now.

A pod that is deleted by force, or said to have ended by somebody who may write its status, is gone for everybody but the kubelet, which
lets its containers have their grace: a day, if the template says so.
"""

import asyncio
import logging

from aios_api.names import API_VERSION
from aios_kube.errors import ApiError, NotFound
from aios_kube.events import EventRecorder, Regarding
from aios_kube.protocol import ClusterClient
from aios_kube.resources import RESOURCE_CLAIMS
from aios_sidecar.node.claims import reserved_pod
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.shots import kill_pod
from aios_sidecar.node.waiting import first_of

log = logging.getLogger(__name__)


class Leftovers:
    """A claim is reserved for its pod as long as the pod is there and has not ended. One that is not, and has a pod, is looked for."""

    def __init__(
        self, settings: NodeSettings, client: ClusterClient, orders: Orders, claims: LiveClaims, events: EventRecorder, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._client = client
        self._orders = orders
        self._claims = claims
        self._events = events
        self._metrics = metrics
        self._looked: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled: claims whose order went away are asked for soon, the others now and then."""
        loop = asyncio.get_running_loop()
        while True:
            change, now = self._orders.next_change(), loop.time()
            claims = [live for live in self._claims if live.state.pod_uid is not None]
            self._looked = {live.state.claim_uid: self._looked.get(live.state.claim_uid, now) for live in claims}
            for live in claims:
                pause = self._settings.leftover_seconds if self._is_over(live) else self._settings.reservation_seconds
                if now - self._looked[live.state.claim_uid] >= pause:
                    self._looked[live.state.claim_uid] = now
                    await self._look(live)
            await first_of(change, seconds=self._settings.leftover_seconds)

    async def end_former(self, live: LiveClaim) -> None:
        """Nothing runs here of attempts before. The operator makes the next claim when pod and claim of the one before are gone."""
        for other in self._claims:
            same = (other.state.namespace, other.state.agent_uid) == (live.state.namespace, live.state.agent_uid)
            if same and other.state.attempt < live.state.attempt:
                await self._end(other)

    def _is_over(self, live: LiveClaim) -> bool:
        return self._orders.heard and not self._orders.stands(live.state.runtime_uid, live.state.attempt)

    async def _look(self, live: LiveClaim) -> None:
        """Who can't be asked says nothing: then the containers run on."""
        state = live.state
        try:
            async with asyncio.timeout(self._settings.api_seconds):
                claim = await self._client.get(RESOURCE_CLAIMS, state.claim_name, state.namespace)
        except NotFound:
            claim = None
        except (ApiError, TimeoutError):
            return
        if claim is not None and claim["metadata"]["uid"] == state.claim_uid and reserved_pod(claim, state.pod_uid or "") is not None:
            return
        if self._claims.get(state.claim_uid) is live:
            await self._end(live)

    async def _end(self, live: LiveClaim) -> None:
        state = live.state
        if state.pod_uid is None or not await asyncio.to_thread(kill_pod, state.pod_uid):
            return
        note = f"pod {state.pod_name} (uid {state.pod_uid}) was gone from the API, and its containers ran on; they were killed"
        log.warning("%s/%s: %s", state.namespace, state.agent, note)
        self._metrics.leftovers.inc()
        agent = Regarding(API_VERSION, "Agent", state.namespace, state.agent, state.agent_uid)
        self._events.record(agent, "Warning", "LeftRunning", "End", note)

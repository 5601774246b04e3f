"""Tells the operator that this node is heard, and the gateway until when what it was told may be believed.

Both follow from the same renewals of a Lease: the operator replaces the agents of a node when its Lease was silent for longer than the
gateway goes on without a renewal. So an identity never speaks from two places, whoever is cut off from whom.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime

from aios_api import names
from aios_kube.errors import ApiError
from aios_kube.protocol import ClusterClient, Object
from aios_kube.resources import LEASES
from aios_sidecar.node.settings import NodeSettings

log = logging.getLogger(__name__)

RENEWALS = 4
"""In the time after which a gateway goes mute: two may fail, and the third is still in time."""
TRIES = 4
"""Of a renewal that fails, in the time after which the next one is due."""


class Heartbeat:
    """`run` in a task. Times are seconds of the machine's clock, which the gateway shares."""

    def __init__(
        self,
        settings: NodeSettings,
        client: ClusterClient,
        orders_heard: Callable[[], float | None],
        clock: Callable[[], datetime],
        clock_seconds: Callable[[], float],
        annotations: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """`orders_heard`: when the API server last said what the orders of this node are. `annotations`: what the Lease says beside."""
        self._settings = settings
        self._client = client
        self._orders_heard = orders_heard
        self._clock = clock
        self._clock_seconds = clock_seconds
        self._annotations = annotations
        self._news = asyncio.Event()
        self._renewed: float | None = None
        self._hear_after = -math.inf
        self._cut_off = False
        self._changed = asyncio.Event()

    @property
    def fresh_until(self) -> float | None:
        """Until when the gateway may act on what it was told: counted from the start of the renewal, and from the last word about orders.

        None before both were heard since this program started; what the gateway was told by the one before it stands then. None also at
        the start and after a lapse, until orders are heard after a renewal: while the Lease was silent the operator may have given the
        agents to another node, and what was heard before the renewal may be from before that.
        """
        heard = self._orders_heard()
        return (
            None
            if heard is None or heard < self._hear_after or self._renewed is None
            else min(heard, self._renewed) + self._settings.mute_seconds
        )

    @property
    def left_seconds(self) -> float:
        """How long that is still, 0 when it is over."""
        until = self.fresh_until
        return 0.0 if until is None else max(0.0, until - self._clock_seconds())

    def next_change(self) -> asyncio.Event:
        """Set by the next renewal from now on. Take it before looking, wait for it afterwards: then nothing is missed."""
        return self._changed

    def renew_soon(self) -> None:
        """What the Lease says beside has changed."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled. The Lease stays: it says when this node was heard last."""
        every = self._settings.mute_seconds / RENEWALS
        while True:
            renewed = await self._renew(every)
            self._changed.set()
            self._changed = asyncio.Event()
            wait = every if renewed else every / TRIES
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait * random.uniform(0.9, 1.0)):  # noqa: S311  spreads the nodes
                    await self._news.wait()
            self._news.clear()

    async def _renew(self, limit_seconds: float) -> bool:
        began = self._clock_seconds()
        try:
            async with asyncio.timeout(limit_seconds):
                await self._client.apply(LEASES, self._lease(), field_manager=names.FIELD_MANAGER_NODE, force=True)
        except (ApiError, TimeoutError) as error:
            if not self._cut_off:
                reason = str(error) or f"no answer within {limit_seconds:g} s"
                log.warning("the Lease of this node is not renewed: %s; its agents are mute in %.0f s", reason, self.left_seconds)
            self._cut_off = True
            return False
        if self._cut_off:
            log.info("the Lease of this node is renewed again")
        self._cut_off = False
        if not self.left_seconds:
            self._hear_after = self._clock_seconds()
        self._renewed = began
        return True

    def _lease(self) -> Object:
        """Without an owner: were it to vanish with its Node, the agents of a node that still speaks would be replaced at once."""
        node = self._settings.node_name
        return {
            "metadata": {
                "namespace": self._settings.namespace,
                "name": names.node_lease_name(node),
                "labels": {names.LABEL_COMPONENT: names.COMPONENT_NODE_AGENT},
                **({"annotations": said} if (said := self._annotations()) else {}),
            },
            "spec": {
                "holderIdentity": node,
                "leaseDurationSeconds": math.ceil(self._settings.mute_seconds),
                "renewTime": self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }

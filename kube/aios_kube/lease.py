"""A Lease of coordination.k8s.io: of several processes one works, and another takes over when it ends.

Time is each process's own: a Lease is free when *we* have seen it unchanged for its whole duration, and ours is lost when *we* could not
renew it for shorter than that, counted from before the request that last renewed it. So no clock is compared with another one's. A
process that was stopped, or whose machine slept, believes that it holds what may be another's: it asks `confirm` before each request that
writes. What was on its way already may still arrive, and must be right even then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from aios_kube.clock import machine_seconds
from aios_kube.errors import AlreadyExists, ApiError, Conflict, NotFound, NotHeld
from aios_kube.protocol import ClusterClient, Object
from aios_kube.resources import LEASES

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """The Lease is another's, or could not be renewed in time: the process must end at once."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How fast a dead holder is replaced, against how much is written and how long the API server may be away."""

    duration_seconds: float = 15.0
    """A Lease unchanged for so long is free: how long work waits after a holder died without a word."""

    renew_deadline_seconds: float = 10.0
    """A holder that could not renew for so long gives up. Shorter than the duration, so that it has ended when another may begin; by as
    much as a request that was confirmed may take to find a connection."""

    retry_seconds: float = 2.0
    """Between two looks or renewals. Four tries fit into the deadline; a Lease that was let go is taken within this."""

    release_seconds: float = 3.0
    """How long the end of the process may be held up by letting go; the Lease runs out by itself otherwise."""

    def __post_init__(self) -> None:
        if not 0 < 2 * self.retry_seconds < self.renew_deadline_seconds < self.duration_seconds:
            raise ValueError("a Lease needs 2 * retry_seconds < renew_deadline_seconds < duration_seconds")


@dataclass
class Lease:
    """`acquire`, then `hold` in a task of its own, and `release` when the work has ended."""

    client: ClusterClient
    namespace: str
    name: str
    identity: str
    """Unique among the processes that run at once: two with one identity would both hold it."""
    field_manager: str
    clock: Callable[[], datetime]
    settings: LeaseSettings = field(default_factory=LeaseSettings)
    monotonic: Callable[[], float] = machine_seconds
    chance: Callable[[], float] = random.random
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the Lease became ours."""
    held: bool = False
    _renewed: float = 0.0
    _seen_version: str = ""
    _seen_at: float = 0.0
    _told: str = ""

    async def acquire(self) -> None:
        """Returns when the Lease is ours, however long that takes."""
        while not await self._try():
            await self._pause()
        self.held = True
        self.taken.set()

    async def hold(self) -> None:
        """Renews for ever. Raises `LeaseLost`."""
        try:
            while True:
                await self._pause()
                left = self._renewed + self.settings.renew_deadline_seconds - self.monotonic()
                try:
                    async with asyncio.timeout(max(left, 0)):
                        ours = await self._try()
                except TimeoutError:
                    ours = False
                if self.monotonic() - self._renewed >= self.settings.renew_deadline_seconds:
                    deadline = f"{self.settings.renew_deadline_seconds:.0f} s"
                    raise LeaseLost(f"Lease {self.namespace}/{self.name} could not be renewed for {deadline}")
                if not ours and self._told != self.identity:
                    raise LeaseLost(f"Lease {self.namespace}/{self.name} is held by {self._told or 'nobody'}")
        finally:
            self.held = False

    def confirm(self) -> None:
        """Returns while the Lease is surely ours. Raises `NotHeld`."""
        age = self.monotonic() - self._renewed
        if not self.held or age >= self.settings.renew_deadline_seconds:
            since = f"was last renewed {age:.0f} s ago" if self.held else "is not ours"
            raise NotHeld(f"Lease {self.namespace}/{self.name} {since}: nothing is written by its holder of then")

    async def release(self) -> None:
        """The next one may begin at once, if the Lease is still ours. To be called when nothing is written any more."""
        self.held = False
        try:
            async with asyncio.timeout(self.settings.release_seconds):
                found = await self.client.get(LEASES, self.name, self.namespace)
                if (found.get("spec") or {}).get("holderIdentity") == self.identity:
                    await self._write(found, "", 1)
        except (ApiError, TimeoutError) as error:
            log.info("Lease %s/%s could not be let go and will run out: %s", self.namespace, self.name, error)

    async def _pause(self) -> None:
        await asyncio.sleep(self.settings.retry_seconds * (0.8 + 0.4 * self.chance()))

    async def _try(self) -> bool:
        """One look, and one write where it is ours or free. Sets `_told` to who holds it as far as is known."""
        asked = self.monotonic()
        try:
            found = await self._look()
            holder = str((found.get("spec") or {}).get("holderIdentity") or "")
            if holder not in ("", self.identity) and not self._unchanged_too_long(found):
                self._tell(holder)
                return False
            if self.held and holder != self.identity:
                self._tell(holder)  # it was let go or taken from us: what we decided may not be ours any more
                return False
            await self._write(found, self.identity, math.ceil(self.settings.duration_seconds))
        except (Conflict, NotFound):
            return False  # somebody was faster, or it was deleted: the next look tells
        except ApiError as error:
            log.warning("Lease %s/%s: %s", self.namespace, self.name, error)
            return False
        self._renewed = asked
        self._tell(self.identity)
        return True

    async def _look(self) -> Object:
        try:
            return await self.client.get(LEASES, self.name, self.namespace)
        except NotFound:
            if self.held:
                self._told = ""
                raise
        metadata = {"namespace": self.namespace, "name": self.name}
        try:
            return await self.client.create(LEASES, {"metadata": metadata, "spec": {}}, field_manager=self.field_manager)
        except AlreadyExists:
            return await self.client.get(LEASES, self.name, self.namespace)

    async def _write(self, found: Object, holder: str, duration_seconds: int) -> None:
        spec = found.get("spec") or {}
        now = self.clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = {"holderIdentity": holder, "leaseDurationSeconds": duration_seconds, "renewTime": now}
        if holder and spec.get("holderIdentity") != holder:
            ours |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        metadata = found["metadata"]
        await self.client.patch(
            LEASES,
            self.name,
            {"spec": ours},
            namespace=self.namespace,
            field_manager=self.field_manager,
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
        )

    def _unchanged_too_long(self, found: Object) -> bool:
        version = found["metadata"]["resourceVersion"]
        if version != self._seen_version:
            self._seen_version, self._seen_at = version, self.monotonic()
        return self.monotonic() - self._seen_at >= self.settings.duration_seconds

    def _tell(self, holder: str) -> None:
        if holder != self._told:
            log.info("Lease %s/%s is held by %s", self.namespace, self.name, "us" if holder == self.identity else holder or "nobody")
        self._told = holder

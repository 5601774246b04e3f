"""`Reflector`: keeps a callback told of what exists, across lost connections, expired versions and silent servers."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aios_kube.backoff import Backoff
from aios_kube.errors import ApiError, Gone, Unreachable
from aios_kube.protocol import ALL, ClusterClient, Object, Selection
from aios_kube.resources import Resource

log = logging.getLogger(__name__)

MOST_DOUBTED = 5
"""Lists in a row that are older than what was heard: then it is the server's store that was set back, and not one answer that came late."""


class Sink(Protocol):
    """Where a reflector's knowledge goes. Level-triggered: each call says what is, never what someone did."""

    def replace(self, objects: list[Object]) -> None:
        """These and no others exist now."""
        ...

    def upsert(self, obj: Object) -> None:
        """This object is so now."""
        ...

    def remove(self, obj: Object) -> None:
        """This object (its last state) is gone."""
        ...


@dataclass
class Reflector:
    """List, then watch, for ever: `await reflector.run()` in a task of your own; cancel it to stop.

    A 410 or a watch that can't be resumed leads to a new list; anything else resumes from the last version. Objects that vanished
    while nobody watched are missing from the next `replace`. A list from before what was heard is not believed: the sink's knowledge
    never goes back. `synced` is set after the first list. A sink that raises ends `run`.
    """

    client: ClusterClient
    resource: Resource
    sink: Sink
    selection: Selection = ALL
    backoff: Backoff = field(default_factory=Backoff)
    chance: Callable[[], float] = random.random
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    watch_seconds: float | None = None
    """How long one watch lasts; None leaves it to the client. A server at rest says nothing until a watch is about to end."""
    relist_seconds: float | None = None
    """After so long, the next end of a watch leads to a new list: what a watch did not tell is known then. None: never."""
    clock_seconds: Callable[[], float] = time.monotonic
    heard_seconds: float | None = None
    """When the server last said something, by `clock_seconds`: what happened before is known to the sink. None: it never did."""

    _newest: int = 0
    """The highest version that was heard."""
    _doubted: int = 0

    async def run(self) -> None:
        version: str | None = None
        failures, listed = 0, -math.inf
        while True:
            try:
                if version is None:
                    listed = self.clock_seconds()
                    version = await self._list()
                async for event in self.client.watch(self.resource, self.selection, resource_version=version, seconds=self.watch_seconds):
                    version = event.object["metadata"]["resourceVersion"]
                    self._newest = max(self._newest, int(version))
                    failures = 0
                    if event.type == "DELETED":
                        self.sink.remove(event.object)
                    elif event.type != "BOOKMARK":
                        self.sink.upsert(event.object)
                    self.heard_seconds = self.clock_seconds()
                self.heard_seconds = self.clock_seconds()  # an orderly end: nothing was left to say
            except Gone:
                log.info("%s: version %s is too old for the server; listing again", self.resource.plural, version)
                version = None
                failures += 1
            except ApiError as error:
                failures += 1
                log.warning("%s: %s; trying again", self.resource.plural, error)
            if self.relist_seconds is not None and self.clock_seconds() - listed >= self.relist_seconds:
                version = None
            # A server that ends every watch at once must not be asked in a tight loop, so even a clean end waits a little.
            await asyncio.sleep(self.backoff.wait(max(failures, 1), self.chance))

    async def _list(self) -> str:
        """The version from which to watch; the sink has been told. Raises Unreachable for a list that is not believed."""
        asked = self.clock_seconds()
        page = await self.client.list(self.resource, self.selection)
        if int(page.resource_version) < self._newest and self._doubted < MOST_DOUBTED:
            self._doubted += 1
            raise Unreachable(f"the list is of version {page.resource_version}, and {self._newest} was heard already")
        self._newest, self._doubted = int(page.resource_version), 0
        self.sink.replace(page.items)
        self.heard_seconds = asked
        self.synced.set()
        return page.resource_version

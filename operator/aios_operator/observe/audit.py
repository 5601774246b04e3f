"""Comparison of our picture with what the server lists, because watches don't tell everything.

kopf reports nothing about objects that vanished while a watch was broken, nor where a list ends. So: the whole picture is listed once
before the first cycle; afterwards names and versions are listed, and what is not there any more is removed. What a watch should have
brought long ago and has not is a dead watch: the process ends, and its successor starts with fresh ones.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aios_kube import ClusterClient
from aios_kube.errors import ApiError, Gone
from aios_operator.observe.store import Store
from aios_operator.observe.table import Table

log = logging.getLogger(__name__)


class WatchIsDead(Exception):
    """An object has been on the server, or been newer there, for a whole audit interval, and nobody told us."""


@dataclass
class Audit:
    """`fill` once, then `run` in a task of its own. `relisted` tells it that a watch began anew."""

    client: ClusterClient
    store: Store
    interval_seconds: float
    after_relist_seconds: float
    on_done: Callable[[], None] = lambda: None
    """Told of each audit of everything that succeeded."""
    chance: Callable[[], float] = random.random
    _due: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _behind: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per resource: uids that were missing or older with us than in the last list, with the version listed."""

    async def fill(self) -> None:
        """The picture is what the server holds, whatever it was before. Raises `ApiError` when a list fails for good."""
        for table in self.store.tables:
            listed: set[str] = set()
            version = ""
            async for page in self.client.pages(table.resource, table.selection):
                listed |= {raw["metadata"]["uid"] for raw in page.items}
                version = page.resource_version
                for raw in page.items:
                    upsert(table, raw)
            table.retain(listed, version)

    def relisted(self, table: Table[Any]) -> None:
        """The watch of this table lists again: soon after, the table is compared."""
        self._due.add(table.resource.plural)
        self._news.set()

    async def run(self) -> None:
        """Audits every interval and after relists, for ever. Raises `WatchIsDead`."""
        clock = asyncio.get_running_loop().time
        whole_at = clock() + self._interval()
        while True:
            if await self._news_within(max(0.0, whole_at - clock())):
                await asyncio.sleep(self.after_relist_seconds)
            self._news.clear()
            wanted, self._due = self._due, set()
            whole = clock() >= whole_at  # however often watches list again
            tables = [table for table in self.store.tables if whole or table.resource.plural in wanted]
            fine = [await self._try(table, whole) for table in tables]
            if whole:
                whole_at = clock() + self._interval()
                if all(fine):
                    self.on_done()

    def _interval(self) -> float:
        """Spread, so that the lists of two clusters' worth of programs don't fall together."""
        return self.interval_seconds * (0.9 + self.chance() / 5)

    async def _news_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _try(self, table: Table[Any], whole_interval: bool) -> bool:
        try:
            await self.compare(table, whole_interval)
        except ApiError as error:
            log.warning("audit of %s failed and is repeated later: %s", table.resource.plural, error)
            return False
        return True

    async def compare(self, table: Table[Any], whole_interval: bool = True) -> None:
        """What the server does not list any more is removed from `table`."""
        listed: dict[str, int] = {}
        version = ""
        try:
            async for page in self.client.pages(table.resource, table.selection, metadata_only=True):
                listed |= {raw["metadata"]["uid"]: int(raw["metadata"]["resourceVersion"]) for raw in page.items}
                version = page.resource_version
        except Gone:
            log.info("audit of %s took longer than the server's history; it is repeated later", table.resource.plural)
            return
        gone = table.retain(set(listed), version)
        if gone:
            log.warning("audit of %s: %d objects had vanished unseen", table.resource.plural, gone)
        if whole_interval:
            self._check_progress(table, listed)

    def _check_progress(self, table: Table[Any], listed: dict[str, int]) -> None:
        arrived = table.versions()
        before = self._behind.get(table.resource.plural, {})
        for uid, version in before.items():
            if uid in listed and arrived.get(uid, -1) < version:
                raise WatchIsDead(f"{table.resource.plural}: version {version} of {uid} has not arrived for {self.interval_seconds:.0f} s")
        self._behind[table.resource.plural] = {uid: version for uid, version in listed.items() if arrived.get(uid, -1) < version}


def upsert(table: Table[Any], raw: Any) -> None:
    """`table` shows `raw`. What can't be read is logged and left as it was: one odd object must not blind us for the others."""
    try:
        table.upsert(raw)
    except Exception:  # a parse error of any kind is a bug or a hostile object, never a reason to stop
        metadata = raw.get("metadata") or {}
        log.exception("%s %s/%s can't be read", table.resource.kind, metadata.get("namespace", ""), metadata.get("name", ""))

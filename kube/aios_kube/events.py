"""`EventRecorder`: what a person sees under "Events" of `kubectl describe`, told once and then counted."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from aios_kube.errors import ApiError, NotFound
from aios_kube.protocol import ClusterClient, Object
from aios_kube.resources import EVENTS

log = logging.getLogger(__name__)

EventKind = Literal["Normal", "Warning"]

NOTE_MAX_BYTES = 1024
"""What the API server takes; it counts bytes and refuses the event when there are more."""


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class EventSettings:
    flush_seconds: float = 1.0
    """Between two rounds of writing. Short enough that `kubectl describe` after an apply shows what happened."""
    series_seconds: float = 60.0
    """The least time between two updates of one event's count: a hot loop costs one write a minute."""
    forget_seconds: float = 600.0
    """An event that repeats after this long is told anew, with a new time."""
    distinct_per_object: int = 20
    """Different events about one object within `forget_seconds`; more are dropped, as no one reads them."""
    remembered: int = 4096
    """Events kept in memory; the least recent is forgotten first. About 1 KiB each."""


@dataclass
class _Told:
    name: str
    first: datetime
    last: datetime
    count: int = 1
    written: int = 0
    written_at: datetime | None = None


_Key = tuple[Regarding, EventKind, str, str, str]


class EventRecorder:
    """`record` from anywhere in the event loop; `run` in a task writes. Losing an event is logged and never stops a program."""

    def __init__(
        self, client: ClusterClient, controller: str, instance: str, clock: Callable[[], datetime], settings: EventSettings | None = None
    ) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._clock = clock
        self._settings = settings or EventSettings()
        self._told: OrderedDict[_Key, _Told] = OrderedDict()
        self._per_object: dict[str, int] = {}

    def record(self, regarding: Regarding, kind: EventKind, reason: str, action: str, note: str) -> None:
        """The same event again (same object, kind, reason, action and note) only counts."""
        now = self._clock()
        key = (regarding, kind, reason, action, note)
        told = self._told.get(key)
        if told is not None and now - told.last <= timedelta(seconds=self._settings.forget_seconds):
            told.count += 1
            told.last = now
            self._told.move_to_end(key)
            return
        if told is not None:
            self._forget(key)
        self._forget_old(now)
        if self._per_object.get(regarding.uid, 0) >= self._settings.distinct_per_object:
            return
        self._per_object[regarding.uid] = self._per_object.get(regarding.uid, 0) + 1
        self._told[key] = _Told(f"{regarding.name[:200]}.{uuid.uuid4().hex[:16]}", now, now)

    async def run(self) -> None:
        """Writes what was recorded, for ever."""
        while True:
            await self.flush()
            await asyncio.sleep(self._settings.flush_seconds)

    async def flush(self) -> None:
        """What was recorded and is due is written."""
        now = self._clock()
        for key, told in list(self._told.items()):
            if told.written == told.count:
                continue
            if told.written_at is not None and now - told.written_at < timedelta(seconds=self._settings.series_seconds):
                continue
            told.written_at = now
            count = told.count
            try:
                await self._write(key, told)
            except ApiError as error:
                log.warning("event %s of %s/%s is lost: %s", key[2], key[0].namespace, key[0].name, error)
            told.written = count

    async def _write(self, key: _Key, told: _Told) -> None:
        if told.written:
            series = {"series": {"count": told.count, "lastObservedTime": _micro(told.last)}}
            namespace = key[0].namespace or "default"
            try:
                await self._client.patch(EVENTS, told.name, series, namespace=namespace, field_manager=self._instance)
            except NotFound:  # The API server forgets events after an hour.
                self._forget(key)
            return
        await self._client.create(EVENTS, self._event(key, told), field_manager=self._instance)

    def _event(self, key: _Key, told: _Told) -> Object:
        regarding, kind, reason, action, note = key
        event: Object = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": regarding.namespace or "default", "name": told.name},
            "eventTime": _micro(told.first),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "action": action,
            "reason": reason,
            "type": kind,
            "note": _at_most(note, NOTE_MAX_BYTES),
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
            },
        }
        if told.count > 1:
            event["series"] = {"count": told.count, "lastObservedTime": _micro(told.last)}
        return event

    def _forget_old(self, now: datetime) -> None:
        while self._told:
            key, told = next(iter(self._told.items()))
            old = now - told.last > timedelta(seconds=self._settings.forget_seconds)
            if not old and len(self._told) < self._settings.remembered:
                return
            self._forget(key)

    def _forget(self, key: _Key) -> None:
        if self._told.pop(key, None) is None:
            return
        left = self._per_object[key[0].uid] - 1
        if left:
            self._per_object[key[0].uid] = left
        else:
            del self._per_object[key[0].uid]


def _at_most(text: str, limit_bytes: int) -> str:
    """The beginning of `text` that fits, in whole characters."""
    return text.encode()[:limit_bytes].decode(errors="ignore")


def _micro(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

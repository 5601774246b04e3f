"""Timers: when which Agent is to be planned again although nothing of it changes."""

from __future__ import annotations

import heapq
from datetime import datetime

from aios_operator.decide.views import Key


class Timers:
    """Each moment of an Agent is there once, however often it is asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, Key]] = []
        self._known: set[tuple[datetime, Key]] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, key: Key, at: datetime) -> None:
        """`key` is due at that moment, beside others."""
        if (at, key) not in self._known:
            self._known.add((at, key))
            heapq.heappush(self._heap, (at, key))

    @property
    def next(self) -> datetime | None:
        """When the first is due; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: datetime) -> set[Key]:
        """Whose moment has come; it is gone from here."""
        found: set[Key] = set()
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)
            self._known.discard(timer)
            found.add(timer[1])
        return found

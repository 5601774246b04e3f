"""Batches: the Agents that were given places in one cycle. The claims of a batch are written before its pods.

kube-scheduler tries a pod whose claim it has not seen yet in vain, and looks at it again after a while; and while claims and pods arrive
in turns, so do its failures. A lone Agent is no batch and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aios_operator.decide.views import Key

PATIENCE = timedelta(seconds=2)
"""After that the pods of a batch wait for no claim any more: a write that hangs must not hold up the others."""


@dataclass
class _Batch:
    until: datetime
    unclaimed: set[Key]
    held: set[Key] = field(default_factory=set)
    """Whose pod waits for the claims of the others."""


class Batches:
    """`begin` with each cycle; `holds` before a pod is made; `leave` when an Agent's claim is written or will not be."""

    def __init__(self) -> None:
        self._of: dict[Key, _Batch] = {}

    def begin(self, keys: Collection[Key], now: datetime) -> set[Key]:
        """These were given places together. Returns those of batches before whose pods need not wait now."""
        released = {free for key in keys for free in self.leave(key)}
        for key in keys:
            self._of.pop(key, None)
        if len(keys) > 1:
            self._of |= dict.fromkeys(keys, _Batch(now + PATIENCE, set(keys)))
        return released - set(keys)

    def __iter__(self) -> Iterator[Key]:
        """Everybody of a batch that has not all of its claims yet."""
        return iter(list(self._of))

    def __len__(self) -> int:
        return len(self._of)

    def holds(self, key: Key, now: datetime) -> bool:
        """The pod of `key` is to wait: others of its batch have no claim yet."""
        batch = self._of.get(key)
        if batch is None or batch.unclaimed <= {key} or now >= batch.until:
            return False
        batch.held.add(key)
        return True

    def leave(self, key: Key) -> set[Key]:
        """The claim of `key` is written, or will not be. Returns those whose pods need not wait now."""
        batch = self._of.get(key)
        if batch is None:
            return set()
        batch.unclaimed.discard(key)
        return set() if batch.unclaimed else self._end(batch)

    def expired(self, now: datetime) -> set[Key]:
        """Those whose pods have waited long enough for others."""
        over = {id(batch): batch for batch in self._of.values() if now >= batch.until}
        return {key for batch in over.values() for key in self._end(batch)}

    @property
    def until(self) -> datetime | None:
        """When `expired` is to be asked next."""
        return min((batch.until for batch in self._of.values()), default=None)

    def _end(self, batch: _Batch) -> set[Key]:
        self._of = {key: of for key, of in self._of.items() if of is not batch}
        return batch.held

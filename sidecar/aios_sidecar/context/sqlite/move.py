"""A planned move of one agent's context to another node: snapshot, tail, resume.

The source goes on while the snapshot travels. Then it hands over: under the number of the attempt that will write on the other node, no
earlier one writes here any more, so that the tail is all there is. Each step may be repeated, and all of them from the beginning: whoever
was cut off begins anew, and nothing that was acknowledged is lost or there twice.

    source                         destination
    snapshot ────────────────────▶ receive
    hand_over
    tail ────────────────────────▶ complete
    release ◀───────────────────── completed
"""

import contextlib
from collections.abc import Iterable
from typing import Final

from aios_sidecar.context.errors import Conflict, NotThere
from aios_sidecar.context.sqlite import copies
from aios_sidecar.context.sqlite.copies import Tail
from aios_sidecar.context.sqlite.file import refusals, with_log
from aios_sidecar.context.sqlite.folder import INCOMING, OUTGOING
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Snapshot

MOST_BYTES: Final = 64 << 20
"""Of a tail, which is held in memory. What came after the snapshot may be more: after the hand-over a new snapshot has all of it."""


class Source:
    """Where the context is. `attempt` is the one that will write at the destination."""

    def __init__(self, store: SqliteStore, key: AgentKey, attempt: int) -> None:
        self._store = store
        self._key = key
        self._attempt = attempt
        self._copy = store.folder(key.uid) / OUTGOING.format(attempt=attempt)

    def snapshot(self) -> Snapshot:
        """A copy is beside the context, until `forget_copy`. The agent may go on appending. Raises NotThere when it has no context here."""
        self._require()
        self.forget_copy()
        return self._store.existing(self._key, self._attempt).copy_to(self._copy)

    def forget_copy(self) -> None:
        """The copy is gone."""
        for path in (self._copy, self._copy.with_name(self._copy.name + ".part")):
            path.unlink(missing_ok=True)

    def hand_over(self) -> None:
        """No attempt before this one writes here any more, and this one begins elsewhere; durably so. Raises NotThere when
        there is no context: then none of them begins one here, either."""
        try:
            self._require()
        except NotThere:
            self._store.close_off(self._key, self._attempt)
            raise
        self._store.existing(self._key, self._attempt).hand_over()

    def tail(self, after: int, most_bytes: int = MOST_BYTES, copy: str | None = None) -> Tail:
        """What came after a snapshot that ended with item `after`; `copy` is what that says, see `Destination.said`. Raises TooMuch, and
        Conflict before `hand_over`: more could come."""
        self._require()
        return self._store.existing(self._key, self._attempt).tail(after, most_bytes, copy)

    def release(self) -> None:
        """Nothing of the context is here any more but the number of the attempt: none up to it begins another one here. Only after the
        destination has completed. Raises Conflict before `hand_over`."""
        self._store.remove(self._key, handed_over_to=self._attempt)

    def _require(self) -> None:
        if self._store.holds(self._key):
            return
        if released := self._store.released(self._key):
            raise Conflict(f"the context went to attempt {released}, which completed its move")
        raise NotThere("no context of this agent is here")


class Destination:
    """Where the context shall be."""

    def __init__(self, store: SqliteStore, key: AgentKey, attempt: int) -> None:
        self._store = store
        self._key = key
        self._attempt = attempt
        self._incoming = store.folder(key.uid) / INCOMING.format(attempt=attempt)

    def completed(self) -> bool:
        """Whether the context is here, for this attempt or a later one."""
        return self._store.holds(self._key) and self._store.existing(self._key, self._attempt).is_written_by(self._attempt)

    def receive(self, snapshot: Iterable[bytes], digest: str) -> None:
        """The snapshot is here, and not in force yet. Raises Conflict when its bytes are not those of `digest`."""
        with refusals(self._incoming):
            self._incoming.parent.mkdir(mode=0o700, exist_ok=True)
            copies.install(snapshot, self._incoming, digest)

    def said(self) -> str:
        """The digest of what the received snapshot says."""
        with refusals(self._incoming):
            return copies.said(self._incoming)

    def complete(self, tail: Tail) -> None:
        """The context is here as it was there, and the attempt may write it. Another one of the agent that is here, which an attempt
        began without this one, is kept as a snapshot. Raises Conflict when it is not the same."""
        if self.completed():
            return
        if not self._incoming.exists():
            raise Conflict("the snapshot must be received before the tail")
        with refusals(self._incoming):
            copies.apply(self._incoming, tail)
        self._store.supersede(self._key, keep_handed_over=False)
        self._store.adopt(self._key, self._incoming)

    def begin_empty(self) -> None:
        """The attempt has an empty context here. What was here of the agent is kept as a snapshot."""
        if not self.completed():
            self._store.supersede(self._key, keep_handed_over=True)
            self._store.context(self._key, self._attempt)

    def forget(self) -> None:
        """Nothing is left of what was received and is not in force."""
        for path in (self._incoming, self._incoming.with_name(self._incoming.name + ".part"), *with_log(self._incoming)[1:]):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is more in it
            self._incoming.parent.rmdir()


def move(source: Source, destination: Destination) -> None:
    """The whole of it, on one machine."""
    if not destination.completed():
        snapshot = source.snapshot()
        destination.receive(copies.pieces(snapshot.path), snapshot.digest)
        source.forget_copy()
        source.hand_over()
        destination.complete(copies.decode(copies.encode(source.tail(snapshot.last_seq))))
    source.release()

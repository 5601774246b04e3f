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

import shutil
from pathlib import Path

from aios_sidecar.context.errors import Conflict
from aios_sidecar.context.sqlite import copies
from aios_sidecar.context.sqlite.copies import Tail
from aios_sidecar.context.sqlite.file import refusals
from aios_sidecar.context.sqlite.store import FILE, SqliteStore
from aios_sidecar.context.store import AgentKey, Snapshot

INCOMING = "incoming-{attempt}.db"


class Source:
    """Where the context is. `attempt` is the one that will write at the destination."""

    def __init__(self, store: SqliteStore, key: AgentKey, attempt: int) -> None:
        self._store = store
        self._key = key
        self._attempt = attempt

    def snapshot(self, path: Path) -> Snapshot:
        """A copy is at `path`. The agent may go on appending."""
        return self._store.existing(self._key, self._attempt).copy_to(path)

    def hand_over(self) -> None:
        """No attempt before this one writes here any more, and this one begins elsewhere; durably so."""
        self._store.existing(self._key, self._attempt).hand_over()

    def tail(self, snapshot: Snapshot) -> Tail:
        """What came after the snapshot. Raises Conflict before `hand_over`: more could come."""
        return self._store.existing(self._key, self._attempt).tail(snapshot.last_seq)

    def release(self) -> None:
        """Nothing of the context is here any more. Only after the destination has completed. Raises Conflict before `hand_over`."""
        self._store.remove(self._key, handed_over_to=self._attempt)


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

    def receive(self, snapshot: Path, digest: str) -> None:
        """The snapshot is here, and not in force yet. Raises Conflict when its bytes are not those of `digest`."""
        with refusals(self._incoming):
            self._incoming.parent.mkdir(mode=0o700, exist_ok=True)
            copies.install(snapshot, self._incoming, digest)

    def complete(self, tail: Tail) -> None:
        """The context is here as it was there, and the attempt may write it. Raises Conflict when it is not the same, or when there is
        another context of the agent here that was not handed over: it is not thrown away for this one."""
        if self.completed():
            return
        if not self._incoming.exists():
            raise Conflict("the snapshot must be received before the tail")
        with refusals(self._incoming):
            copies.apply(self._incoming, tail)
        self._store.adopt(self._key, self._incoming)


def move(source: Source, destination: Destination, through: Path) -> None:
    """The whole of it, on one machine: `through` is a folder that both can reach."""
    if not destination.completed():
        path = through / FILE
        snapshot = source.snapshot(path)
        destination.receive(path, snapshot.digest)
        source.hand_over()
        destination.complete(copies.decode(copies.encode(source.tail(snapshot))))
        shutil.rmtree(through)
    source.release()

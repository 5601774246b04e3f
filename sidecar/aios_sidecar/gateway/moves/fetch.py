"""Fetches one context from another node, step by step. Blocking, for a thread; cut off at any point, all of it may be begun anew."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aios_sidecar.context.sqlite import copies
from aios_sidecar.context.sqlite.move import MOST_BYTES, Destination
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.gateway.moves.channel import Identity, Unreachable, dial

SPARE_BYTES: Final = 1 << 30
"""What a move leaves free on the disk: the other contexts here go on growing."""

Told = Callable[[int, int], None]
"""So many bytes have come, of so many."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a context is."""

    node: str
    address: str
    certificate: str


@dataclass(frozen=True, slots=True)
class Copied:
    """A snapshot is here. `last` is the item that it ended with; None: there is no context there. `said` is the digest of what it says."""

    last: int | None
    said: str | None = None


class Fetch:
    """One agent's move to this node."""

    def __init__(self, store: SqliteStore, key: AgentKey, attempt: int, identity: Identity, most_bytes: int) -> None:
        self._store = store
        self._key = key
        self._attempt = attempt
        self._identity = identity
        self._most_bytes = most_bytes
        self.destination = Destination(store, key, attempt)

    def copy(self, origin: Origin, told: Told) -> Copied:
        """The snapshot is here, and not in force; the agent goes on there. Raises Unreachable, ContextError."""
        with self._ask(origin, {"ask": "snapshot"}) as answer:
            if answer.head.get("nothing"):
                return Copied(None)
            size, digest, last = (answer.number("bytes", self._most_bytes), str(answer.head.get("digest")), answer.number("last", 2**62))
            free = shutil.disk_usage(self._store.folder(self._key.uid).parent).free
            if size + SPARE_BYTES > free:
                raise Unreachable(f"the context has {size} bytes, and of the disk here {max(0, free - SPARE_BYTES)} may be used for it")
            told(0, size)
            self.destination.receive(_counted(answer.content(size), size, told), digest)
            return Copied(last, self.destination.said())

    def take(self, origin: Origin, copied: Copied) -> bool:
        """The context is here, and the attempt may write it; nobody writes it there any more. False when what came since is too much for
        a tail: copy again. Raises Unreachable, ContextError."""
        with self._ask(origin, {"ask": "tail", "after": copied.last or 0, "copy": copied.said}) as answer:
            if answer.head.get("nothing"):
                self.destination.begin_empty()
                return True
            if answer.head.get("again") or copied.last is None:
                return False
            content = b"".join(answer.content(answer.number("bytes", 2 * MOST_BYTES)))
        self.destination.complete(copies.decode(content))
        return True

    def release(self, origin: Origin) -> None:
        """Nothing of it is there any more. Raises Unreachable."""
        with self._ask(origin, {"ask": "release"}):
            pass

    def _ask(self, origin: Origin, request: dict[str, Any]) -> "_Answer":
        channel = dial(origin.address, origin.certificate, self._identity)
        try:
            channel.send({**request, "uid": self._key.uid, "attempt": self._attempt})
            answer = channel.receive()
            if "refused" in answer:
                raise Unreachable(f"node {origin.node} refuses: {str(answer['refused'])[:1000]}")
        except BaseException:
            channel.close()
            raise
        return _Answer(answer, channel.receive_bytes, channel.close)


@dataclass(frozen=True, slots=True)
class _Answer:
    head: dict[str, Any]
    content: Callable[[int], Iterator[bytes]]
    close: Callable[[], None]

    def number(self, name: str, most: int) -> int:
        value = self.head.get(name)
        if not isinstance(value, int) or not 0 <= value <= most:
            raise Unreachable(f"the other node says {name} {str(value)[:40]}; it must be a number up to {most}")
        return value

    def __enter__(self) -> "_Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _counted(pieces: Iterable[bytes], size: int, told: Told) -> Iterator[bytes]:
    received = 0
    for piece in pieces:
        received += len(piece)
        told(received, size)
        yield piece

"""Gives contexts to the gateways of other nodes: what an order names, to the gateway that it names, and to nobody else.

A request names the agent and its attempt. `snapshot` is answered while the agent goes on; `tail` hands over first, so that no attempt
before that one writes here any more; `release` ends it. Each may be repeated.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aios_sidecar.context.errors import Busy, ContextError, NotThere, TooMuch
from aios_sidecar.context.sqlite import copies
from aios_sidecar.context.sqlite.move import Source
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.gateway.moves.channel import Channel, Unreachable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """An order names this attempt's gateway as the one that fetches the agent's context from here."""

    key: AgentKey
    attempt: int
    certificate: str


class Refused(Exception):
    """What is asked for is offered to somebody else, or to nobody."""


class Giver:
    """Answers requests, each in the thread that brings it."""

    def __init__(self, store: Callable[[], SqliteStore], bytes_per_second: float, forget: Callable[[str], None]) -> None:
        self._store = store
        self._forget = forget
        self._rate = bytes_per_second
        self._offers: dict[str, Offer] = {}
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def offer(self, offer: Offer) -> None:
        """From now on until `withdraw`."""
        self._offers[offer.key.uid] = offer

    def withdraw(self, uid: str) -> None:
        self._offers.pop(uid, None)

    def offered(self) -> list[str]:
        """The agents whose contexts are offered."""
        return list(self._offers)

    def trusted(self) -> set[str]:
        """The certificates of all to whom something is offered."""
        return {offer.certificate for offer in list(self._offers.values())}

    def serve(self, channel: Channel) -> None:
        """One request is answered."""
        try:
            request = channel.receive()
            try:
                self._answer(request, channel)
            except Refused as error:
                log.warning("refused to another node's gateway: %s", error)
                channel.send({"refused": str(error)})
            except NotThere:
                channel.send({"nothing": True})
            except ContextError as error:
                channel.send({"refused": str(error)[:1000]})
        except Unreachable as error:
            log.info("a gateway that fetches a context was lost: %s", error)

    def _answer(self, request: dict[str, Any], channel: Channel) -> None:
        offer = self._offers.get(str(request.get("uid")))
        if offer is None or offer.attempt != request.get("attempt") or offer.certificate != channel.peer:
            raise Refused("no order names this gateway for this attempt of this agent")
        with self._alone(offer.key.uid):
            source = Source(self._store(), offer.key, offer.attempt)
            match request.get("ask"):
                case "snapshot":
                    self._snapshot(source, channel)
                case "tail" if isinstance(after := request.get("after"), int):
                    self._tail(source, after, request.get("copy"), channel)
                case "release":
                    source.release()
                    self._forget(offer.key.uid)
                    channel.send({"released": True})
                    log.info("the context of %s/%s is released to attempt %d", offer.key.namespace, offer.key.name, offer.attempt)
                case _:
                    raise Refused("a request asks for snapshot, tail or release")

    def _snapshot(self, source: Source, channel: Channel) -> None:
        try:
            made = source.snapshot()
            channel.send({"bytes": made.file_bytes, "digest": made.digest, "last": made.last_seq})
            self._send(copies.pieces(made.path), channel)
        finally:
            source.forget_copy()

    def _tail(self, source: Source, after: int, copy: str | None, channel: Channel) -> None:
        source.hand_over()
        try:
            content = copies.encode(source.tail(after, copy=copy))
        except TooMuch:
            channel.send({"again": True})
            return
        channel.send({"bytes": len(content)})
        self._send((content[at : at + copies.CHUNK_BYTES] for at in range(0, len(content), copies.CHUNK_BYTES)), channel)

    def _send(self, pieces: Iterable[bytes], channel: Channel) -> None:
        """No faster than is allowed: the network is the agents' too."""
        due = time.monotonic()
        for piece in pieces:
            time.sleep(max(0.0, due - time.monotonic()))
            channel.send_bytes(piece)
            due += len(piece) / self._rate

    @contextmanager
    def _alone(self, uid: str) -> Iterator[None]:
        with self._lock:
            if uid in self._busy:
                raise Busy("this context is being fetched already")
            self._busy.add(uid)
        try:
            yield
        finally:
            self._busy.discard(uid)

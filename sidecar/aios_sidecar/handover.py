"""Carries the messages of `contracts.link`, and listening sockets beside them, between the node agent and the gateway.

A `SOCK_SEQPACKET` Unix socket: packets are whole, descriptors travel by SCM_RIGHTS, and the kernel vouches for the peer's user id
(SO_PEERCRED).
"""

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aios_sidecar.contracts.link import LISTENERS_LIMIT, ListenerKind, Message, WithListeners, decode
from aios_sidecar.contracts.packets import MESSAGE_LIMIT_BYTES, ProtocolError, encode

_RIGHTS_SPACE: Final = socket.CMSG_SPACE(LISTENERS_LIMIT * array.array("i").itemsize)


class LinkClosedError(Exception):
    """The peer, or this side, closed the link. Connect again."""


class PeerRefusedError(Exception):
    """The process at the other end runs as a user that must not be there."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message and the listeners that came with it. Whoever receives it owns the sockets: keep them or `close()`."""

    message: Message
    listeners: Mapping[ListenerKind, socket.socket] = field(default_factory=dict)

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.close()


class Link:
    """One end of the hand-over: whole messages with their descriptors, on the event loop, without threads.

    One task may receive at a time, any number may send. Every error closes the link and the descriptors that were under way.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._sending = asyncio.Lock()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def peer_uid(self) -> int:
        return peer_uid(self._socket)

    @property
    def closed(self) -> bool:
        return self._closed.done()

    async def send(self, message: Message, listeners: Mapping[ListenerKind, socket.socket] | None = None) -> None:
        """Hand `message` over, with duplicates of `listeners`; the caller keeps its own. Raises LinkClosedError when the peer is gone."""
        given = dict(listeners or {})
        if given:
            if not isinstance(message, WithListeners):
                raise ValueError(f"a {message.type} message carries no listeners")
            message = message.model_copy(update={"listeners": tuple(given)})
        packet = encode(message)
        with contextlib.ExitStack() as copies:
            # The caller may close its own while this waits for the peer, and their numbers would soon be those of other listeners.
            descriptors = [copies.enter_context(listener.dup()).fileno() for listener in given.values()]
            await self._send(packet, descriptors)

    async def _send(self, packet: bytes, descriptors: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        async with self._sending:
            while True:
                self._require_open()
                try:
                    self._socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
                    return
                except BlockingIOError:
                    await self._ready(writing=True)
                except OSError as error:
                    self.close()
                    raise LinkClosedError(f"the peer is gone: {error.strerror}") from error

    async def receive(self) -> Received:
        """The next message. Raises LinkClosedError at the end, ProtocolError for anything that the contract does not allow."""
        while True:
            self._require_open()
            try:
                packet, rights, flags, _ = self._socket.recvmsg(MESSAGE_LIMIT_BYTES + 1, _RIGHTS_SPACE, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await self._ready(writing=False)
                continue
            except OSError as error:
                self.close()
                raise LinkClosedError(f"the peer is gone: {error.strerror}") from error
            descriptors = _descriptors(rights)
            try:
                if not packet:
                    raise LinkClosedError("the peer closed the link")
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                    raise ProtocolError(
                        f"a message longer than {MESSAGE_LIMIT_BYTES} bytes or with more than {LISTENERS_LIMIT} descriptors"
                    )
                return _received(decode(packet), descriptors)
            except (LinkClosedError, ProtocolError):
                self.close()
                raise
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def close(self) -> None:
        """Close the link and wake whoever waits on it. May be repeated."""
        if not self._closed.done():
            self._closed.set_result(None)
            loop = self._closed.get_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            self._socket.close()

    def _require_open(self) -> None:
        if self.closed:
            raise LinkClosedError("the link is closed")

    async def _ready(self, *, writing: bool) -> None:
        loop = self._closed.get_loop()
        ready: asyncio.Future[None] = loop.create_future()
        add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
        add(self._socket, _set, ready)
        try:
            await asyncio.wait((ready, self._closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not self.closed:
                remove(self._socket)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _received(message: Message, descriptors: list[int]) -> Received:
    """Takes what it keeps out of `descriptors`; what is left there is the caller's to close."""
    kinds = message.listeners if isinstance(message, WithListeners) else ()
    if len(kinds) != len(descriptors):
        raise ProtocolError(f"a {message.type} message names {len(kinds)} listeners and brought {len(descriptors)} descriptors")
    listeners: dict[ListenerKind, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for kind in kinds:
            listeners[kind] = _listener(kind, descriptors.pop(0))
            undo.callback(listeners[kind].close)
        undo.pop_all()
    return Received(message, listeners)


def _listener(kind: ListenerKind, descriptor: int) -> socket.socket:
    """The listening socket behind `descriptor`, which is closed if it is anything else."""
    try:
        candidate = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise ProtocolError(f"the descriptor for {kind} is not a socket") from None
    family = socket.AF_UNIX if kind == "socket" else socket.AF_INET
    listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listens and candidate.family == family and candidate.type == socket.SOCK_STREAM:
        return candidate
    candidate.close()
    raise ProtocolError(f"the descriptor for {kind} is not a listening socket of that kind")


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process that connected or listens at the other end, as the kernel recorded it."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def listen(path: Path, *, owner_uid: int, backlog: int = 4) -> socket.socket:
    """A listening socket for the hand-over at `path`, which only `owner_uid` (and root) can connect to. Replaces what was there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        if owner_uid != os.geteuid():
            os.chown(path, owner_uid, -1)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


async def accept(listener: socket.socket, *, peer: int) -> Link:
    """The next link from a process of user `peer`. Raises PeerRefusedError, after closing it, for one of another user; accept again."""
    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    return _checked(connection, peer)


async def connect(path: Path, *, peer: int) -> Link:
    """A link to the process of user `peer` that listens at `path`. Raises LinkClosedError when nobody does, PeerRefusedError for others."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connection, str(path))
    except OSError as error:
        connection.close()
        raise LinkClosedError(f"nobody listens at {path}: {error.strerror}") from error
    except BaseException:
        connection.close()
        raise
    return _checked(connection, peer)


def _checked(connection: socket.socket, peer: int) -> Link:
    try:
        uid = peer_uid(connection)
        if uid != peer:
            raise PeerRefusedError(f"the peer runs as user {uid}, must be {peer}")
        return Link(connection)
    except BaseException:
        connection.close()
        raise

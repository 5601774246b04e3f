"""All moves of this node: what is offered to other gateways, and what is fetched for the attempts that are ordered here."""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from aios_sidecar.context.errors import ContextError
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.contracts.link import FetchContext, FetchStage, MovedContext
from aios_sidecar.gateway.moves.channel import Channel, Identity, Unreachable
from aios_sidecar.gateway.moves.fetch import Copied, Fetch, Origin
from aios_sidecar.gateway.moves.source import Giver, Offer
from aios_sidecar.gateway.settings import MoveLimits

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
"""Between two tries."""
T = TypeVar("T")
STAGES: Final = (FetchStage.COPY, FetchStage.TAKE, FetchStage.RELEASE)


class Mover:
    """`run` in a task, with the listener that other gateways connect to."""

    def __init__(self, store: Callable[[], SqliteStore], limits: MoveLimits, forget: Callable[[str], None]) -> None:
        """`store` raises Unwritable and Busy while there is none yet. `forget` is told of each agent whose context has gone from here."""
        self.identity = Identity()
        self.store = store
        self._limits = limits
        self._giver = Giver(store, limits.move_bytes_per_second, forget)
        self._giving = ThreadPoolExecutor(limits.moves_at_once, thread_name_prefix="give")
        self._taking = ThreadPoolExecutor(limits.moves_at_once, thread_name_prefix="take")
        self._moves: dict[str, _Move] = {}
        self._greeting: dict[asyncio.Task[None], None] = {}
        self._changed = asyncio.Event()

    # Towards this node.

    def fetch(self, order: FetchContext) -> None:
        """The agent's context is to be here, as far as the order says. Repeated, the last one is true."""
        known = self._moves.get(order.identity.uid)
        if known is None or known.order.identity.attempt != order.identity.attempt:
            self.forgo(order.identity.uid)
            known = self._moves[order.identity.uid] = _Move(order, self)
            known.begin()
        known.follow(order)

    def forgo(self, uid: str) -> None:
        """No order asks for it any more."""
        if (known := self._moves.pop(uid, None)) is not None:
            known.end()
            if not known.said.here:
                self._taking.submit(known.forget)

    def moved(self) -> Iterator[MovedContext]:
        """How far each move is."""
        return (move.said for move in list(self._moves.values()))

    def next_change(self) -> asyncio.Event:
        """Set by the next change of what `moved` says."""
        return self._changed

    def changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def take(self, work: Callable[[SqliteStore], T]) -> T:
        """What `work` returns, in one of the threads for what is fetched."""
        return await asyncio.get_running_loop().run_in_executor(self._taking, lambda: work(self.store()))

    def fetching(self, store: SqliteStore, key: AgentKey, attempt: int) -> Fetch:
        return Fetch(store, key, attempt, self.identity, self._limits.move_bytes)

    # To others.

    def offer(self, identity: AgentIdentity, certificate: str) -> None:
        """The gateway with this certificate may fetch the agent's context for that attempt."""
        self._giver.offer(Offer(_key(identity), identity.attempt, certificate))

    def withdraw(self, uid: str | None = None) -> None:
        """Nobody may fetch it; without `uid`: nobody may fetch anything."""
        for each in [uid] if uid is not None else self._giver.offered():
            self._giver.withdraw(each)

    async def listen(self, listener: socket.socket) -> None:
        """Until cancelled: whoever connects and is named by an order is served."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    log.error("no gateway of another node can connect: %s", error)
                    await asyncio.sleep(FIRST_PAUSE_SECONDS)
                    continue
                if len(self._greeting) >= self._limits.move_greetings:
                    next(iter(self._greeting)).cancel()  # the oldest: strangers may connect and say nothing
                task = loop.create_task(self._greet(connection))
                self._greeting[task] = None
                task.add_done_callback(lambda done: self._greeting.pop(done, None))
        finally:
            for task in self._greeting:
                task.cancel()
            listener.close()

    async def _greet(self, connection: socket.socket) -> None:
        """Only who has shown the certificate that an order names takes a thread."""
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            trusted = self._giver.trusted()
            if not trusted:
                return
            try:
                secure = self.identity.as_server(trusted).wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                undo.callback(secure.close)
                async with asyncio.timeout(self._limits.move_greeting_seconds):
                    await _handshake(secure)
                channel = Channel(secure)
            except (OSError, TimeoutError) as error:
                log.info("a stranger connected to the contexts of this node: %s", error)
                return
            undo.pop_all()
        asyncio.get_running_loop().run_in_executor(self._giving, self._serve, channel)

    def _serve(self, channel: Channel) -> None:
        try:
            self._giver.serve(channel)
        except Exception:
            log.exception("a context could not be given")
        finally:
            channel.close()

    def close(self) -> None:
        """Nothing is moved any more; what is under way is begun anew by the next program."""
        for uid in list(self._moves):
            self.forgo(uid)
        self._taking.shutdown(wait=False, cancel_futures=True)
        self._giving.shutdown(wait=False, cancel_futures=True)


class _Move:
    """One context on its way here."""

    def __init__(self, order: FetchContext, mover: Mover) -> None:
        self.order = order
        self._mover = mover
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        identity = order.identity
        self._ended = False
        self._turn = threading.Lock()
        self.said = MovedContext(uid=identity.uid, attempt=identity.attempt)

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"move {self.order.identity.uid}")

    def follow(self, order: FetchContext) -> None:
        if order != self.order:
            self.order = order
            self._news.set()

    def end(self) -> None:
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._news.clear()
            try:
                await self._bring()
                self._tell(here=True, trouble=None)
                await self._until(FetchStage.RELEASE)
                await self._release()
                return
            except (Unreachable, ContextError) as error:
                self._tell(trouble=str(error)[:1000])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._news.wait()
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
            except Exception as error:  # told, and tried again: a start waits for it
                log.exception("a context could not be fetched")
                self._tell(trouble=f"{type(error).__name__}: {error}"[:1000])
                await asyncio.sleep(LONGEST_PAUSE_SECONDS)

    async def _bring(self) -> None:
        key = _key(self.order.identity)
        if await self._mover.take(lambda store: self._fetching(store).destination.completed()):
            return
        if self.order.start_empty:
            await self._until(FetchStage.TAKE)
            await self._mover.take(lambda store: self._fetching(store).destination.begin_empty())
            return
        while True:
            origin = self._origin()
            copied = await self._mover.take(partial(self._copy, origin))
            self._tell(trouble=None)
            await self._until(FetchStage.TAKE)
            if self.order.start_empty:
                raise Unreachable("the context is given up")
            origin = self._origin()
            if await self._mover.take(partial(self._take, origin, copied)):
                log.info("the context of %s/%s is here, from node %s", key.namespace, key.name, origin.node)
                return

    def _fetching(self, store: SqliteStore) -> Fetch:
        identity = self.order.identity
        return self._mover.fetching(store, _key(identity), identity.attempt)

    def forget(self) -> None:
        """What was received is gone, if it is not in force."""
        with self._turn, contextlib.suppress(ContextError, OSError):
            self._fetching(self._mover.store()).destination.forget()

    def _copy(self, origin: Origin, store: SqliteStore) -> Copied:
        with self._turn:
            return self._fetching(store).copy(origin, self._count)

    def _take(self, origin: Origin, copied: Copied, store: SqliteStore) -> bool:
        with self._turn:
            return self._fetching(store).take(origin, copied)

    async def _release(self) -> None:
        if not self.order.start_empty:
            origin = self._origin()
            await self._mover.take(lambda store: self._fetching(store).release(origin))

    def _origin(self) -> Origin:
        order = self.order
        if order.address is None or order.certificate is None:
            raise Unreachable(f"node {order.node} has not said where its contexts can be fetched")
        return Origin(order.node, order.address, order.certificate)

    async def _until(self, stage: FetchStage) -> None:
        while STAGES.index(self.order.stage) < STAGES.index(stage):
            self._news.clear()
            await self._news.wait()

    def _count(self, received: int, of: int) -> None:
        """From the thread that receives, which ends here when nobody wants it any more."""
        if self._ended:
            raise Unreachable("no order asks for this context any more")
        self._loop.call_soon_threadsafe(lambda: self._tell(received=received, of=of))

    def _tell(self, *, here: bool | None = None, received: int | None = None, of: int | None = None, trouble: str | None = "") -> None:
        new = self.said.model_copy(
            update={name: value for name, value in (("here", here), ("received_bytes", received), ("total_bytes", of)) if value is not None}
            | ({} if trouble == "" else {"trouble": trouble})
        )
        if received is not None:
            new = new.model_copy(update={"trouble": None})
        if new != self.said:
            self.said = new
            self._mover.changed()


def _key(identity: AgentIdentity) -> AgentKey:
    return AgentKey(identity.namespace, identity.name, identity.uid)


async def _handshake(secure: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            secure.do_handshake()
            return
        except ssl.SSLWantReadError:
            await _ready(loop, secure.fileno(), writing=False)
        except ssl.SSLWantWriteError:
            await _ready(loop, secure.fileno(), writing=True)


async def _ready(loop: asyncio.AbstractEventLoop, descriptor: int, *, writing: bool) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(descriptor, _set, ready)
    try:
        await ready
    finally:
        remove(descriptor)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)

"""Brings the requests of agents to the store, in threads, so that the event loop never waits for a disk; and the store's refusals back."""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar
from weakref import WeakSet

from aios_api.context import AgentContext as ContextOrder
from aios_api.context import ContextFacts
from aios_sidecar.context.errors import BudgetTooSmall, Busy, Conflict, ContextError, Damaged, Fenced, LimitReached, NotThere, Unwritable
from aios_sidecar.context.items import InvalidItem
from aios_sidecar.context.receipt import document
from aios_sidecar.context.scoring.embeddings import StaticTable, scorer_for
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Context, ContextStore, Receipt, Scope
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.tokens.errors import UnknownTokenizer
from aios_sidecar.context.window import Memory, WindowRequest, build_window
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.gateway.contexts import orders
from aios_sidecar.gateway.contexts.metrics import ContextMetrics
from aios_sidecar.gateway.problems import Problem, ProblemKind

log = logging.getLogger(__name__)

T = TypeVar("T")
THREADS: Final = 16
AT_ONCE: Final = 4
"""Requests of one agent that read or compute at once: a quarter of the threads, so that none keeps the others waiting for long."""
VISITOR: Final = 2**31 - 1
"""No attempt has this number: who visits is refused by no fence but that of a context that was handed over."""
REMEMBERED: Final = 16
"""Agents whose facts and costs of items stay in memory: up to some 30 MiB each for 100,000 items."""
RETIRE_SECONDS: Final = 600.0
"""Between two looks for items that are too old, in contexts that nobody appends to."""

_KINDS: Final[dict[type[Exception], ProblemKind]] = {
    InvalidItem: ProblemKind.INVALID_REQUEST,
    NotThere: ProblemKind.NO_SUCH_ITEM,
    Conflict: ProblemKind.CONTEXT_CONFLICT,
    LimitReached: ProblemKind.CONTEXT_LIMIT_REACHED,
    Unwritable: ProblemKind.CONTEXT_UNWRITABLE,
    Damaged: ProblemKind.CONTEXT_DAMAGED,
    Fenced: ProblemKind.CONTEXT_FENCED,
    Busy: ProblemKind.CONTEXT_BUSY,
    BudgetTooSmall: ProblemKind.BUDGET_TOO_SMALL,
    UnknownTokenizer: ProblemKind.INVALID_REQUEST,
    ContextError: ProblemKind.INVALID_REQUEST,
}


class Desk:
    """The contexts of all agents of this node."""

    def __init__(
        self,
        open_store: Callable[[], ContextStore],
        metrics: ContextMetrics,
        models: Models | None = None,
        table: StaticTable | None = None,
    ) -> None:
        """`open_store` is called at the first use, and again after it failed: the node agent may not have made the directory yet.
        `table` says what means the same, for questions; None: words alone answer them."""
        self._open_store = open_store
        self._opening = threading.Lock()
        self._store: ContextStore | None = None
        self.metrics = metrics
        metrics.watch_contexts(self._told)
        self.models = models or Models()
        self.table = table
        self._served: WeakSet[AgentContext] = WeakSet()
        self._memories: OrderedDict[str, Remembered] = OrderedDict()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="desk")

    @property
    def store(self) -> ContextStore:
        """Raises Unwritable and Busy. For the threads of `run`."""
        with self._opening:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def files(self) -> SqliteStore:
        """The same, which keeps to files. For threads."""
        store = self.store
        assert isinstance(store, SqliteStore), "the gateway's store keeps to files"
        return store

    def of(self, identity: AgentIdentity) -> "AgentContext":
        """The context of this agent. It is opened, and earlier attempts are fenced off, at its first use."""
        context = AgentContext(self, identity)
        self._served.add(context)
        return context

    def visit(self, key: AgentKey) -> "AgentContext":
        """A way to this context for who is not the agent: it fences nobody off, and is no attempt that could be."""
        return AgentContext(self, AgentIdentity(namespace=key.namespace, name=key.name, uid=key.uid, attempt=VISITOR), visiting=True)

    def _told(self) -> list[ContextFacts]:
        return [context.told for context in list(self._served) if context.told is not None]

    def remembered(self, uid: str) -> "Remembered":
        """What windows of this agent's context were made with. Of the agents that asked last; of others it is made anew."""
        with self._opening:
            found = self._memories.pop(uid, None) or Remembered()
            self._memories[uid] = found
            while len(self._memories) > REMEMBERED:
                self._memories.popitem(last=False)
            return found

    def forget(self, uid: str) -> None:
        """Nothing of this agent's context is in memory."""
        with self._opening:
            self._memories.pop(uid, None)

    def leave(self, context: "AgentContext") -> None:
        """Nobody is served it any more."""
        self._served.discard(context)

    def rest(self, key: AgentKey) -> None:
        self._threads.submit(self.store.rest, key)

    async def keep(self) -> None:
        """Until cancelled: what is too old goes, also where nobody appends."""
        while True:
            await asyncio.sleep(RETIRE_SECONDS)
            await self.look_after()

    async def look_after(self) -> None:
        """What is too old is gone from the contexts of agents that run."""
        for context in list(self._served):
            try:
                await context.retire()
            except Problem as problem:
                log.warning("what is too old in a context stays for now: %s", problem.detail)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, done in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """What was acknowledged is in its file."""
        self._threads.shutdown()
        if self._store is not None:
            self._store.close()


class Remembered:
    """The memory of one agent's windows, for one thread at a time."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.turn = threading.Lock()


class AgentContext:
    """One agent's way to its context."""

    def __init__(self, desk: Desk, identity: AgentIdentity, *, visiting: bool = False) -> None:
        self._desk = desk
        self._key = AgentKey(identity.namespace, identity.name, identity.uid)
        self._attempt = identity.attempt
        self._visiting = visiting
        self._limits = orders.DEFAULTS
        self.ordered: ContextOrder | None = None
        """What the Agent's spec says of it."""
        self._used = True
        self.told: ContextFacts | None = None
        """What `facts` gave last."""
        self._context: Context | None = None
        self._turns = asyncio.Semaphore(AT_ONCE)

    def window(self, request: WindowRequest) -> dict[str, Any]:
        """The window as a document. For work of `do`: it blocks."""
        context, remembered = self._opened(), self._desk.remembered(self._key.uid)
        scorer = scorer_for(request.strategy.embedding, self._desk.table)
        with remembered.turn:
            with context.reading() as reader:
                window = build_window(reader, request, remembered.memory, self._desk.store.ages(), self._desk.models, scorer)
            answer = document(window)
        with suppress(Unwritable):  # a disk that takes nothing does not keep a window back
            if window.state is not None:
                context.keep_state(dict([window.state]))
            if window.accessed:
                context.accessed(window.accessed)
            if window.vectors is not None:
                context.keep_vectors(*window.vectors)
        return answer

    def erase(self, context: Context, scope: Scope) -> Receipt:
        """As `Context.erase`, in memory too. For work of `do_anyway`."""
        self._desk.forget(self._key.uid)
        receipt = context.erase(scope)
        self._used = True
        self._desk.forget(self._key.uid)  # a window that was under way has brought it back
        return receipt

    def order(self, ordered: ContextOrder | None) -> None:
        """This is in force from the next request on."""
        if ordered != self.ordered:
            self.ordered, self._limits, self._context = ordered, orders.limits(ordered), None

    async def facts(self) -> ContextFacts | None:
        """What is in it, as of a moment ago; None when there is nothing, or nothing can be told. Asked again only after it was used."""

        def work() -> ContextFacts | None:
            if not self._desk.store.holds(self._key):
                return None
            return orders.facts(self._desk.store.existing(self._key, self._attempt).describe())

        if self._used:
            self._used = False
            try:
                with self._refusals():
                    self.told = await self._desk.run(work)
            except Problem as problem:
                log.warning("what is in a context can't be told: %s", problem.detail)
        return self.told

    def rest(self) -> None:
        """The agent has ended: its context is closed, as soon as a thread is free, and not looked after any more."""
        self._desk.leave(self)
        if self._context is not None:
            self._desk.rest(self._key)

    async def do(self, work: Callable[[Context], T]) -> T:
        """What `work` returns for the agent's context. Raises Problem."""
        async with self._turns:
            with self._refusals():
                return await self._desk.run(lambda: work(self._opened()))

    async def retire(self) -> None:
        """What is too old is gone; an agent that has no context yet gets none. Raises Problem."""

        def work() -> None:
            if self._desk.store.holds(self._key):
                self._opened().retire()

        with self._refusals():
            await self._desk.run(work)

    async def do_anyway(self, work: Callable[[Context], T]) -> T:
        """As `do`, also for a context that is damaged: `work` says what may be done with it."""
        async with self._turns:
            with self._refusals():
                return await self._desk.run(lambda: work(self._desk.store.existing(self._key, self._attempt)))

    async def submit(self, work: Callable[[Context], "Future[T]"]) -> T:
        """As `do`, for work that only begins in the thread: what it waits for keeps no other request waiting."""
        async with self._turns:
            with self._refusals():
                future = await self._desk.run(lambda: work(self._opened()))
        with self._refusals():
            return await asyncio.wrap_future(future)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """What the store refuses becomes a Problem."""
        try:
            yield
        except (ContextError, InvalidItem, UnknownTokenizer) as error:
            if isinstance(error, Damaged | Unwritable):
                log.error("%s", error)
            kind = next(_KINDS[each] for each in type(error).__mro__ if each in _KINDS)
            self._desk.metrics.refused(kind)
            raise Problem(kind, str(error)) from error

    def _opened(self) -> Context:
        self._used = True
        if self._visiting:
            return self._desk.store.existing(self._key, self._attempt)
        if self._context is None:
            self._context = self._desk.store.context(self._key, self._attempt, self._limits)
        return self._context

"""The routes below `/v1/context`."""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from aios_sidecar.context.errors import NotThere
from aios_sidecar.context.items import Item, size_bytes
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.store import Appended, Context
from aios_sidecar.context.window import SLIDING, WindowRequest
from aios_sidecar.gateway.contexts import models as wire
from aios_sidecar.gateway.contexts.desk import AgentContext
from aios_sidecar.gateway.http import Head, Response
from aios_sidecar.gateway.problems import Problem, ProblemKind

M = TypeVar("M", bound=BaseModel)
CONTENT_BYTES: Final = 4 << 20
"""Of one request: a thousand items of 4 KiB."""
ANSWER_BYTES: Final = 4 << 20
"""Contents of items in one answer; the answer says where to go on."""
EXPAND_DEPTH: Final = 8
_WORDS: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class ContextCall:
    """A request of an agent to its context."""

    context: AgentContext
    head: Head
    content: bytes

    def read(self, model: type[M]) -> M:
        """The content as this model. Raises Problem with the name of the field that is wrong."""
        try:
            return model.model_validate_json(self.content or b"{}")
        except ValidationError as error:
            raise Problem(ProblemKind.INVALID_REQUEST, _first(error)) from None

    def query(self, model: type[M]) -> M:
        """The query of the target as this model."""
        pairs = parse_qsl(self.head.target.partition("?")[2], keep_blank_values=True)
        try:
            return model.model_validate(dict(pairs))
        except ValidationError as error:
            raise Problem(ProblemKind.INVALID_REQUEST, _first(error)) from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    return f"{where or 'the content'}: {first['msg']}"


def _json(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(by_alias=True).encode(), "application/json", status)


async def _told(call: ContextCall, work: Callable[[Context], BaseModel]) -> Response:
    """What `work` returns, as JSON, which is made in the thread too."""
    return await call.context.do(lambda context: _json(work(context)))


async def append(call: ContextCall) -> Response:
    key = call.head.header("idempotency-key")

    def begin(context: Context) -> "Future[Appended]":
        request = call.read(wire.Append)
        return context.submit([item.draft() for item in request.items], key, request.durability == "durable")

    appended = await call.context.submit(begin)
    return _json(wire.AppendedItems.of(appended), 200 if appended.replayed else 201)


class Range(wire.Wire):
    """Which items are to be read: from `first` to `last`, or the `newest` so many (before the item `before`)."""

    first: wire.Seq | None = None
    last: wire.Seq | None = None
    newest: int | None = None
    before: wire.Seq | None = None
    session: wire.SessionName | None = None
    limit: int = 1000


async def read(call: ContextCall) -> Response:
    asked = call.query(Range)
    if not 1 <= asked.limit <= 1000 or not 1 <= (asked.newest or 1) <= 1000:
        raise Problem(ProblemKind.INVALID_REQUEST, "limit and newest must be 1 to 1000")
    if asked.newest is not None and (asked.first is not None or asked.last is not None):
        raise Problem(ProblemKind.INVALID_REQUEST, "newest can't be given together with first or last")

    def work(context: Context) -> wire.Items:
        with context.reading() as reader:
            if asked.newest is not None:
                newest = reader.newest(asked.newest, asked.before, asked.session)
                return wire.Items.model_construct(items=_known(_that_fit(newest[::-1])[::-1]), next=None)
            found = reader.oldest(asked.limit + 1, (asked.first or 1) - 1, asked.session)
            wanted = [item for item in found if asked.last is None or item.seq <= asked.last]
            given = _that_fit(wanted[: asked.limit])
            return wire.Items.model_construct(items=_known(given), next=wanted[len(given)].seq if len(given) < len(wanted) else None)

    return await _told(call, work)


def _that_fit(items: Sequence[Item]) -> Sequence[Item]:
    """The first of them, as many as one answer may have; one at least."""
    size = 0
    for index, item in enumerate(items):
        size += size_bytes(item.content)
        if size > ANSWER_BYTES and index > 0:
            return items[:index]
    return items


def _known(items: Sequence[Item]) -> list[wire.KnownItem]:
    return [wire.KnownItem.of(item) for item in items]


async def search(call: ContextCall) -> Response:
    asked = call.read(wire.Search)

    def work(context: Context) -> wire.SearchResult:
        with context.reading() as reader:
            hits = reader.search(_WORDS.findall(asked.query), asked.limit, asked.session)
            items = {item.seq: item for item in reader.by_seq([hit.seq for hit in hits])}
        given = _that_fit([items[hit.seq] for hit in hits])
        context.accessed([item.seq for item in given])
        scores = {hit.seq: hit.score for hit in hits}
        found = [wire.Found.model_construct(item=wire.KnownItem.of(item), score=scores[item.seq]) for item in given]
        return wire.SearchResult.model_construct(found=found)

    return await _told(call, work)


class Some(wire.Wire):
    """Which items: their numbers, with commas between them."""

    items: str


async def describe_items(call: ContextCall) -> Response:
    seqs = _numbers(call.query(Some).items)

    def work(context: Context) -> wire.DescribedItems:
        with context.reading() as reader:
            described = [_described(reader, item) for item in reader.by_seq(seqs)]
        if len(described) < len(seqs):
            raise NotThere(f"there is no item {min(seqs - {each.item.seq for each in described})}")
        return wire.DescribedItems.model_construct(items=described)

    return await _told(call, work)


def _described(reader: Reader, item: Item) -> wire.DescribedItem:
    return wire.DescribedItem.model_construct(
        item=wire.KnownItem.of(item, content=False),
        content_bytes=size_bytes(item.content),
        sources=len(reader.by_seq(item.derived_from)),
        summaries=[made.seq for made in reader.made_from([item.seq])],
    )


def _numbers(text: str) -> set[int]:
    if not re.fullmatch(r"[0-9]{1,15}(,[0-9]{1,15}){0,99}", text):
        raise Problem(ProblemKind.INVALID_REQUEST, "items must be 1 to 100 numbers with commas between them")
    return {int(number) for number in text.split(",")}


class Expansion(wire.Wire):
    """Which summary, and how many levels down."""

    item: wire.Seq
    depth: int = 1


async def expand(call: ContextCall) -> Response:
    asked = call.query(Expansion)
    if not 1 <= asked.depth <= EXPAND_DEPTH:
        raise Problem(ProblemKind.INVALID_REQUEST, f"depth must be 1 to {EXPAND_DEPTH}")

    def work(context: Context) -> wire.Items:
        with context.reading() as reader:
            start = reader.by_seq([asked.item])
            if not start:
                raise NotThere(f"there is no item {asked.item}")
            edge, found = list(start), dict[int, Item]()
            for _ in range(asked.depth):
                edge = [item for item in reader.by_seq({seq for item in edge for seq in item.derived_from}) if item.seq not in found]
                found.update((item.seq, item) for item in edge)
        items = [found[seq] for seq in sorted(found)]
        given = _that_fit(items)
        context.accessed([item.seq for item in given])
        return wire.Items.model_construct(items=_known(given), next=items[len(given)].seq if len(given) < len(items) else None)

    return await _told(call, work)


async def window(call: ContextCall) -> Response:
    asked = call.read(wire.WindowCall)
    ordered = call.context.ordered
    budget = asked.budget or (ordered.budget if ordered is not None else None)
    if budget is None:
        raise Problem(ProblemKind.INVALID_REQUEST, "budget must be given: the Agent's spec names none")
    strategy = asked.strategy or (ordered.strategy if ordered is not None else None) or SLIDING
    request = WindowRequest(budget, asked.model, asked.reserve, strategy, asked.query, asked.session, asked.format)

    def work(_: Context) -> Response:
        return Response(json.dumps(call.context.window(request), ensure_ascii=False).encode(), "application/json")

    return await call.context.do(work)


async def describe(call: ContextCall) -> Response:
    return await _told(call, lambda context: wire.ContextDescription.of(context.describe()))


async def sessions(call: ContextCall) -> Response:
    def work(context: Context) -> wire.Sessions:
        with context.reading() as reader:
            return wire.Sessions.model_construct(sessions=[wire.KnownSession.of(session) for session in reader.sessions()])

    return await _told(call, work)


DONE: Final = Response(b"{}", "application/json")


def _saying(model: type[M], act: Callable[[Context, M], None]) -> Callable[[ContextCall], Awaitable[Response]]:
    """A route that does something with its content and has nothing to tell."""

    async def answer(call: ContextCall) -> Response:
        asked = call.read(model)
        await call.context.do(lambda context: act(context, asked))
        return DONE

    return answer


pin = _saying(wire.ItemNumbers, lambda context, asked: context.pin(asked.items))
unpin = _saying(wire.ItemNumbers, lambda context, asked: context.pin(asked.items, pinned=False))
weigh = _saying(wire.Importance, lambda context, asked: context.weigh(asked.items, asked.importance))
fork = _saying(wire.Fork, lambda context, asked: context.fork(asked.at, asked.into))
report = _saying(wire.UsageReport, lambda context, asked: context.report(asked.usage(datetime.now(UTC))))


async def snapshot(call: ContextCall) -> Response:
    return await _told(call, lambda context: wire.SnapshotTaken.of(context.snapshot()))


async def erase(call: ContextCall) -> Response:
    asked = call.read(wire.Erase)
    return await call.context.do_anyway(lambda context: _json(wire.ErasureReceipt.of(call.context.erase(context, asked.scope()))))


@dataclass(frozen=True, slots=True)
class ContextRoute:
    """One method of one path, with what its document says."""

    method: str
    path: str
    name: str
    answer: Callable[[ContextCall], Awaitable[Response]]
    summary: str
    request: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    result: type[BaseModel] | None = None


ROUTES: Final = (
    ContextRoute("GET", "/v1/context", "context", describe, "What the context holds.", result=wire.ContextDescription),
    ContextRoute(
        "POST",
        "/v1/context/items",
        "context_append",
        append,
        "Append items. With an Idempotency-Key, once.",
        wire.Append,
        None,
        wire.AppendedItems,
    ),
    ContextRoute("GET", "/v1/context/items", "context_read", read, "Read items by number.", None, Range, wire.Items),
    ContextRoute("POST", "/v1/context/window", "context_window", window, "What to show a model.", wire.WindowCall, None, wire.WindowAnswer),
    ContextRoute("POST", "/v1/context/search", "context_search", search, "Find items by words.", wire.Search, None, wire.SearchResult),
    ContextRoute("POST", "/v1/context/pin", "context_pin", pin, "Keep items in every window, and from retention.", wire.ItemNumbers),
    ContextRoute("POST", "/v1/context/unpin", "context_unpin", unpin, "Pin items no longer.", wire.ItemNumbers),
    ContextRoute("POST", "/v1/context/importance", "context_importance", weigh, "Say how much items matter.", wire.Importance),
    ContextRoute("GET", "/v1/context/describe", "context_describe", describe_items, "What items are.", None, Some, wire.DescribedItems),
    ContextRoute("GET", "/v1/context/expand", "context_expand", expand, "What a summary stands for.", None, Expansion, wire.Items),
    ContextRoute("GET", "/v1/context/sessions", "context_sessions", sessions, "The sessions.", result=wire.Sessions),
    ContextRoute("POST", "/v1/context/fork", "context_fork", fork, "Begin a session as another one did, up to an item.", wire.Fork),
    ContextRoute("POST", "/v1/context/usage", "context_usage", report, "Report what a provider counted for a window.", wire.UsageReport),
    ContextRoute("POST", "/v1/context/snapshot", "context_snapshot", snapshot, "Keep a copy of the context.", result=wire.SnapshotTaken),
    ContextRoute("POST", "/v1/context/erase", "context_erase", erase, "Erase, with a receipt.", wire.Erase, None, wire.ErasureReceipt),
)

"""The two clients, which differ in nothing but how they wait. Every method raises an AiosError.

What may be sent twice is tried again when the gateway does not answer or is not ready, which it is within seconds after a restart.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from aios_sdk.answers import Part
from aios_sdk.context import calls, results
from aios_sdk.context.calls import Call
from aios_sdk.context.items import Item, NewItem
from aios_sdk.endpoint import TIMEOUT_SECONDS, Endpoint, answer_of

T = TypeVar("T")
Items = NewItem | Sequence[NewItem]
PAUSES_SECONDS: Final = (0.1, 0.4, 1.5)
"""Before the second, third and fourth try."""


def _is_worth_another(call: Call[Any], outcome: httpx.Response | Exception) -> bool:
    if isinstance(outcome, httpx.Response):
        return call.repeatable and outcome.status_code == httpx.codes.SERVICE_UNAVAILABLE
    return call.repeatable and isinstance(outcome, httpx.TransportError) and not isinstance(outcome, httpx.TimeoutException)


def _several(items: Items) -> Sequence[NewItem]:
    return [items] if isinstance(items, NewItem) else items


class Context:
    """This agent's context, for code that waits. It keeps connections open: use it as a context manager, or close it."""

    def __init__(self, environment: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._endpoint = Endpoint.of(environment)
        self._client = self._endpoint.client(timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """No connection is open any more."""
        self._client.close()

    def append(self, items: Items, *, durable: bool = True, key: str | None = None) -> results.Appended:
        """The items are at the end of the log, all or none; with `durable` on the disk. A `key` of your own makes it safe to append
        again after your program was restarted; else one is made for the tries of this call."""
        return self._do(calls.append(_several(items), durable, key))

    def read(self, first: int | None = None, last: int | None = None, *, session: str | None = None) -> Iterator[Item]:
        """All items from `first` to `last`, read page by page."""
        start: int | None = first
        while True:
            page = self._do(calls.read(start, last, session, 1000))
            yield from page.items
            if page.next is None:
                return
            start = page.next

    def newest(self, count: int, *, before: int | None = None, session: str | None = None) -> tuple[Item, ...]:
        """The newest items, in the order of the log; fewer than `count` when there are fewer, or when they are very large."""
        return self._do(calls.newest(count, before, session)).items

    def window(
        self,
        *,
        model: str,
        budget: int | None = None,
        reserve: int = 0,
        format: str = "openai",  # noqa: A002  the endpoint's own word
        query: str | None = None,
        session: str | None = None,
        strategy: Mapping[str, Any] | None = None,
    ) -> results.Window:
        """What to show `model` within `budget` tokens (by default that of the Agent's spec); with `query`, what answers it at the end."""
        asked = {"model": model, "budget": budget, "reserve": reserve, "format": format, "query": query, "session": session}
        return self._do(calls.window(**asked, strategy=strategy))

    def search(self, query: str, *, session: str | None = None, limit: int = 10) -> tuple[results.Found, ...]:
        """The items that have words of `query`, best first."""
        return self._do(calls.search(query, session, limit))

    def describe_items(self, seqs: Sequence[int]) -> tuple[results.DescribedItem, ...]:
        """What these items are, without their content."""
        return self._do(calls.describe_items(seqs))

    def expand(self, item: int, *, depth: int = 1) -> results.Page:
        """What a summary stands for, `depth` levels down. `next` is set when that is more than one answer holds: read on from there."""
        return self._do(calls.expand(item, depth))

    def sessions(self) -> tuple[results.Session, ...]:
        """All sessions, the one that was appended to last first."""
        return self._do(calls.sessions())

    def pin(self, *seqs: int) -> None:
        """These items are in every window, and stay."""
        self._do(calls.pin(seqs, True))

    def unpin(self, *seqs: int) -> None:
        """No longer."""
        self._do(calls.pin(seqs, False))

    def weigh(self, *seqs: int, importance: float | None) -> None:
        """These items matter so much, 0 to 1; None leaves it to the scorer."""
        self._do(calls.weigh(seqs, importance))

    def fork(self, at: int, into: str) -> None:
        """The session `into` begins as that of item `at` did, up to it."""
        self._do(calls.fork(at, into))

    def report_usage(self, *, model: str, messages: int, content_bytes: Mapping[str, int], tokens: int) -> None:
        """What the provider counted for a request: windows for models without a tokenizer here are counted by it."""
        self._do(calls.report_usage(model, messages, content_bytes, tokens))

    def erase(
        self,
        *,
        items: Sequence[int] | None = None,
        session: str | None = None,
        author: str | None = None,
        label: Mapping[str, str] | None = None,
        everything: bool | None = None,
    ) -> results.ErasureReceipt:
        """What is named (exactly one way) and all that was made from it is in no file any more."""
        return self._do(calls.erase(items=items, session=session, author=author, label=label, everything=everything))

    def snapshot(self) -> results.Snapshot:
        """A copy of the context is kept on the node; the newest few of them stay."""
        return self._do(calls.snapshot())

    def describe(self) -> results.Description:
        """What the context holds now."""
        return self._do(calls.describe())

    def _do(self, call: Call[T]) -> T:
        for pause in (*PAUSES_SECONDS, None):
            outcome: httpx.Response | Exception
            try:
                outcome = self._client.request(
                    call.method, call.path, params=dict(call.query), headers=dict(call.headers), **_content(call)
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                outcome = error
            if pause is None or not _is_worth_another(call, outcome):
                break
            time.sleep(pause)
        return _read(self._endpoint, call, outcome)


class AsyncContext:
    """As `Context`, for asyncio."""

    def __init__(self, environment: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._endpoint = Endpoint.of(environment)
        self._client = self._endpoint.async_client(timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Context.close`."""
        await self._client.aclose()

    async def append(self, items: Items, *, durable: bool = True, key: str | None = None) -> results.Appended:
        """As `Context.append`."""
        return await self._do(calls.append(_several(items), durable, key))

    async def read(self, first: int | None = None, last: int | None = None, *, session: str | None = None) -> list[Item]:
        """As `Context.read`, all at once."""
        found: list[Item] = []
        start: int | None = first
        while True:
            page = await self._do(calls.read(start, last, session, 1000))
            found += page.items
            if page.next is None:
                return found
            start = page.next

    async def newest(self, count: int, *, before: int | None = None, session: str | None = None) -> tuple[Item, ...]:
        """As `Context.newest`."""
        return (await self._do(calls.newest(count, before, session))).items

    async def window(
        self,
        *,
        model: str,
        budget: int | None = None,
        reserve: int = 0,
        format: str = "openai",  # noqa: A002  the endpoint's own word
        query: str | None = None,
        session: str | None = None,
        strategy: Mapping[str, Any] | None = None,
    ) -> results.Window:
        """As `Context.window`."""
        asked = {"model": model, "budget": budget, "reserve": reserve, "format": format, "query": query, "session": session}
        return await self._do(calls.window(**asked, strategy=strategy))

    async def search(self, query: str, *, session: str | None = None, limit: int = 10) -> tuple[results.Found, ...]:
        """As `Context.search`."""
        return await self._do(calls.search(query, session, limit))

    async def describe_items(self, seqs: Sequence[int]) -> tuple[results.DescribedItem, ...]:
        """As `Context.describe_items`."""
        return await self._do(calls.describe_items(seqs))

    async def expand(self, item: int, *, depth: int = 1) -> results.Page:
        """As `Context.expand`."""
        return await self._do(calls.expand(item, depth))

    async def sessions(self) -> tuple[results.Session, ...]:
        """As `Context.sessions`."""
        return await self._do(calls.sessions())

    async def pin(self, *seqs: int) -> None:
        """As `Context.pin`."""
        await self._do(calls.pin(seqs, True))

    async def unpin(self, *seqs: int) -> None:
        """As `Context.unpin`."""
        await self._do(calls.pin(seqs, False))

    async def weigh(self, *seqs: int, importance: float | None) -> None:
        """As `Context.weigh`."""
        await self._do(calls.weigh(seqs, importance))

    async def fork(self, at: int, into: str) -> None:
        """As `Context.fork`."""
        await self._do(calls.fork(at, into))

    async def report_usage(self, *, model: str, messages: int, content_bytes: Mapping[str, int], tokens: int) -> None:
        """As `Context.report_usage`."""
        await self._do(calls.report_usage(model, messages, content_bytes, tokens))

    async def erase(
        self,
        *,
        items: Sequence[int] | None = None,
        session: str | None = None,
        author: str | None = None,
        label: Mapping[str, str] | None = None,
        everything: bool | None = None,
    ) -> results.ErasureReceipt:
        """As `Context.erase`."""
        return await self._do(calls.erase(items=items, session=session, author=author, label=label, everything=everything))

    async def snapshot(self) -> results.Snapshot:
        """As `Context.snapshot`."""
        return await self._do(calls.snapshot())

    async def describe(self) -> results.Description:
        """As `Context.describe`."""
        return await self._do(calls.describe())

    async def _do(self, call: Call[T]) -> T:
        for pause in (*PAUSES_SECONDS, None):
            outcome: httpx.Response | Exception
            try:
                outcome = await self._client.request(
                    call.method, call.path, params=dict(call.query), headers=dict(call.headers), **_content(call)
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                outcome = error
            if pause is None or not _is_worth_another(call, outcome):
                break
            await asyncio.sleep(pause)
        return _read(self._endpoint, call, outcome)


def _content(call: Call[Any]) -> dict[str, Any]:
    return {} if call.body is None else {"json": dict(call.body)}


def _read(endpoint: Endpoint, call: Call[T], outcome: httpx.Response | Exception) -> T:
    if isinstance(outcome, Exception):
        raise endpoint.unreachable(outcome) from outcome
    return call.read(Part("", answer_of(outcome)))

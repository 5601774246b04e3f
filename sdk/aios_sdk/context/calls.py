"""Each request to the context as a value: what is sent, how the answer is read, and whether it may be sent twice."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from aios_sdk.answers import Part
from aios_sdk.context import results
from aios_sdk.context.items import NewItem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request."""

    method: str
    path: str
    read: Callable[[Part], T]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """Sending it twice is as sending it once."""


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _nothing(part: Part) -> None:
    """There is nothing to be told."""


def append(items: Sequence[NewItem], durable: bool, key: str | None) -> Call[results.Appended]:
    body = {"items": [item.body() for item in items], "durability": "durable" if durable else "relaxed"}
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return Call("POST", "/v1/context/items", results.Appended.read, body, headers=headers)


def read(first: int | None, last: int | None, session: str | None, limit: int) -> Call[results.Page]:
    return Call("GET", "/v1/context/items", results.Page.read, query=_given(first=first, last=last, session=session, limit=limit))


def newest(count: int, before: int | None, session: str | None) -> Call[results.Page]:
    return Call("GET", "/v1/context/items", results.Page.read, query=_given(newest=count, before=before, session=session))


def window(**asked: Any) -> Call[results.Window]:
    return Call("POST", "/v1/context/window", results.Window.read, _given(**asked))


def search(query: str, session: str | None, limit: int) -> Call[tuple[results.Found, ...]]:
    def found(part: Part) -> tuple[results.Found, ...]:
        return tuple(results.Found.read(each) for each in part.parts("found"))

    return Call("POST", "/v1/context/search", found, _given(query=query, session=session, limit=limit))


def describe_items(seqs: Sequence[int]) -> Call[tuple[results.DescribedItem, ...]]:
    def described(part: Part) -> tuple[results.DescribedItem, ...]:
        return tuple(results.DescribedItem.read(each) for each in part.parts("items"))

    return Call("GET", "/v1/context/describe", described, query={"items": ",".join(map(str, seqs))})


def expand(item: int, depth: int) -> Call[results.Page]:
    return Call("GET", "/v1/context/expand", results.Page.read, query={"item": item, "depth": depth})


def sessions() -> Call[tuple[results.Session, ...]]:
    def known(part: Part) -> tuple[results.Session, ...]:
        return tuple(results.Session.read(each) for each in part.parts("sessions"))

    return Call("GET", "/v1/context/sessions", known)


def pin(seqs: Sequence[int], pinned: bool) -> Call[None]:
    return Call("POST", f"/v1/context/{'pin' if pinned else 'unpin'}", _nothing, {"items": list(seqs)})


def weigh(seqs: Sequence[int], importance: float | None) -> Call[None]:
    return Call("POST", "/v1/context/importance", _nothing, {"items": list(seqs), "importance": importance})


def fork(at: int, into: str) -> Call[None]:
    return Call("POST", "/v1/context/fork", _nothing, {"at": at, "into": into}, repeatable=False)


def report_usage(model: str, messages: int, content_bytes: Mapping[str, int], tokens: int) -> Call[None]:
    body = {"model": model, "messages": messages, "contentBytes": dict(content_bytes), "tokens": tokens}
    return Call("POST", "/v1/context/usage", _nothing, body, repeatable=False)


def erase(**scope: Any) -> Call[results.ErasureReceipt]:
    return Call("POST", "/v1/context/erase", results.ErasureReceipt.read, _given(**scope))


def snapshot() -> Call[results.Snapshot]:
    return Call("POST", "/v1/context/snapshot", results.Snapshot.read)


def describe() -> Call[results.Description]:
    return Call("GET", "/v1/context", results.Description.read)

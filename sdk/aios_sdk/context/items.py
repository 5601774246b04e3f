"""Items: what an agent appends, and what it reads back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from aios_sdk.answers import Part

Content = str | Sequence[Mapping[str, Any]]
"""A text, or parts: {"type": "text", "text": …}, {"type": "data", "mediaType": …, "data": base64}."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """What is to be appended. The functions below make the usual ones."""

    role: str
    content: Content
    kind: str = "message"
    session: str = "main"
    author: str | None = None
    call_id: str | None = None
    derived_from: Sequence[int] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    time: datetime | None = None
    """When it happened, with a time zone; None is now."""

    def body(self) -> dict[str, Any]:
        """As the endpoint takes it; what is not set is left out."""
        content = self.content if isinstance(self.content, str) else [dict(part) for part in self.content]
        given = {
            "author": self.author,
            "callId": self.call_id,
            "derivedFrom": list(self.derived_from),
            "labels": dict(self.labels),
            "tokens": dict(self.tokens),
            "time": self.time.isoformat() if self.time else None,
        }
        fixed = {"role": self.role, "content": content, "kind": self.kind, "session": self.session}
        return {**fixed, **{name: value for name, value in given.items() if value}}


def user(content: Content, **fields: Any) -> NewItem:
    """What a person said."""
    return NewItem("user", content, **fields)


def assistant(content: Content, **fields: Any) -> NewItem:
    """What the agent said."""
    return NewItem("assistant", content, **fields)


def system(content: Content, **fields: Any) -> NewItem:
    """What the agent is told to be."""
    return NewItem("system", content, **fields)


def tool_call(call_id: str, name: str, arguments: Mapping[str, Any], **fields: Any) -> NewItem:
    """A call of a tool. Calls at once are several items in a row."""
    part = {"type": "tool_call", "name": name, "arguments": dict(arguments)}
    return NewItem("assistant", [part], "tool_call", call_id=call_id, **fields)


def tool_result(call_id: str, content: Content, **fields: Any) -> NewItem:
    """What the tool answered to that call."""
    return NewItem("tool", content, "tool_result", call_id=call_id, **fields)


def observation(content: Content, **fields: Any) -> NewItem:
    """Something that the agent saw."""
    return NewItem("user", content, "observation", **fields)


def note(content: Content, **fields: Any) -> NewItem:
    """Something that the agent writes for itself."""
    return NewItem("assistant", content, "note", **fields)


def summary(content: Content, derived_from: Sequence[int], **fields: Any) -> NewItem:
    """Stands for other items, which stay. Erasing one of them erases it."""
    return NewItem("assistant", content, "summary", derived_from=derived_from, **fields)


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the log."""

    seq: int
    session: str
    time: datetime
    role: str
    kind: str
    content: Any
    """A text, or a list of parts. None in a description."""
    author: str | None
    call_id: str | None
    derived_from: tuple[int, ...]
    labels: Mapping[str, str]
    tokens: Mapping[str, int]
    pinned: bool
    importance: float | None
    accesses: int

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(
            seq=part.whole("seq"),
            session=part.text("session"),
            time=part.moment("time"),
            role=part.text("role"),
            kind=part.text("kind"),
            content=part.raw("content"),
            author=part.optional_text("author"),
            call_id=part.optional_text("callId"),
            derived_from=tuple(part.listed("derivedFrom")),
            labels=part.mapping("labels"),
            tokens=part.mapping("tokens"),
            pinned=part.flag("pinned"),
            importance=part.optional_number("importance"),
            accesses=part.whole("accesses"),
        )

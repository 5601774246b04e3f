"""What a context consists of: items, which never change, and what is later said of them.

Tuples, not models: a window reads hundreds of items out of a hundred thousand within a millisecond.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

Part = Mapping[str, Any]
"""One part of a content: `{"type": "text", "text": …}`, `{"type": "tool_call", "name": …, "arguments": {…}}`, or
`{"type": "data", "mediaType": …, "data": base64}`."""
Content = str | tuple[Part, ...]

NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})
NO_TOKENS: Final[Mapping[str, int]] = MappingProxyType({})


class Role(StrEnum):
    """Who speaks, in the words that every provider knows."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Kind(StrEnum):
    """What an item is."""

    MESSAGE = "message"
    TOOL_CALL = "tool_call"
    """One call of one tool, by the assistant: exactly one part of type tool_call, and a `call_id`. Parallel calls are items in a row."""
    TOOL_RESULT = "tool_result"
    """What a tool answered, by the role tool, to the call with the same `call_id`."""
    OBSERVATION = "observation"
    """Something that the agent saw, of no conversation: an event, a reading."""
    NOTE = "note"
    """Something that the agent wrote for itself."""
    SUMMARY = "summary"
    """Stands for other items, which `derived_from` names. They stay."""


class Accesses(NamedTuple):
    """How often an item was asked for, and when last: what base-level activation is reckoned from."""

    times: int = 0
    last: tuple[datetime, ...] = ()
    """The last times, newest first, at most `ACCESS_TIMES`."""


ACCESS_TIMES: Final = 8
"""More than that many times change the activation by less than the time of the last one does."""
NO_ACCESSES: Final = Accesses()


class Item(NamedTuple):
    """One entry of the log, with what annotations say of it now."""

    seq: int
    """Its number: 1, 2, 3 … within the agent, over all its sessions; never used twice."""
    session: str
    time: datetime
    """When it happened, in UTC; never before the item before it, unless a clock that was ahead gave that one its time."""
    role: Role
    kind: Kind
    content: Content
    author: str | None = None
    """Who said it, where the role does not tell: a person's or another agent's name."""
    call_id: str | None = None
    """Links a tool call and its results."""
    derived_from: tuple[int, ...] = ()
    """The items that this one was made from, by number, ascending."""
    labels: Mapping[str, str] = NO_LABELS
    tokens: Mapping[str, int] = NO_TOKENS
    """What the content counts, by the name of the counter."""
    pinned: bool = False
    importance: float | None = None
    """Set by the agent, 0 to 1; None leaves it to the scorer."""
    erased: bool = False
    """The content is gone and only the number is left. A Reader never shows such an item."""
    accesses: Accesses = NO_ACCESSES


class Draft(NamedTuple):
    """An item before it has a number."""

    role: Role
    content: Content
    kind: Kind = Kind.MESSAGE
    session: str = "main"
    author: str | None = None
    call_id: str | None = None
    derived_from: tuple[int, ...] = ()
    labels: Mapping[str, str] = NO_LABELS
    tokens: Mapping[str, int] = NO_TOKENS
    time: datetime | None = None
    """When it happened; None is now. See `stamp` for what becomes of a time before that of the newest item, or after now."""


class Usage(NamedTuple):
    """What a provider reported for one request that was made of a window: ratios of tokens to bytes are learned from it."""

    model: str
    time: datetime
    messages: int
    """How many messages the request had."""
    content_bytes: Mapping[str, int]
    """Bytes of content in the request, by the kind of item."""
    tokens: int
    """What the provider counted for the input."""


class InvalidItem(ValueError):
    """The item can't be kept as it is; the message names the field and says what must be true."""


NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
"""Sessions, label keys and counters. Short, printable, safe in a URL."""
AUTHOR_LENGTH: Final = 128
CALL_ID_LENGTH: Final = 128
LABELS_LIMIT: Final = 16
LABEL_VALUE_LENGTH: Final = 256
TOKENS_LIMIT: Final = 8
DERIVED_LIMIT: Final = 1024
PARTS_LIMIT: Final = 256


def check(draft: Draft, content_bytes: int) -> int:
    """How many bytes the content of the draft has. Raises InvalidItem when it can't become an item, or has more than `content_bytes`."""
    if NAME.fullmatch(draft.session) is None:
        raise InvalidItem(f"session must match {NAME.pattern}")
    if draft.author is not None and not 0 < len(draft.author) <= AUTHOR_LENGTH:
        raise InvalidItem(f"author must have 1 to {AUTHOR_LENGTH} characters")
    if draft.call_id is not None and not 0 < len(draft.call_id) <= CALL_ID_LENGTH:
        raise InvalidItem(f"callId must have 1 to {CALL_ID_LENGTH} characters")
    if len(draft.labels) > LABELS_LIMIT:
        raise InvalidItem(f"labels must be at most {LABELS_LIMIT}")
    for key, value in draft.labels.items():
        if NAME.fullmatch(key) is None:
            raise InvalidItem(f"labels: a key must match {NAME.pattern}")
        if len(value) > LABEL_VALUE_LENGTH:
            raise InvalidItem(f"labels.{key} must have at most {LABEL_VALUE_LENGTH} characters")
    if len(draft.tokens) > TOKENS_LIMIT:
        raise InvalidItem(f"tokens must be at most {TOKENS_LIMIT}")
    for key, count in draft.tokens.items():
        if NAME.fullmatch(key) is None:
            raise InvalidItem(f"tokens: a counter must match {NAME.pattern}")
        if not 0 <= count < 1 << 40:
            raise InvalidItem(f"tokens.{key} must be at least 0 and below 2^40")
    if len(draft.derived_from) > DERIVED_LIMIT:
        raise InvalidItem(f"derivedFrom must name at most {DERIVED_LIMIT} items")
    if draft.time is not None and draft.time.tzinfo is None:
        raise InvalidItem("time must have a time zone")
    _check_kind(draft)
    if not isinstance(draft.content, str):
        if not 0 < len(draft.content) <= PARTS_LIMIT:
            raise InvalidItem(f"content must have 1 to {PARTS_LIMIT} parts")
        for index, part in enumerate(draft.content):
            _check_part(part, f"content[{index}]")
    try:
        size = size_bytes(draft.content)
        for text in filter(None, (draft.author, draft.call_id, *draft.labels.values())):
            text.encode()
    except UnicodeEncodeError:
        raise InvalidItem("content, author, callId and labels must be Unicode text: half of a surrogate pair is none") from None
    except ValueError:
        raise InvalidItem("content must have only numbers that JSON has: no NaN and no infinity") from None
    if size > content_bytes:
        raise InvalidItem(f"content must have at most {content_bytes} bytes, not {size}")
    return size


def _check_kind(draft: Draft) -> None:
    calls = 0 if isinstance(draft.content, str) else sum(part.get("type") == "tool_call" for part in draft.content)
    if draft.kind is Kind.TOOL_CALL:
        if draft.role is not Role.ASSISTANT:
            raise InvalidItem("role must be assistant for a tool_call")
        if draft.call_id is None:
            raise InvalidItem("callId must be given for a tool_call")
        if calls != 1 or len(draft.content) != 1:
            raise InvalidItem("content must be one part of type tool_call for a tool_call")
        return
    if calls:
        raise InvalidItem("content must have a part of type tool_call only in a tool_call")
    if draft.kind is Kind.TOOL_RESULT and draft.call_id is None:
        raise InvalidItem("callId must be given for a tool_result")
    if (draft.kind is Kind.TOOL_RESULT) != (draft.role is Role.TOOL):
        raise InvalidItem("role must be tool for a tool_result, and only there")
    if draft.kind is Kind.SUMMARY and not draft.derived_from:
        raise InvalidItem("derivedFrom must name the items that a summary stands for")


_PART_FIELDS: Final[Mapping[str, Mapping[str, type]]] = {
    "text": {"text": str},
    "tool_call": {"name": str, "arguments": dict},
    "data": {"mediaType": str, "data": str},
}


def _check_part(part: Part, where: str) -> None:
    fields = _PART_FIELDS.get(str(part.get("type")))
    if fields is None:
        raise InvalidItem(f"{where}.type must be one of {', '.join(_PART_FIELDS)}")
    for name, kind in fields.items():
        if not isinstance(part.get(name), kind):
            raise InvalidItem(f"{where}.{name} must be {'an object' if kind is dict else 'a string'}")
    if unknown := sorted(part.keys() - fields.keys() - {"type"}):
        raise InvalidItem(f"{where}.{', '.join(unknown)} is not a field of a part of type {part['type']}")


def text_of(content: Content) -> str:
    """What can be read and searched: text, and name and arguments of a call; data has none."""
    if isinstance(content, str):
        return content
    return "\n".join(filter(None, map(_text_of_part, content)))


def _text_of_part(part: Part) -> str:
    match part["type"]:
        case "text":
            return str(part["text"])
        case "tool_call":
            return f"{part['name']} {json.dumps(part['arguments'], ensure_ascii=False)}"
        case _:
            return ""


def size_bytes(content: Content) -> int:
    """What the content counts against limits of bytes: UTF-8 of a text, JSON of parts."""
    return len(encode_content(content).encode())


def weight(entry: Item | Draft) -> int:
    """What an item counts against limits of bytes."""
    return size_bytes(entry.content) + overhead(entry)


def overhead(entry: Item | Draft) -> int:
    """What takes room of an item beside its content, in bytes: labels and links are in an index too."""
    said = [entry.author or "", entry.call_id or "", *(2 * (key + value) for key, value in entry.labels.items()), *entry.tokens]
    return sum(len(text.encode()) for text in said if text) + 16 * len(entry.derived_from) + 8 * len(entry.tokens)


def encode_content(content: Content) -> str:
    """A text as it is; parts as JSON."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def utc(microseconds: int) -> datetime:
    """The moment that is `microseconds` after 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds(moment: datetime) -> int:
    """As `utc`, back; exact."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def stamp(newest: int, given: int | None, now: int, expected: int) -> int:
    """The time of the next item of a log whose newest has the time `newest`, in microseconds: the one that is given, or now; but not
    before the newest item, nor more than `AHEAD_SECONDS` after now, where things would never be too old. A newest item from after `latest`
    counts for nothing: a clock that was ahead gave it its time."""
    time = min(now if given is None else given, now + AHEAD_SECONDS * 1_000_000)
    return time if newest > latest(now, expected) else max(newest, time)


def latest(now: int, expected: int) -> int:
    """No item can be from after this. `expected` is what the clock should show by what it showed before: one that is behind, as a machine's
    may be until the network has set it, makes nothing the future."""
    return max(now, expected) + SLACK_SECONDS * 1_000_000


AHEAD_SECONDS: Final = 300
"""So much may the clocks of an agent and of its node differ."""
SLACK_SECONDS: Final = 7_200
"""More than `AHEAD_SECONDS`, and than what is expected of a clock may be out."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

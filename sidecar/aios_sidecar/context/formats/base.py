"""What all formats share: the protocol, lines of text, names that providers accept."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from aios_sidecar.context.items import Item, Kind, Part, Role
from aios_sidecar.context.tokens import TokenCounter
from aios_sidecar.context.units import Unit

Rendered = Mapping[str, Any]
"""What is put into the request, or beside it: ready for JSON."""

RECALLED: Final = "Recalled from earlier in this context:\n"
_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_-]")
NAME_LENGTH: Final = 64


class Format(Protocol):
    """Writes units for one kind of reader, and knows what they cost."""

    name: str

    def request_cost(self, counter: TokenCounter) -> int:
        """What a request costs before its first unit."""

    def cost(self, unit: Unit, counter: TokenCounter) -> int:
        """What `unit` adds at most."""

    def recall_cost(self, counter: TokenCounter) -> int:
        """What the message around recalled units adds, once."""

    def exact(self, units: Iterable[Unit], counter: TokenCounter) -> bool:
        """The costs of a request with `units` are what the model counts, and not more."""

    def order(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """`units`, which are in the order of the log, in the order in which a model reads them."""

    def render(self, units: Sequence[Unit], recalled: Sequence[Unit]) -> Rendered:
        """The window, valid for its reader. `units` in the order of the log; `recalled` at the end."""


def line(item: Item) -> str:
    """The item as one line with its time and speaker. It begins with a bracket and ends with a line feed, at which the tables that we know
    split every text: so the tokens of lines add up exactly."""
    return f"[{item.time:%Y-%m-%d %H:%M}] {item.author or item.role.value}: {text(item)}\n"


def text(item: Item) -> str:
    """The item's content for a reader of text. Binary parts are named and not shown."""
    return item.content if isinstance(item.content, str) else "\n".join(map(_part, item.content))


def _part(part: Part) -> str:
    match part["type"]:
        case "text":
            return str(part["text"])
        case "tool_call":
            return f"calls {part['name']} {arguments(part)}"
        case _:
            return f"({part['mediaType']}, {len(str(part['data'])) * 3 // 4} bytes)"


def arguments(part: Part) -> str:
    return json.dumps(part["arguments"], ensure_ascii=False, separators=(",", ":"))


def call_part(call: Item) -> Part:
    """The one part of a tool call."""
    assert not isinstance(call.content, str), "a tool_call has a part"
    return call.content[0]


def lines(units: Sequence[Unit]) -> str:
    return "".join(line(item) for unit in units for item in unit.items)


def line_cost(unit: Unit, counter: TokenCounter) -> int:
    return sum(counter.count(line(item), item.kind) for item in unit.items)


def provider_name(name: str) -> str:
    """As providers accept names: letters, digits, underscore, hyphen."""
    return _FOREIGN.sub("_", name)[:NAME_LENGTH] or "_"


def results(unit: Unit, call: Item) -> str:
    """All that came back for one call of a unit; several results are one text, since a provider accepts one per call."""
    return "\n".join(text(item) for item in unit.items if item.kind is Kind.TOOL_RESULT and item.call_id == call.call_id)


class CallNames:
    """Ids that are unique within one request, and the same for every window in which a call is."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, call: Item) -> str:
        name = provider_name(call.call_id or "")
        if name in self._taken:
            name = f"{name[: NAME_LENGTH - 20]}-{call.seq}"
        self._taken.add(name)
        return name


CALL_NAME_SPARE: Final = 20
"""Tokens that the number of a call may add to its id."""


def fault_text(unit: Unit) -> str:
    """A call without its result, or a result without its call, as text: the only form that providers accept."""
    return "\n".join(text(item) if item.kind is Kind.TOOL_CALL else f"result: {text(item)}" for item in unit.items)


def fault_role(unit: Unit) -> Role:
    return Role.ASSISTANT if unit.items[0].kind is Kind.TOOL_CALL else Role.USER

"""OpenAI chat: `messages`, each call with its results right after it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aios_sidecar.context.formats.base import (
    CALL_NAME_SPARE,
    RECALLED,
    CallNames,
    Rendered,
    arguments,
    call_part,
    fault_role,
    fault_text,
    lines,
    provider_name,
    results,
    text,
)
from aios_sidecar.context.items import Item, Kind
from aios_sidecar.context.tokens import TokenCounter
from aios_sidecar.context.units import Unit


class OpenAI:
    """What goes into `messages` of a chat completion."""

    name = "openai"

    def request_cost(self, counter: TokenCounter) -> int:
        return counter.overheads.request

    def cost(self, unit: Unit, counter: TokenCounter) -> int:
        extra = counter.overheads
        if unit.fault is not None:
            return extra.message + counter.count(fault_text(unit), unit.items[0].kind)
        if unit.items[0].kind is not Kind.TOOL_CALL:
            item = unit.items[0]
            name = 0 if item.author is None else extra.name + counter.count(provider_name(item.author))
            return extra.message + counter.count(text(item), item.kind) + name
        return extra.message + sum(call_cost(unit, call, counter) + extra.message for call in unit.calls)

    def recall_cost(self, counter: TokenCounter) -> int:
        return counter.overheads.message + counter.count(RECALLED)

    def exact(self, units: Iterable[Unit], counter: TokenCounter) -> bool:
        # What calls add to a request is not published.
        return counter.exact and counter.exact_messages and all(unit.items[0].kind is not Kind.TOOL_CALL for unit in units)

    def order(self, units: Sequence[Unit]) -> Sequence[Unit]:
        return units

    def render(self, units: Sequence[Unit], recalled: Sequence[Unit]) -> Rendered:
        names = CallNames()
        messages = [message for unit in units for message in _messages(unit, names)]
        if recalled:
            messages.append({"role": "user", "content": RECALLED + lines(recalled)})
        return {"messages": messages}


def call_cost(unit: Unit, call: Item, counter: TokenCounter) -> int:
    """A call and all that came back for it, without the messages that they are in."""
    part = call_part(call)
    identity = 2 * (counter.count(provider_name(call.call_id or "")) + CALL_NAME_SPARE + counter.overheads.call)
    written = counter.count(provider_name(str(part["name"]))) + counter.count(arguments(part), Kind.TOOL_CALL)
    return identity + written + counter.count(results(unit, call), Kind.TOOL_RESULT)


def _messages(unit: Unit, names: CallNames) -> list[Mapping[str, Any]]:
    if unit.fault is not None:
        return [{"role": fault_role(unit).value, "content": fault_text(unit)}]
    if unit.items[0].kind is not Kind.TOOL_CALL:
        item = unit.items[0]
        named = {} if item.author is None else {"name": provider_name(item.author)}
        return [{"role": item.role.value, "content": text(item), **named}]
    ids = [(call, names.of(call)) for call in unit.calls]
    calls = [{"id": name, "type": "function", "function": _function(call)} for call, name in ids]
    answers = [{"role": "tool", "tool_call_id": name, "content": results(unit, call)} for call, name in ids]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *answers]


def _function(call: Item) -> Mapping[str, str]:
    part = call_part(call)
    return {"name": provider_name(str(part["name"])), "arguments": arguments(part)}

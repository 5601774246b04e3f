"""Anthropic messages: `system` apart, roles that alternate and begin with the user, results first in the message after their calls."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aios_sidecar.context.formats.base import (
    RECALLED,
    CallNames,
    Rendered,
    call_part,
    fault_role,
    fault_text,
    lines,
    provider_name,
    results,
    text,
)
from aios_sidecar.context.formats.openai import call_cost
from aios_sidecar.context.items import Item, Kind, Role
from aios_sidecar.context.tokens import TokenCounter
from aios_sidecar.context.units import Unit

BEFORE: Final = "(what came before is not shown)"
EMPTY: Final = "(empty)"
"""The provider refuses a text that is empty or blank."""
Block = Mapping[str, Any]


class Anthropic:
    """What goes into `system` and `messages`."""

    name = "anthropic"

    def request_cost(self, counter: TokenCounter) -> int:
        return counter.overheads.request + counter.overheads.message + counter.count(BEFORE)

    def cost(self, unit: Unit, counter: TokenCounter) -> int:
        message = counter.overheads.message
        if unit.fault is not None:
            return message + counter.count(_shown(fault_text(unit)), unit.items[0].kind)
        if unit.items[0].kind is not Kind.TOOL_CALL:
            return message + counter.count(_spoken(unit.items[0]), unit.items[0].kind)
        return 2 * message + sum(call_cost(unit, call, counter) + counter.count(EMPTY) for call in unit.calls)

    def recall_cost(self, counter: TokenCounter) -> int:
        return counter.overheads.message + counter.count(RECALLED)

    def exact(self, units: Iterable[Unit], counter: TokenCounter) -> bool:
        return False  # neither table nor template is published

    def order(self, units: Sequence[Unit]) -> Sequence[Unit]:
        return sorted(units, key=lambda unit: unit.items[0].role is not Role.SYSTEM)

    def render(self, units: Sequence[Unit], recalled: Sequence[Unit]) -> Rendered:
        names, system = CallNames(), []
        messages: list[dict[str, Any]] = []
        for unit in units:
            if unit.items[0].role is Role.SYSTEM:
                system.append({"type": "text", "text": _spoken(unit.items[0])})
                continue
            for role, blocks in _turns(unit, names):
                _add(messages, role, blocks)
        if recalled:
            _add(messages, "user", [{"type": "text", "text": RECALLED + lines(recalled)}])
        if messages and messages[0]["role"] == "assistant":
            messages.insert(0, {"role": "user", "content": [{"type": "text", "text": BEFORE}]})
        _end(messages)
        return {"system": system, "messages": messages}


def _add(messages: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    """What one side says in a row is one message."""
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"].extend(blocks)
    else:
        messages.append({"role": role, "content": list(blocks)})


def _end(messages: list[dict[str, Any]]) -> None:
    """A last message of the assistant must not end with blanks."""
    if messages and messages[-1]["role"] == "assistant" and messages[-1]["content"][-1]["type"] == "text":
        last = messages[-1]["content"][-1]
        messages[-1]["content"][-1] = {**last, "text": last["text"].rstrip()}


def _turns(unit: Unit, names: CallNames) -> list[tuple[str, list[Block]]]:
    if unit.fault is not None:
        return [(fault_role(unit).value, [{"type": "text", "text": _shown(fault_text(unit))}])]
    first = unit.items[0]
    if first.kind is not Kind.TOOL_CALL:
        return [(first.role.value, [{"type": "text", "text": _spoken(first)}])]
    ids = [(call, names.of(call)) for call in unit.calls]
    calls: list[Block] = [{"type": "tool_use", "id": name, **_use(call)} for call, name in ids]
    answers: list[Block] = [{"type": "tool_result", "tool_use_id": name, "content": _shown(results(unit, call))} for call, name in ids]
    return [("assistant", calls), ("user", answers)]


def _use(call: Item) -> Block:
    part = call_part(call)
    return {"name": provider_name(str(part["name"])), "input": part["arguments"]}


def _spoken(item: Item) -> str:
    """Messages have no names here: who said it is in the text, where the role does not tell."""
    said = _shown(text(item))
    return said if item.author is None or item.role is Role.SYSTEM else f"{item.author}: {said}"


def _shown(said: str) -> str:
    return said if said.strip() else EMPTY

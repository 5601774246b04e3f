"""Each format is what its reader accepts, and costs no more than it says."""

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aios_sidecar.context.formats import FORMATS
from aios_sidecar.context.formats.anthropic import BEFORE
from aios_sidecar.context.items import Draft, Item, Kind, Role
from aios_sidecar.context.memory import numbered
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.units import Unit, units_of
from unit.context.logs import logs

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
GPT = Models().counter("gpt-4o")


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[Unit], list[Unit]]:
    """Any choice of units of any log, in their order, and a choice of the rest as recalled."""
    units = units_of(item for item in draw(logs()) if not item.erased)
    inside = draw(st.lists(st.sampled_from(["in", "in", "recalled", "out"]), min_size=len(units), max_size=len(units)))
    chosen = [unit for unit, where in zip(units, inside, strict=True) if where == "in"]
    return chosen, [unit for unit, where in zip(units, inside, strict=True) if where == "recalled"]


def openai_tokens(messages: list[dict[str, Any]]) -> int:
    """What OpenAI publishes on counting plain messages."""
    total = 3
    for message in messages:
        total += 3 + sum(GPT.count(value) for value in message.values()) + ("name" in message)
    return total


@given(windows())
def test_openai_accepts_it(window: tuple[list[Unit], list[Unit]]):
    messages = list(FORMATS["openai"].render(*window)["messages"])
    while messages:
        message = messages.pop(0)
        assert message["role"] in ("system", "user", "assistant"), "a result without a call"
        assert "name" not in message or NAME.fullmatch(message["name"])
        calls = message.get("tool_calls", [])
        assert len({call["id"] for call in calls}) == len(calls)
        for call in calls:
            assert NAME.fullmatch(call["id"])
            assert NAME.fullmatch(call["function"]["name"])
        answers = [messages.pop(0) for _ in calls]
        assert [answer["tool_call_id"] for answer in answers] == [call["id"] for call in calls]
        assert all(answer["role"] == "tool" for answer in answers)


@given(windows())
def test_anthropic_accepts_it(window: tuple[list[Unit], list[Unit]]):
    rendered = FORMATS["anthropic"].render(*window)
    messages = rendered["messages"]
    assert [message["role"] for message in messages] == [("user", "assistant")[n % 2] for n in range(len(messages))]
    used: list[str] = []
    waiting: list[str] = []
    for message in messages:
        blocks = message["content"]
        assert blocks
        answers = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert answers == waiting, "each call has its result in the next message, and nothing else has one"
        assert [block["type"] for block in blocks[: len(answers)]] == ["tool_result"] * len(answers), "results come first"
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert not waiting or message["role"] == "assistant"
        used += waiting
        for block in blocks:
            assert block["type"] != "text" or block["text"].strip()
            assert block["type"] != "tool_use" or (NAME.fullmatch(block["id"]) and NAME.fullmatch(block["name"]))
    assert not waiting
    assert len(set(used)) == len(used)
    assert not messages or messages[-1]["role"] == "user" or messages[-1]["content"][-1].get("text", "x")[-1].strip()


@given(windows())
def test_lines_cost_exactly_what_the_whole_text_does(window: tuple[list[Unit], list[Unit]]):
    ours = FORMATS["ours"]
    for counter in (GPT, Models().counter("cl100k_base")):
        assert sum(ours.cost(unit, counter) for group in window for unit in group) == counter.count(ours.render(*window)["text"])


@given(windows())
def test_plain_messages_of_openai_cost_exactly_what_is_published(window: tuple[list[Unit], list[Unit]]):
    openai, ours = FORMATS["openai"], FORMATS["ours"]
    plain = [unit for unit in window[0] if openai.exact([unit], GPT)]
    recalled = window[1]
    cost = openai.request_cost(GPT) + sum(openai.cost(unit, GPT) for unit in plain)
    cost += sum(ours.cost(unit, GPT) for unit in recalled) + (openai.recall_cost(GPT) if recalled else 0)
    assert cost == openai_tokens(openai.render(plain, recalled)["messages"])


@given(windows())
def test_costs_bound_every_format(window: tuple[list[Unit], list[Unit]]):
    """Counted generously: every text and number in it, each message and block with its overhead."""
    for name in ("openai", "anthropic"):
        form = FORMATS[name]
        for unit in window[0]:
            rendered = form.render([unit], [])
            texts = [text for text in leaves(rendered) if text != BEFORE]
            assert sum(GPT.count(text) for text in texts) <= form.cost(unit, GPT) + 12, "roles and types are in the overheads"


def leaves(value: object, key: str = "") -> list[str]:
    if key in ("role", "type"):
        return []
    if isinstance(value, dict):
        return [leaf for name, each in value.items() for leaf in leaves(each, name)]
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in leaves(each)]
    return [value] if isinstance(value, str) else []


def test_results_of_one_call_are_one_answer():
    call = Draft(Role.ASSISTANT, ({"type": "tool_call", "name": "find", "arguments": {"x": 1}},), Kind.TOOL_CALL, call_id="a")
    parts = [Draft(Role.TOOL, words, Kind.TOOL_RESULT, call_id="a") for words in ("one", "two")]
    items: list[Item] = numbered([call, *parts])
    answer = FORMATS["openai"].render(units_of(items), [])["messages"][1]
    assert answer == {"role": "tool", "tool_call_id": "a", "content": "one\ntwo"}


def test_who_said_it_is_in_the_text_where_messages_have_no_names():
    rendered = FORMATS["anthropic"].render(units_of(numbered([Draft(Role.ASSISTANT, "hello", author="Anna")])), [])
    assert rendered["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": BEFORE}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Anna: hello"}]},
    ]

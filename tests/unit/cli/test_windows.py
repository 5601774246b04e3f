"""A window as a person reads it."""

from datetime import timedelta

from aios_api.context import Strategy
from aios_cli.windows import MEANINGS, view
from aios_sidecar.context.items import Draft, Kind, Role
from aios_sidecar.context.memory import DAWN, MemoryReader, numbered
from aios_sidecar.context.receipt import document
from aios_sidecar.context.strategies.choose import Reason
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.window import Memory, WindowRequest, build_window

CALL = Draft(Role.ASSISTANT, ({"type": "tool_call", "name": "find", "arguments": {}},), Kind.TOOL_CALL, call_id="a")
LOG = [
    Draft(Role.SYSTEM, "You help Anna."),
    Draft(Role.USER, "My dog is called Biscuit.", author="Anna"),
    *(Draft(Role.USER, f"Well, number {n} is as it is.", author="Ben") for n in range(40)),
    CALL,
    Draft(Role.TOOL, "nothing", Kind.TOOL_RESULT, call_id="a"),
    Draft(Role.USER, "word " * 400),
]


def shown(**more) -> list[str]:
    items = [item._replace(pinned=item.seq == 5) for item in numbered(LOG)]
    request = WindowRequest(400, "gpt-4o", reserve=20, strategy=Strategy(type="hierarchical", preset="CoreWorkingArchive"), **more)
    return view(document(build_window(MemoryReader(items), request, Memory(), DAWN + timedelta(days=1), Models())), width=200)


def test_every_reason_has_a_meaning():
    assert set(MEANINGS) == {reason.value for reason in Reason}


def test_the_parts_of_a_window_come_with_their_tokens_and_each_item_with_its_reason():
    lines = shown(query="What is the name of the dog called Biscuit?")
    text = "\n".join(lines)
    assert lines[0].endswith("of 380 tokens, counted exactly (table o200k_base)")
    assert lines[1] == "20 more are in reserve for tools and the answer"
    parts = [line.split(":")[0] for line in lines if line.endswith(" tokens")]
    assert parts[0] == "pinned"
    assert {"tier core", "tier working"} <= set(parts)
    assert parts[-1] == "recalled by the question"
    assert "[2026-01-01 00:02] Anna: My dog is called Biscuit." in text
    assert any("the question found it (" in line for line in lines)
    assert any(line.split()[:1] == ["44"] and "with it" in line for line in lines)


def test_what_is_left_out_says_why():
    lines = shown()
    out = lines[lines.index("left out:") + 1 :]
    assert any(line.split()[0] == "45" and "more than the room for its like" in line for line in out)
    assert any("there was no room for it" in line for line in out)


def test_nothing_left_out_is_said_too_and_lines_are_cut_to_the_width():
    request = WindowRequest(10_000, "gpt-4o")
    answer = document(build_window(MemoryReader(numbered(LOG)), request, Memory(), DAWN, Models()))
    lines = view(answer, width=60)
    assert lines[-2:] == ["left out:", "  nothing"]
    assert max(map(len, lines)) == 60


def test_an_estimate_says_how_far_it_was_off():
    tokens = {"used": 90, "budget": 100, "reserve": 0, "exact": False, "countedBy": "ratios", "boundPercent": 4.5}
    answer = {"tokens": tokens, "prefix": {"digest": "x", "reusedPercent": 97.5}, "receipt": {"in": [], "out": [], "notNamed": 2}}
    assert view(answer)[:2] == [
        "90 of 100 tokens, estimated, at most (ratios; reports of the provider were up to 4.5 % above such an estimate)"[:99] + "…",
        "97.5 % of it, from the beginning, is as in the window before",
    ]
    assert view(answer)[-1] == "  and 2 lines more"

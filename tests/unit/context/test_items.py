"""What can be kept, and what a refused draft is told."""

from datetime import datetime

import pytest

from aios_sidecar.context.fulltext import Stems
from aios_sidecar.context.items import Draft, InvalidItem, Kind, Role, check, microseconds, size_bytes, text_of, utc
from aios_sidecar.context.memory import MemoryReader

CALL = ({"type": "tool_call", "name": "weather", "arguments": {"city": "Łódź"}},)


@pytest.mark.parametrize(
    "draft",
    [
        Draft(Role.USER, "hello"),
        Draft(Role.USER, ({"type": "text", "text": "look"}, {"type": "data", "mediaType": "image/png", "data": "AA=="})),
        Draft(Role.ASSISTANT, CALL, Kind.TOOL_CALL, call_id="c1"),
        Draft(Role.TOOL, "21 °C", Kind.TOOL_RESULT, call_id="c1"),
        Draft(Role.ASSISTANT, "they met", Kind.SUMMARY, derived_from=(1, 2)),
    ],
)
def test_what_a_provider_could_have_said_can_be_kept(draft):
    check(draft, 1000)


@pytest.mark.parametrize(
    ("draft", "says"),
    [
        (Draft(Role.USER, "x", session=""), "session must match"),
        (Draft(Role.USER, "x", session="a b"), "session must match"),
        (Draft(Role.USER, "x", author=""), "author must have 1 to 128 characters"),
        (Draft(Role.USER, "x" * 1001), "content must have at most 1000 bytes, not 1001"),
        (Draft(Role.USER, "ł" * 501), "content must have at most 1000 bytes, not 1002"),
        (Draft(Role.USER, ()), "content must have 1 to 256 parts"),
        (Draft(Role.USER, ({"type": "video"},)), "content[0].type must be one of text, tool_call, data"),
        (Draft(Role.USER, ({"type": "text"},)), "content[0].text must be a string"),
        (Draft(Role.USER, ({"type": "text", "text": "a", "x": 1},)), "content[0].x is not a field"),
        (Draft(Role.USER, CALL), "content must have a part of type tool_call only in a tool_call"),
        (Draft(Role.ASSISTANT, CALL, Kind.TOOL_CALL), "callId must be given for a tool_call"),
        (Draft(Role.USER, CALL, Kind.TOOL_CALL, call_id="c"), "role must be assistant for a tool_call"),
        (Draft(Role.ASSISTANT, "f()", Kind.TOOL_CALL, call_id="c"), "content must be one part of type tool_call"),
        (Draft(Role.TOOL, "x", Kind.TOOL_RESULT), "callId must be given for a tool_result"),
        (Draft(Role.USER, "x", Kind.TOOL_RESULT, call_id="c"), "role must be tool for a tool_result"),
        (Draft(Role.TOOL, "x"), "role must be tool for a tool_result, and only there"),
        (Draft(Role.ASSISTANT, "x", Kind.SUMMARY), "derivedFrom must name the items"),
        (Draft(Role.USER, "x", labels={"a b": "c"}), "labels: a key must match"),
        (Draft(Role.USER, "x", labels={"a": "c" * 257}), "labels.a must have at most 256 characters"),
        (Draft(Role.USER, "x", labels={f"k{i}": "" for i in range(17)}), "labels must be at most 16"),
        (Draft(Role.USER, "x", tokens={"o200k": -1}), "tokens.o200k must be at least 0"),
        (Draft(Role.USER, "x", time=datetime(2026, 1, 1)), "time must have a time zone"),
    ],
)
def test_a_refused_draft_is_told_which_field_and_what_must_be_true(draft, says):
    with pytest.raises(InvalidItem) as refusal:
        check(draft, 1000)
    assert says in str(refusal.value)


def test_the_text_of_a_call_is_its_name_and_arguments_and_of_data_nothing():
    assert text_of(CALL) == 'weather {"city": "Łódź"}'
    assert text_of(({"type": "data", "mediaType": "image/png", "data": "AA=="}, {"type": "text", "text": "a"})) == "a"
    assert size_bytes("ł") == 2


@pytest.mark.parametrize("at", [0, 1, 999_999, 1_767_225_600_123_457, 253_402_300_799_999_999])
def test_times_are_exact_to_the_microsecond(at):
    assert microseconds(utc(at)) == at


def test_stems_are_those_of_the_index():
    assert Stems().of(["Running dogs, Łódź!", ""]) == [["run", "dog", "łodz"], []]


def test_a_search_takes_words_and_no_operators():
    reader = MemoryReader.of([Draft(Role.USER, "the dogs ran"), Draft(Role.USER, "a cat NOT seen", session="b")])
    assert [hit.seq for hit in reader.search(["dog", '"', "AND", "x*"], 5)] == [1]
    assert [hit.seq for hit in reader.search(["not", "dogs"], 5, session="b")] == [2]
    assert reader.document_frequencies(["dog", "cats", "the dogs", "?"]) == {"dog": 1, "cats": 1, "the dogs": 1, "?": 0}
    assert reader.search(["?!"], 5) == []

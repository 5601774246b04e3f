"""Calls and results are in or out together."""

from hypothesis import given
from hypothesis import strategies as st

from aios_sidecar.context.items import Draft, Item, Kind, Role
from aios_sidecar.context.memory import MemoryReader, numbered
from aios_sidecar.context.units import Fault, complete, cut_short, units_of
from unit.context.logs import forks, logs


def call(name: str, session: str = "main") -> Draft:
    return Draft(Role.ASSISTANT, ({"type": "tool_call", "name": "find", "arguments": {}},), Kind.TOOL_CALL, session, call_id=name)


def result(name: str, session: str = "main") -> Draft:
    return Draft(Role.TOOL, f"result of {name}", Kind.TOOL_RESULT, session, call_id=name)


def said(words: str = "hello", session: str = "main") -> Draft:
    return Draft(Role.USER, words, session=session)


def grouped(*drafts: Draft) -> list[tuple[list[int], Fault | None]]:
    return [([item.seq for item in unit.items], unit.fault) for unit in units_of(numbered(drafts))]


def test_calls_in_a_row_and_all_their_results_are_one():
    assert grouped(said(), call("a"), call("b"), result("b"), result("a"), said()) == [([1], None), ([2, 3, 4, 5], None), ([6], None)]


def test_a_late_result_belongs_to_its_call():
    assert grouped(call("a"), said(), result("a")) == [([1, 3], None), ([2], None)]


def test_a_call_that_waits_and_a_result_without_a_call_are_faults():
    assert grouped(call("a"), call("b"), result("a")) == [([1, 2, 3], Fault.NO_RESULT)]
    assert grouped(result("a"), said()) == [([1], Fault.NO_CALL), ([2], None)]


def test_sessions_that_run_at_once_do_not_mix():
    assert grouped(call("a"), call("a", "side"), result("a", "side"), result("a")) == [([1, 4], None), ([2, 3], None)]


def test_calls_are_made_at_once_only_when_their_numbers_follow_one_another():
    items = numbered([call("a"), said(), call("b"), result("a"), result("b")])
    for read in (items, [item for item in items if item.seq != 2]):
        assert [[item.seq for item in unit.items] for unit in units_of(read) if unit.calls] == [[1, 4], [3, 5]]


def test_an_id_that_is_used_again_is_another_call():
    assert grouped(call("a"), result("a"), call("a"), result("a")) == [([1, 2], None), ([3, 4], None)]


def test_what_may_belong_to_a_unit_before_is_cut():
    items = numbered([result("a"), call("b"), said(), result("b"), call("c")])
    assert [item.seq for item in cut_short(items)] == [3, 4, 5]
    assert cut_short(items[2:]) == items[2:]


def test_a_fork_answers_what_it_shares_with_its_parent_and_nothing_else():
    items = numbered([call("a"), said(), call("a"), result("a", "fork"), result("a")])
    assert [unit.fault for unit in units_of(items)] == [Fault.NO_RESULT, None, None, Fault.NO_CALL]
    units = units_of(items, {"fork": ("main", 2)})
    assert [[item.seq for item in unit.items] for unit in units] == [[1, 4], [2], [3, 5]]
    assert [[item.seq for item in unit.items] for unit in units_of(items[:4], {"fork": ("main", 3)})] == [[1], [2], [3, 4]]


def test_a_pinned_call_is_completed_by_what_its_fork_answered_and_only_in_that_fork():
    items = [item._replace(pinned=item.seq == 1) for item in numbered([call("a"), said(), result("a", "fork")])]
    reader = MemoryReader(items, forks={"fork": ("main", 2)})
    for session, seqs, fault in ((None, [1, 3], None), ("fork", [1, 3], None), ("main", [1], Fault.NO_RESULT)):
        (unit,) = complete(reader, reader.pinned(session), session)
        assert ([item.seq for item in unit.items], unit.fault) == (seqs, fault)


def test_many_calls_that_were_made_at_once_are_one_unit_from_wherever_it_is_completed():
    drafts = [*(call(f"c{n}") for n in range(60)), *(result(f"c{n}") for n in range(60))]
    items = [item._replace(pinned=item.seq in (1, 30, 60, 90)) for item in numbered(drafts)]
    reader = MemoryReader(items)
    (unit,) = complete(reader, reader.pinned())
    assert [item.seq for item in unit.items] == list(range(1, 121))


@given(logs())
def test_every_item_is_in_one_unit_and_the_order_is_that_of_the_log(items: list[Item]):
    units = units_of(items)
    assert sorted(item.seq for unit in units for item in unit.items) == [item.seq for item in items]
    assert [unit.first for unit in units] == sorted(unit.first for unit in units)


@given(st.data())
def test_from_any_item_the_same_unit_is_found_as_in_the_whole(data: st.DataObject):
    items = data.draw(logs())
    reader = MemoryReader(items, forks=data.draw(forks(items)))
    for session in (None, "main", "side"):
        shown = reader.range(1, 1000, session)
        whole = {item.seq: unit for unit in units_of(shown, reader.forks()) for item in unit.items}
        for item in shown:
            assert complete(reader, [item], session) == [whole[item.seq]]

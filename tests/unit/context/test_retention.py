"""What goes of a context and what stays, in every back end: by number, bytes, age and kind, with calls, pins and forks."""

from datetime import timedelta

import pytest

from aios_sidecar.context.errors import LimitReached
from aios_sidecar.context.items import Draft, Kind, Role
from aios_sidecar.context.limits import Limits, Retention
from aios_sidecar.context.store import Scope
from unit.context.support import KEY, call, kept, read, said


def test_beyond_its_limits_the_oldest_items_go_and_pins_stay(store):
    context = store.context(KEY, 1, Limits(items=10, content_bytes=100))
    context.append(said(*"0123456789"))
    context.pin([1])
    context.append(said("x"))
    assert kept(context)[:1] == ["0"]
    assert kept(context)[-1] == "x"
    assert len(kept(context)) <= 10
    context.append(said("y" * 95))
    assert kept(context) == ["0", "y" * 95]
    assert context.describe().content_bytes == 96
    assert context.describe().retired == 10
    with pytest.raises(LimitReached, match="bytes"):
        context.append(said("y" * 100))
    assert kept(context) == ["0", "y" * 95], "what was refused changed nothing"


def test_a_time_that_has_not_come_is_not_believed_and_a_clock_that_was_ahead_poisons_nothing(store, clock):
    day, context = timedelta(days=1), store.context(KEY, 1, Limits(age_seconds=10 * 86_400))
    began = clock.now
    context.append([Draft(Role.USER, "from the future", time=began + 1000 * day)])
    (item,) = read(context, lambda reader: reader.oldest(1))
    assert began < item.time < began + timedelta(hours=1)
    clock.now = began + 400 * day
    context.append(said("while the clock was ahead"))
    clock.now = began + day
    context.append(said("and when it was right again"))
    times = [item.time for item in read(context, lambda reader: reader.oldest(9))]
    assert times[-1] < began + 2 * day
    clock.now = began + 12 * day
    context.retire()
    context.append(said("new"))
    assert kept(context) == ["new"], "what a wrong clock dated is as old as what came after it"


def test_an_id_that_is_used_again_ties_no_call_to_another(store):
    context = store.context(KEY, 1, Limits(items=8))
    for _ in range(6):
        context.append(call("call_0"))
    kinds = [(item.seq, item.kind) for item in read(context, lambda reader: reader.oldest(9))]
    assert kinds[-2:] == [(11, Kind.TOOL_CALL), (12, Kind.TOOL_RESULT)]
    assert len(kinds) >= 6
    context.pin([11])
    context.append(call("call_0"))
    assert {11, 12, 13, 14} <= {item.seq for item in read(context, lambda reader: reader.oldest(9))}


def test_what_stays_with_a_pin_counts_as_what_stays(store):
    context = store.context(KEY, 1, Limits(items=6, content_bytes=10_000))
    context.append(call("c"))
    context.pin([1])
    result = Draft(Role.TOOL, "more", Kind.TOOL_RESULT, call_id="c")
    for _ in range(4):
        context.append([result])
    with pytest.raises(LimitReached, match="6 stay, being pinned or a call or results of what is"):
        context.append([result])
    assert context.describe().items == 6
    large = [*call("d"), Draft(Role.TOOL, "x" * 6000, Kind.TOOL_RESULT, call_id="d")]
    other = store.context(KEY._replace(uid="other"), 1, Limits(content_bytes=10_000))
    other.append(large)
    with pytest.raises(LimitReached, match="calls with their results"):
        other.pin([1])


def test_pins_that_fill_a_tier_take_no_room_from_what_comes(store):
    tools = Retention(frozenset({Kind.TOOL_CALL, Kind.TOOL_RESULT}), items=4)
    context = store.context(KEY, 1, Limits(tiers=(tools,)))
    for name in "abc":
        context.pin([context.append(call(name)).first])
    appended = context.append(call("d"))
    assert {appended.first, appended.last} <= {item.seq for item in read(context, lambda reader: reader.oldest(99))}


def test_results_go_by_a_rule_of_their_own(store, clock):
    results = Retention(frozenset({Kind.TOOL_RESULT}), age_seconds=60)
    context = store.context(KEY, 1, Limits(tiers=(results,)))
    context.append([*said("said"), *call("c")])
    clock.now += timedelta(hours=1)
    assert context.retire() == 2, "the call goes with its result"
    assert kept(context) == ["said"]


def test_forks_whose_items_have_gone_are_no_sessions_any_more(store):
    context = store.context(KEY, 1, Limits(items=4, sessions=3))
    for number in range(20):
        first = context.append(said("x", session="main")).first
        context.fork(first, f"fork-{number}")
        context.append(said("y", session=f"fork-{number}"))
        context.append(said(*"abcd", session="other"))
    context.fork(context.append(said("z", session="other")).first, "untouched")
    context.erase(Scope(session="untouched"))
    assert context.describe().sessions == 1


def test_what_is_no_longer_pinned_goes_when_it_is_too_old(store, clock):
    context = store.context(KEY, 1, Limits(age_seconds=86_400))
    context.append(said("old"))
    context.pin([1])
    clock.now += timedelta(days=2)
    context.append(said("new"))
    assert kept(context) == ["old", "new"]
    context.pin([1], pinned=False)
    context.append(said("newer"))
    assert kept(context) == ["new", "newer"]


def test_what_is_said_of_an_item_counts_as_its_content_does(store):
    context = store.context(KEY, 1, Limits(content_bytes=4_000))
    for number in range(20):
        context.append(said("x", labels={f"label-{n}": "v" * 20 for n in range(10)}, author=f"author-{number}"))
    assert context.describe().content_bytes <= 4_000
    assert context.describe().items < 10


def test_a_result_in_a_fork_stays_with_the_pinned_call_that_it_answers(store):
    context = store.context(KEY, 1, Limits(items=4))
    context.append(call("c")[:1])
    context.fork(1, "other")
    context.append([Draft(Role.TOOL, "found", Kind.TOOL_RESULT, session="other", call_id="c")])
    context.pin([1])
    for _ in range(8):
        context.append(said("x"))
    assert [item.seq for item in read(context, lambda reader: reader.oldest(9))][:2] == [1, 2]


def test_a_tool_call_and_its_results_go_together_or_stay_together(store):
    context = store.context(KEY, 1, Limits(items=4))
    context.append([*call("a"), *call("b")])
    context.pin([2])
    context.append(said("x"))
    assert [item.seq for item in read(context, lambda reader: reader.oldest(9))] == [1, 2, 5]


def test_items_go_by_age_and_each_kind_by_its_own(store, clock):
    day = 86_400
    tools = Retention(frozenset({Kind.TOOL_CALL, Kind.TOOL_RESULT}), age_seconds=day)
    context = store.context(KEY, 1, Limits(age_seconds=3 * day, tiers=(tools,)))
    context.append([*said("old"), *call("c"), *said("pinned")])
    context.pin([4])
    clock.now += timedelta(days=2)
    assert context.retire() == 2
    assert kept(context) == ["old", "pinned"]
    clock.now += timedelta(days=2)
    context.append(said("new"))
    assert kept(context) == ["pinned", "new"]
    assert context.describe().retired == 3


def test_a_lower_limit_is_in_force_with_the_next_append(store):
    context = store.context(KEY, 1)
    context.append(said(*"0123456789"))
    context.limit(Limits(items=4))
    context.append(said("x"))
    assert len(kept(context)) <= 4
    assert context.describe().limits.items == 4


def test_a_lower_age_is_in_force_with_the_next_append(store, clock):
    context = store.context(KEY, 1)
    context.append(said("old"))
    clock.now += timedelta(hours=2)
    context.limit(Limits(age_seconds=3600))
    context.append(said("new"))
    assert kept(context) == ["new"]

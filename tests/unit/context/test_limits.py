"""What retention takes, and how little it looks at."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from aios_sidecar.context.items import Kind, microseconds, stamp
from aios_sidecar.context.limits import Old, Retention, Total, dated, excess, going
from aios_sidecar.context.memory import DAWN

DAY = timedelta(days=1)


def olds(count: int, looked_at: list[int]) -> Iterator[Old]:
    """One a day."""
    for number in range(count):
        looked_at.append(number)
        yield old(number, DAWN + number * DAY)


def old(seq: int, time: datetime, kind: Kind = Kind.MESSAGE) -> Old:
    return Old((seq,), (kind,), (1,), time, time)


def test_where_things_go_by_age_only_the_first_that_is_too_young_is_looked_at():
    rule, looked_at = Retention(age_seconds=10 * 86_400), list[int]()
    now = DAWN + 13 * DAY
    found = going(olds(100_000, looked_at), excess(rule, Total(100_000, 100_000), now), 512, now)
    assert (found.seqs, found.oldest) == ([0, 1, 2], DAWN + 3 * DAY)
    assert looked_at == [0, 1, 2, 3]


def test_where_too_much_is_there_no_more_is_looked_at_than_must_and_should_go():
    rule, looked_at = Retention(items=1000), list[int]()
    assert len(going(olds(100_000, looked_at), excess(rule, Total(1010, 1010), DAWN), 512, DAWN).seqs) == 60
    assert len(looked_at) == 61


def test_what_a_wrong_clock_dated_is_as_old_as_what_came_next():
    times = (DAWN, DAWN + 99 * DAY, DAWN + DAY, DAWN + 50 * DAY)
    log = [old(seq, time) for seq, time in enumerate(times)]
    assert [old.time - DAWN for old in dated(log, DAWN + 2 * DAY)] == [0 * DAY, DAY, DAY, 2 * DAY]


def test_a_unit_goes_by_a_rule_about_one_of_its_kinds_and_counts_by_what_the_rule_is_about():
    pair = (Kind.TOOL_CALL, Kind.TOOL_RESULT)
    units = [Old((2 * n, 2 * n + 1), pair, (5, 100), DAWN + n * DAY, DAWN + n * DAY) for n in range(10)]
    rule = Retention(frozenset({Kind.TOOL_RESULT}), items=7)
    assert going(units, excess(rule, Total(10, 1000), DAWN + 99 * DAY), 512, DAWN).seqs == [0, 1, 2, 3, 4, 5, 6, 7]
    by_age = going(units, excess(Retention(rule.kinds, age_seconds=86_400), Total(10, 1000), DAWN + 2 * DAY), 512, DAWN + 2 * DAY)
    assert by_age.seqs == [0, 1]


def test_an_old_call_with_a_young_result_is_looked_at_again_when_that_is_too_old():
    now = DAWN + 100 * DAY
    unit = Old((1, 2), (Kind.TOOL_CALL, Kind.TOOL_RESULT), (1, 1), DAWN, DAWN + 99 * DAY)
    found = going([unit, old(3, DAWN + 98 * DAY)], excess(Retention(age_seconds=10 * 86_400), Total(3, 3), now), 512, now)
    assert (found.seqs, found.oldest) == ([], DAWN + 98 * DAY)


def test_a_log_goes_on_from_the_time_of_its_newest_item_unless_that_can_not_have_come():
    minute, now = 60_000_000, microseconds(DAWN)
    assert stamp(0, None, now, 0) == now
    assert stamp(now + minute, None, now, 0) == now + minute
    assert stamp(now - minute, now - 2 * minute, now, 0) == now - minute
    assert stamp(now, now + 3 * minute, now, 0) == now + 3 * minute
    assert stamp(now, now + 60 * minute, now, 0) == now + 5 * minute
    assert stamp(now + 121 * minute, None, now, 0) == now
    assert stamp(now + 121 * minute, None, now, now + 90 * minute) == now + 121 * minute, "the clock may be the one that is wrong"

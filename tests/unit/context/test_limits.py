"""What retention takes, and how little it looks at."""

from collections.abc import Iterator
from datetime import timedelta

from aios_sidecar.context.items import Kind, microseconds, stamp
from aios_sidecar.context.limits import Old, Retention, Total, dated, excess, going
from aios_sidecar.context.memory import DAWN

DAY = timedelta(days=1)


def olds(count: int, looked_at: list[int]) -> Iterator[Old]:
    """One a day."""
    for number in range(count):
        looked_at.append(number)
        yield Old((number,), Kind.MESSAGE, DAWN + number * DAY, DAWN + number * DAY, 1)


def test_where_things_go_by_age_only_the_first_that_is_too_young_is_looked_at():
    rule, looked_at = Retention(age_seconds=10 * 86_400), list[int]()
    gone = list(going(olds(100_000, looked_at), excess(rule, Total(100_000, 100_000), DAWN + 13 * DAY), 512))
    assert [old.seqs for old in gone] == [(0,), (1,), (2,)]
    assert looked_at == [0, 1, 2, 3]


def test_where_too_much_is_there_no_more_is_looked_at_than_must_and_should_go():
    rule, looked_at = Retention(items=1000), list[int]()
    assert len(list(going(olds(100_000, looked_at), excess(rule, Total(1010, 1010), DAWN), 512))) == 60
    assert len(looked_at) == 61


def test_what_a_wrong_clock_dated_is_as_old_as_what_came_next():
    times = (DAWN, DAWN + 99 * DAY, DAWN + DAY, DAWN + 50 * DAY)
    log = [Old((seq,), Kind.NOTE, time, time, 1) for seq, time in enumerate(times)]
    assert [old.time - DAWN for old in dated(log, DAWN + 2 * DAY)] == [0 * DAY, DAY, DAY, 2 * DAY]


def test_a_log_goes_on_from_the_time_of_its_newest_item_unless_that_has_not_come_yet():
    minute, now = 60_000_000, microseconds(DAWN)
    assert stamp(0, None, now) == now
    assert stamp(now + minute, None, now) == now + minute
    assert stamp(now - minute, now - 2 * minute, now) == now - minute
    assert stamp(now, now + 3 * minute, now) == now + 3 * minute
    assert stamp(now, now + 60 * minute, now) == now + 5 * minute
    assert stamp(now + 6 * minute, None, now) == now

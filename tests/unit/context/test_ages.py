"""Nothing ages by a clock that was set wrong: what is retired is not to be had back."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aios_sidecar.context.ages import BEHIND_SECONDS, DOUBT_SECONDS, FILE, LEAPS_LIMIT, Ages
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.sqlite.store import SqliteStore
from unit.context.support import KEY, said

START = 1_800_000_000.0
YEAR = 365 * 86_400.0


class Machine:
    """A clock that can be set, and the time since a boot."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.wall, self.running, self.boot = directory, START, 1000.0, "one"

    def ages(self) -> Ages:
        return Ages(self.directory, wall=lambda: self.wall, running=lambda: self.running, boot_id=lambda: self.boot)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.running += seconds

    def is_off(self, seconds: float) -> None:
        self.wall += seconds
        self.running, self.boot = 5.0, f"after {self.boot}"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def after(ages: Ages) -> float:
    return ages.now().timestamp() - START


def test_time_passes_as_on_the_machine_and_small_corrections_are_followed(machine: Machine):
    ages = machine.ages()
    machine.passes(90 * 86_400)
    machine.wall += 20
    assert after(ages) == 90 * 86_400 + 20
    machine.wall -= 30
    assert after(ages) == 90 * 86_400 - 10


def test_each_leap_of_a_clock_is_believed_after_a_day_of_its_own(machine: Machine, caplog: pytest.LogCaptureFixture):
    ages = machine.ages()
    machine.wall += YEAR
    assert after(ages) == 0
    assert "365 days, 0:00:00 ahead" in caplog.text
    machine.passes(DOUBT_SECONDS - 1)
    assert after(ages) == DOUBT_SECONDS - 1
    machine.wall += 3600
    assert after(ages) == DOUBT_SECONDS - 1
    machine.passes(1)
    assert after(ages) == YEAR + DOUBT_SECONDS
    machine.passes(DOUBT_SECONDS - 2)
    assert after(ages) == YEAR + 2 * DOUBT_SECONDS - 2
    machine.passes(1)
    assert after(ages) == YEAR + 3600 + 2 * DOUBT_SECONDS - 1


def test_a_clock_that_is_set_right_again_was_never_wrong(machine: Machine):
    ages = machine.ages()
    machine.wall += YEAR
    after(ages)
    machine.passes(600)
    machine.wall -= YEAR
    assert after(ages) == 600
    machine.passes(2 * DOUBT_SECONDS)
    assert after(ages) == 600 + 2 * DOUBT_SECONDS


def test_a_clock_that_is_set_back_is_followed_at_once(machine: Machine):
    ages = machine.ages()
    machine.wall -= YEAR
    assert after(ages) == -YEAR


def test_a_clock_that_was_ahead_from_the_first_start_is_right_once_it_is_set(machine: Machine):
    ages = machine.ages()
    machine.wall -= YEAR
    after(ages)
    machine.passes(BEHIND_SECONDS)
    assert after(ages) == BEHIND_SECONDS - YEAR
    machine.wall += YEAR
    assert after(ages) == BEHIND_SECONDS - YEAR, "and a leap from there is doubted like any"


def test_a_machine_that_wakes_in_the_past_until_its_clock_is_set_knows_what_it_knew(machine: Machine):
    ages = machine.ages()
    for _ in range(30):
        machine.passes(16 * 3600)
        after(ages)
        machine.is_off(8 * 3600)
        night, machine.wall = machine.wall, START - 20 * YEAR
        ages = machine.ages()
        assert after(ages) == -20 * YEAR
        machine.running += 30
        machine.wall = night + 30
        after(ages)
    assert machine.wall - START - after(ages) <= 2 * 8 * 3600 + 30 * 60


def test_a_machine_that_is_off_every_night_falls_two_nights_behind_and_no_more(machine: Machine):
    ages = machine.ages()
    for _ in range(30):
        for _ in range(16):
            machine.passes(3600)
            after(ages)
        machine.is_off(8 * 3600)
        ages = machine.ages()
        assert machine.wall - START - after(ages) <= 2 * 8 * 3600
    assert after(ages) > 28 * 86_400 - 2 * 8 * 3600


def test_a_clock_that_leaps_again_and_again_is_remembered_in_little(machine: Machine):
    ages = machine.ages()
    for _ in range(3 * LEAPS_LIMIT):
        machine.wall += 100
        after(ages)
    assert len(json.loads((machine.directory / FILE).read_bytes())["leaps"]) == LEAPS_LIMIT
    machine.passes(DOUBT_SECONDS)
    assert after(ages) == 300 * LEAPS_LIMIT + DOUBT_SECONDS


def test_a_new_process_believes_what_the_one_before_did(machine: Machine):
    ages = machine.ages()
    after(ages)
    machine.wall += YEAR
    after(ages)
    machine.passes(DOUBT_SECONDS / 2)
    ages = machine.ages()
    assert after(ages) == DOUBT_SECONDS / 2
    machine.passes(DOUBT_SECONDS / 2)
    assert after(ages) == YEAR + DOUBT_SECONDS


def test_a_machine_that_was_off_and_one_that_woke_with_a_wrong_clock_look_the_same(machine: Machine):
    after(machine.ages())
    machine.passes(3600)
    after(machine.ages())
    machine.is_off(100 * 86_400)
    ages = machine.ages()
    assert after(ages) == 3600
    machine.passes(DOUBT_SECONDS)
    assert after(ages) == 3600 + 100 * 86_400 + DOUBT_SECONDS


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"boot": "one"}', b'{"boot": "one", "told": "x", "offset": 1}'])
def test_a_file_that_says_nothing_is_as_none(machine: Machine, content: bytes):
    (machine.directory / FILE).write_bytes(content)
    assert after(machine.ages()) == 0
    assert json.loads((machine.directory / FILE).read_bytes())["boot"] == "one"


def test_a_disk_that_takes_nothing_changes_no_answer(machine: Machine):
    machine.directory /= "absent"
    ages = machine.ages()
    machine.wall += YEAR
    assert after(ages) == 0


def test_a_context_keeps_its_items_when_the_clock_is_set_forward(machine: Machine):
    root = machine.directory / "contexts"
    store = SqliteStore(root, clock=lambda: datetime.fromtimestamp(machine.wall, UTC), ages=machine.ages().now)
    try:
        context = store.context(KEY, 1, Limits(age_seconds=2 * 86_400))
        context.append(said("first"))
        machine.wall += YEAR
        context.append(said("second"))
        assert context.retire() == 0
        machine.passes(DOUBT_SECONDS)
        assert context.retire() == 1
    finally:
        store.close()


def test_a_machine_that_wakes_in_the_past_retires_nothing_of_what_was_appended_meanwhile(machine: Machine):
    root = machine.directory / "contexts"

    def opened() -> SqliteStore:
        ages = machine.ages()
        return SqliteStore(root, clock=lambda: datetime.fromtimestamp(machine.wall, UTC), ages=ages.now, expected=ages.expected)

    store = opened()
    store.context(KEY, 1).append(said("before"))
    store.close()
    machine.is_off(8 * 3600)
    right, machine.wall = machine.wall, START - 20 * YEAR
    store = opened()
    try:
        context = store.context(KEY, 1)
        context.append(said("in the past"))
        machine.running += 30
        machine.wall = right + 30
        context.append(said("once it is right"))
        assert context.retire() == 0
        with context.reading() as reader:
            times = [item.time.timestamp() for item in reader.oldest(9)]
        assert times == [START, START, right + 30]
    finally:
        store.close()

"""The look at a node finds each thing that can be wrong there, and nothing when nothing is."""

from dataclasses import replace

import pytest

from aios_bench.faults.node.checker import Held, Look, judge
from aios_bench.faults.scenario import Outcome

HELD = {"c1": Held("a", 10, "p1"), "c2": Held("b", 20)}
BOTH = frozenset(HELD)
RIGHT = Look(
    states=BOTH,
    known=frozenset({"c1"}),
    cdi_files=BOTH,
    directories=BOTH,
    fenced={"c1": True},
    voices={"socket c1": "a", "socket c2": "b", "loopback p1": "a"},
    booked_bytes=30,
    prepared=2,
    served=2,
)


def test_a_node_on_which_nothing_is_wrong_is_found_so():
    assert judge(HELD, RIGHT) == Outcome()


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"states": frozenset({"c1"})}, {"objects_lost": 1}),
        ({"known": frozenset()}, {"objects_lost": 1}),
        ({"cdi_files": frozenset()}, {"objects_lost": 2}),
        ({"directories": BOTH | {"c3"}}, {"orphans": 1}),
        ({"strays": (".c1.json.tmp",)}, {"orphans": 1}),
        ({"fenced": {"c1": False}}, {"unfenced_starts": 1}),
        ({"fenced": {}}, {"unfenced_starts": 1}),
        ({"voices": {"socket c1": "a", "socket c2": "b"}}, {"objects_lost": 1}),
        ({"voices": {**RIGHT.voices, "socket c2": "a"}}, {"double_identities": 1}),
        ({"voices": {**RIGHT.voices, "loopback p2": "a"}}, {"double_identities": 1}),
        ({"booked_bytes": 25}, {"bytes_misbooked": 5}),
        ({"prepared": 3}, {"orphans": 1}),
        ({"served": 1}, {"objects_lost": 1}),
        ({"workers": 2}, {"orphans": 1}),
        ({"workers": 0}, {"objects_lost": 1}),
    ],
)
def test_each_thing_that_is_wrong_is_counted_and_named(wrong: dict[str, object], found: dict[str, int]):
    outcome = judge(HELD, replace(RIGHT, **wrong))
    assert outcome.broken == found
    assert outcome.notes

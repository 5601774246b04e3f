"""Whatever the log, the strategy, the model and the format: a window never exceeds its budget, loses no pin, and splits nothing.

`AIOS_WINDOWS=10000` runs that many generated logs; continuous integration runs a few, `make soak` all of them.
"""

import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_api.context import Extent, Strategy, Tier, TierPromotion, TierRetention, TierSelector
from aios_sidecar.context.errors import BudgetTooSmall
from aios_sidecar.context.formats import FORMATS
from aios_sidecar.context.items import Draft, Item, Role
from aios_sidecar.context.memory import DAWN, MemoryReader, numbered
from aios_sidecar.context.strategies.choose import Reason
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.units import units_of
from aios_sidecar.context.window import Memory, Window, WindowRequest, build_window
from unit.context.logs import forks, logs

NOW = DAWN + timedelta(hours=1)
MODELS = Models()
MANY = settings(max_examples=int(os.environ.get("AIOS_WINDOWS", "300")), deadline=None, suppress_health_check=[HealthCheck.too_slow])

extents = st.one_of(
    st.builds(lambda n: Extent(tokens=n), st.integers(0, 300)),
    st.builds(lambda n: Extent(items=n), st.integers(0, 12)),
    st.builds(lambda n: Extent(percent=n), st.integers(1, 100)),
)
selectors = st.builds(
    TierSelector,
    kinds=st.none() | st.lists(st.sampled_from(["message", "note", "tool_call"]), min_size=1, max_size=2, unique=True),
    roles=st.none() | st.lists(st.sampled_from(["system", "user", "tool"]), min_size=1, max_size=2, unique=True),
)
retentions = st.builds(
    TierRetention,
    age_seconds=st.none() | st.integers(1, 3600),
    items=st.none() | st.integers(1, 8),
    tokens=st.none() | st.integers(1, 200),
)
shares = st.sampled_from([None, 5, 20, 30])
kinds = st.sampled_from(["fixed", "sliding", "importance"])


@st.composite
def tiers(draw: st.DrawFn) -> list[Tier]:
    return [
        Tier(
            name=f"t{number}",
            select=draw(st.none() | selectors),
            promote=draw(st.none() | st.builds(TierPromotion, accesses=st.integers(1, 3), importance=st.none() | st.integers(1, 100))),
            retention=draw(st.none() | retentions),
            demote=draw(st.booleans()),
            share=draw(shares),
            min=draw(st.none() | st.builds(lambda n: Extent(tokens=n), st.integers(0, 100))),
            max=draw(
                st.none() | st.builds(lambda n: Extent(tokens=n), st.integers(100, 300)) | extents.filter(lambda e: e.items is not None)
            ),
            strategy=draw(kinds),
        )
        for number in range(draw(st.integers(1, 3)))
    ]


strategies = st.one_of(
    st.builds(Strategy, type=st.just("fixed"), trigger=st.none() | extents, retrieve=st.integers(1, 100)),
    st.builds(
        Strategy,
        type=st.sampled_from(["sliding", "importance"]),
        trigger=st.none() | extents,
        keep=st.none() | extents,
        retrieve=st.integers(1, 100),
    ),
    st.builds(Strategy, type=st.just("hierarchical"), tiers=tiers(), trigger=st.none() | extents, retrieve=st.integers(1, 100)),
    st.just(Strategy(type="hierarchical", preset="CoreWorkingArchive")),
)
requests = st.builds(
    WindowRequest,
    budget=st.integers(1, 600),
    model=st.sampled_from(["gpt-4o", "gpt-4", "claude-x"]),
    reserve=st.just(0),
    strategy=strategies,
    query=st.none() | st.sampled_from(["When did Anna pay for the trip?", "ok", "", "東京"]),
    session=st.sampled_from([None, "main", "side"]),
    format=st.sampled_from(list(FORMATS)),
)


def check(window: Window, reader: MemoryReader) -> None:
    request = window.request
    shown = [item.seq for group in (window.units, window.recalled) for unit in group for item in unit.items]
    assert window.tokens <= request.budget - request.reserve
    rendered = window.render()
    if request.format == "ours":
        assert window.counter.count(rendered["text"]) <= window.tokens
    elif request.format == "openai" and window.exact:
        counted = sum(3 + ("name" in m) + sum(window.counter.count(value) for value in m.values()) for m in rendered["messages"])
        assert counted + 3 == window.tokens
    assert len(set(shown)) == len(shown), "nothing is shown twice"
    visible, scope = reader.range(1, 100), reader.range(1, 100, request.session)
    assert {item.seq for item in scope if item.pinned} <= {item.seq for unit in window.units for item in unit.items}, "pins stay"
    assert set(shown) <= {item.seq for item in visible}
    assert [unit.first for unit in window.units] == sorted(unit.first for unit in window.units)
    whole = {item.seq: unit for unit in units_of(scope, reader.forks()) for item in unit.items}
    for unit in (*window.units, *window.recalled):
        assert {item.seq for item in whole[unit.first].items} == {item.seq for item in unit.items}, "together or not at all"
        assert unit.fault is None or unit.pinned or unit in window.recalled, "nothing is orphaned"
    named = {verdict.candidate.unit.first for verdict in (*window.verdicts, *window.left)}
    recalled = {unit.first for unit in window.recalled}
    for unit in units_of(scope, reader.forks()):
        assert unit.first in named | recalled or unit.first < window.looked_from, "each is in or out, for a reason"


@MANY
@given(st.data(), requests, st.integers(0, 24))
def test_a_window_is_within_its_budget_and_whole(data: st.DataObject, request: WindowRequest, first: int):
    """Also the second time, after more was appended, from what was kept of the first."""
    items = data.draw(logs())
    forked = data.draw(forks(items))
    memory = Memory()
    states: dict[str, str] = {}
    for upto in (first, 24):
        seen = [item for item in items if item.seq <= upto]
        try:
            reader = MemoryReader(seen, state=states, forks={name: origin for name, origin in forked.items() if origin[1] <= upto})
            window = build_window(reader, request, memory, NOW, MODELS)
        except BudgetTooSmall:
            assert any(item.pinned and not item.erased for item in seen) or request.budget < 60
            continue
        check(window, reader)
        if window.state is not None:
            states[window.state[0]] = window.state[1]


@MANY
@given(logs(), requests)
def test_without_memory_the_kept_plan_gives_the_same_window(items: list[Item], request: WindowRequest):
    """What a gateway forgets when it restarts changes nothing."""
    memory = Memory()
    try:
        first = build_window(MemoryReader(items), request, memory, NOW, MODELS)
    except BudgetTooSmall:
        return
    reader = MemoryReader(items, state=dict([first.state]) if first.state else {})
    again, afresh = build_window(reader, request, memory, NOW, MODELS), build_window(reader, request, Memory(), NOW, MODELS)
    for window in (again, afresh):
        assert (window.prefix_digest, window.tokens, window.recalled) == (first.prefix_digest, first.tokens, first.recalled)
    assert again.reused_percent == 100 or again.tokens == 0


def dialogue(count: int) -> list[Item]:
    return numbered(Draft(Role.USER, f"On day {n} Anna paid {n} euros for bread and went home.", author="Anna") for n in range(count))


@pytest.mark.parametrize("kind", ["sliding", "importance"])
def test_between_evictions_windows_only_grow_at_their_end(kind: str):
    items, memory = dialogue(400), Memory()
    request = WindowRequest(2000, "gpt-4o", strategy=Strategy(type=kind), format="openai")
    reused = []
    for upto in range(100, 400):
        window = build_window(MemoryReader(items[:upto]), request, memory, NOW, MODELS)
        assert window.tokens <= 2000
        assert items[upto - 1].seq in [item.seq for unit in window.units for item in unit.items], "the newest is there"
        reused.append(window.reused_percent)
    assert sum(each for each in reused[1:] if each is not None) / len(reused[1:]) > 85
    assert min(each for each in reused[1:] if each is not None) < 50, "now and then there was an eviction"


def test_what_is_pinned_stays_and_what_is_too_much_is_said():
    items = [item._replace(pinned=item.seq in (3, 5)) for item in dialogue(50)]
    request = WindowRequest(200, "gpt-4o", format="openai")
    window = build_window(MemoryReader(items), request, Memory(), NOW, MODELS)
    assert [v.candidate.unit.first for v in window.verdicts if v.reason is Reason.PINNED] == [3, 5]
    with pytest.raises(BudgetTooSmall, match=r"what is pinned costs \d+ tokens, and \d+ are left of a budget of 40"):
        build_window(MemoryReader(items), WindowRequest(40, "gpt-4o", format="openai"), Memory(), NOW, MODELS)

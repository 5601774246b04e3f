"""Quota over arbitrary namespaces: never more is given out than granted, and what a refusal advises is what helps, and no less does."""

import re
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from aios_api.quantity import mebibytes
from aios_operator.decide import quota
from aios_operator.decide.states import Amount, Grant, Refusal
from aios_operator.decide.views import AgentView, Key
from aios_operator.observe import parse
from unit.decide.world import Object, agent, gpu_quota

sizes = st.integers(0, 13)
limits = st.tuples(st.none() | st.integers(0, 40), st.none() | st.integers(0, 6)).filter(lambda limit: limit != (None, None))
teams = st.lists(sizes, min_size=1, max_size=9)
Limit = tuple[int | None, int | None]
Held = Mapping[Key, Amount]
METADATA = {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}


def members(team: list[int]) -> list[AgentView]:
    """In the order in which they have their turn."""
    made = [agent(f"a{i}", f"{size}Gi" if size else None) for i, size in enumerate(team)]
    return [parse.agent({**each, "metadata": {**each["metadata"], **METADATA}}) for each in made]


def cycle(spec: Object, team: list[AgentView], held: Held) -> tuple[dict[Key, Amount], dict[Key, Refusal]]:
    """Who holds what after a cycle in which there is a place for everybody, and what the others are told."""
    view = parse.quota({**spec, "metadata": {**spec["metadata"], **METADATA}})
    ledger = quota.Ledger("team", Grant(view, held, unlimited_without=False))
    after, refused = dict(held), {}
    for each in team:
        refusal = ledger.judge(each)
        if refusal is None:
            ledger.take(each)
            after[each.key] = quota.wanted(each).most(held.get(each.key, Amount()))
        else:
            refused[each.key] = refusal
    return after, refused


def a_quota(limit: Limit) -> Object:
    return gpu_quota(memory=None if limit[0] is None else f"{limit[0]}Gi", agents=limit[1])


def advised(spec: Object, refusal: Refusal) -> Object:
    """The quota as the refusal says that it should be."""
    assert refusal.smallest_change.startswith("raise ")
    memory = re.search(r"spec\.memory\.nominal to (\S+)", refusal.smallest_change)
    agents = re.search(r"spec\.agents to (\d+)", refusal.smallest_change)
    assert memory or agents
    nominal = memory[1] if memory else spec["spec"].get("memory", {}).get("nominal")
    return gpu_quota(memory=nominal, agents=int(agents[1]) if agents else spec["spec"].get("agents"))


@given(limits, limits, teams, teams)
def test_never_more_than_granted_is_held_and_what_is_named_admits_who_waits(before: Limit, limit: Limit, was: list[int], team: list[int]):
    """Also when the quota was another before, and Agents ask for another size than they hold."""
    held, _ = cycle(a_quota(before), members(was), {})
    spec = a_quota(limit)
    after, refused = cycle(spec, members(team), held)
    total, already = sum(after.values(), Amount()), sum(held.values(), Amount())
    if total != already:
        assert limit[0] is None or total.mebibytes <= max(limit[0] << 10, already.mebibytes)
        assert limit[1] is None or total.agents <= max(limit[1], already.agents)
    _, refused = cycle(spec, members(team), after)
    for key, refusal in refused.items():
        _, left = cycle(advised(spec, refusal), members(team), after)
        assert key not in left


@given(st.integers(0, 30), teams)
def test_a_smaller_raise_of_memory_does_not_admit_who_waits(limit: int, team: list[int]):
    spec = gpu_quota(memory=f"{limit}Gi")
    held, _ = cycle(spec, members(team), {})
    _, refused = cycle(spec, members(team), held)
    for key, refusal in refused.items():
        named = mebibytes(advised(spec, refusal)["spec"]["memory"]["nominal"]) >> 10
        for less in range(limit, named):
            assert key in cycle(gpu_quota(memory=f"{less}Gi"), members(team), held)[1]


@given(st.integers(0, 13), teams)
def test_so_much_freed_as_is_named_is_enough_for_who_is_first(limit: int, team: list[int]):
    held, _ = cycle(gpu_quota(memory=f"{limit}Gi"), members(team), {})
    first = [each for each in members(team) if each.key not in held and quota.wanted(each).mebibytes <= limit << 10][:1]
    _, refused = cycle(gpu_quota(memory=f"{limit}Gi"), first, held)
    for refusal in refused.values():
        freed = re.search(r"that hold (\S+)$", refusal.smallest_change)
        assert freed
        total = sum(held.values(), Amount()).mebibytes - mebibytes(freed[1])
        assert cycle(gpu_quota(memory=f"{limit}Gi"), first, {Key("team", "others"): Amount(total, 1)})[1] == {}


amounts = st.builds(Amount, st.integers(0, 12), st.integers(0, 1))


@given(amounts, st.lists(amounts, max_size=8), st.builds(Amount, st.integers(-5, 40), st.integers(-3, 9)))
def test_the_room_that_is_reckoned_is_enough_after_those_ahead_had_their_turn(own: Amount, ahead: list[Amount], free: Amount):
    room = quota.needed_room(own, ahead, free)
    assert free.within(room)
    for each in ahead:
        if each.within(room):
            room -= each
    assert own.within(room)

"""ToolBindings in the running operator: what a change leads to in the orders, what is said of it, and what is written at rest."""

import dataclasses
from typing import Any

import pytest

from aios_api.binding import ToolBindingStatus
from aios_kube import resources
from aios_operator.decide import effects as do
from aios_operator.decide.views import Key
from unit.operator.world import World

CODER, OTHER = Key("ns", "coder"), Key("ns", "other")
BAD = {"egress": [{"name": "a-example-com", "host": "NO HOST"}]}


@pytest.fixture
async def world() -> World:
    """Two Agents that run; one has the label that bindings here select."""
    world = World()
    world.node()
    world.label(world.apply("coder"), app="coder")
    world.apply("other")
    await world.running()
    return world


async def settled(world: World) -> None:
    """The gateways have confirmed, and bindings say so."""
    await world.running()
    await world.settled(forward_seconds=2)


def revised(world: World, mark: int) -> list[str]:
    """The Agents whose orders were written."""
    return sorted(call.name for call in world.writes_since(mark) if call.resource == resources.AGENT_RUNTIMES)


async def test_a_binding_reaches_the_orders_of_the_agents_that_it_selects_and_no_others(world: World):
    mark = world.mark
    world.bind("models", "a.example.com")
    await settled(world)
    assert (world.reaches(CODER), world.reaches(OTHER)) == (["a.example.com"], [])
    assert revised(world, mark) == ["coder"]
    assert world.condition(CODER, "EgressProgrammed") == ("True", "Programmed")
    assert world.condition(OTHER, "EgressProgrammed") == ("True", "NothingAllowed")
    assert world.agent(CODER)["status"]["egress"]["bindings"] == [{"name": "models", "generation": 1}]
    said = world.binding("models")
    assert (said["agents"], said["programmed"], said["Ready"]) == (1, 1, ("True", "Programmed"))
    assert "wouldDeny" not in said
    ToolBindingStatus.model_validate({k: v for k, v in said.items() if k in ("conditions", "agents", "programmed", "observedGeneration")})


async def test_a_change_is_in_the_order_of_the_same_attempt(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.bind("models", "b.example.com")
    await settled(world)
    assert world.reaches(CODER) == ["b.example.com"]
    assert world.agent(CODER)["status"]["attempt"] == 1
    assert world.agent(CODER)["status"]["egress"]["bindings"] == [{"name": "models", "generation": 2}]


async def test_several_bindings_add_up_and_a_deleted_one_is_gone_at_once(world: World):
    world.bind("models", "a.example.com")
    world.bind("more", "b.example.com")
    await settled(world)
    assert world.reaches(CODER) == ["a.example.com", "b.example.com"]
    world.cluster.remove(resources.TOOL_BINDINGS, "models", "ns")
    await world.settled()
    assert world.reaches(CODER) == ["b.example.com"]
    world.cluster.remove(resources.TOOL_BINDINGS, "more", "ns")
    await settled(world)
    assert world.reaches(CODER) == []
    assert world.condition(CODER, "EgressProgrammed") == ("True", "NothingAllowed")
    assert "egress" not in world.agent(CODER)["status"]


async def test_a_binding_that_is_being_deleted_counts_no_longer_whatever_holds_it(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.cluster.alter(resources.TOOL_BINDINGS, "models", {"metadata": {"finalizers": ["someone/else"]}}, "ns")
    await world.cluster.delete(resources.TOOL_BINDINGS, "models", "ns")
    await settled(world)
    assert world.reaches(CODER) == []


async def test_labels_decide_who_is_selected(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.label(CODER, app=None)
    world.label(OTHER, app="coder")
    await settled(world)
    assert (world.reaches(CODER), world.reaches(OTHER)) == ([], ["a.example.com"])
    assert world.binding("models")["agents"] == 1


async def test_a_binding_of_another_namespace_is_nobody_s_here(world: World):
    world.bind("models", "a.example.com", namespace="elsewhere")
    await settled(world)
    assert world.reaches(CODER) == []
    assert world.binding("models", "elsewhere")["ResolvedRefs"] == ("False", "SelectsNothing")
    assert world.binding("models", "elsewhere")["Ready"] == ("True", "NotRunning")


async def test_a_new_attempt_begins_with_what_is_allowed(world: World):
    world.bind("models", "a.example.com", app="late")
    await settled(world)
    world.label(world.apply("late"), app="late")
    mark = world.mark
    await world.settled()
    orders = [call.body for call in world.writes_since(mark) if call.resource == resources.AGENT_RUNTIMES]
    assert len(orders) == 1, "the first order has the policy"
    assert world.reaches(Key("ns", "late")) == ["a.example.com"]


# Broken updates.


async def test_a_broken_update_keeps_what_was_last_good_and_says_so(world: World):
    world.bind("models", "a.example.com", "b.example.com")
    await settled(world)
    mark = world.mark
    world.bind("models", egress=[*BAD["egress"], {"name": "b-example-com", "host": "b.example.com"}])
    await settled(world)
    assert world.reaches(CODER) == ["a.example.com", "b.example.com"]
    assert revised(world, mark) == []
    said = world.binding("models")
    assert said["Accepted"] == ("False", "InvalidSpec")
    assert said["Programmed"] == ("False", "LastGoodInForce")
    assert (said["Ready"], said["Stalled"]) == (("False", "InvalidSpec"), ("True", "InvalidSpec"))
    assert world.agent(CODER)["status"]["egress"]["bindings"] == [{"name": "models", "generation": 1}]


async def test_a_removal_takes_effect_even_when_the_rest_is_broken(world: World):
    world.bind("models", "a.example.com", "b.example.com")
    await settled(world)
    world.bind("models", **BAD)
    await settled(world)
    assert world.reaches(CODER) == ["a.example.com"]


async def test_a_broken_binding_gives_nothing_to_who_comes_later(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.bind("models", **BAD)
    world.label(OTHER, app="coder")
    await settled(world)
    assert (world.reaches(CODER), world.reaches(OTHER)) == (["a.example.com"], [])
    assert world.binding("models")["agents"] == 2


async def test_what_was_last_good_outlives_the_operator_and_the_attempt(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.bind("models", **BAD)
    await settled(world)
    world.operator()
    world.apply("coder", priority=3, template={"spec": {"containers": [{"name": "main", "image": "localhost/example:2"}]}})
    await settled(world)
    await settled(world)
    assert world.agent(CODER)["status"]["attempt"] == 2
    assert world.reaches(CODER) == ["a.example.com"]


async def test_a_policy_that_someone_else_wrote_is_written_anew(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    order = world.cluster.peek(resources.AGENT_RUNTIMES, "coder", "ns")
    assert order is not None
    rules = order["spec"]["egress"]["rules"]
    world.cluster.alter(resources.AGENT_RUNTIMES, "coder", {"spec": {"egress": {"rules": [{**rules[0], "host": "evil.example"}]}}}, "ns")
    await settled(world)
    assert world.reaches(CODER) == ["a.example.com"]
    world.cluster.alter(resources.AGENT_RUNTIMES, "other", {"spec": {"egress": {"digest": "x", "bindings": [], "rules": rules}}}, "ns")
    await settled(world)
    assert world.reaches(OTHER) == []


# What is said.


async def test_until_the_gateway_confirms_the_binding_waits_and_names_whom(world: World):
    world.gateway_answers = False
    world.bind("models", "a.example.com")
    await settled(world)
    assert world.condition(CODER, "EgressProgrammed") == ("False", "Programming")
    said = world.binding("models")
    assert (said["Programmed"], said["Ready"], said["Reconciling"]) == (("False", "Programming"),) * 2 + (("True", "Programming"),)
    assert (said["agents"], said["programmed"]) == (1, 0)
    assert "Stalled" not in said
    world.gateway_answers = True
    await settled(world)
    assert world.binding("models")["Ready"] == ("True", "Programmed")


async def test_while_a_gateway_changes_the_status_says_what_is_in_force(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    before = world.agent(CODER)["status"]["egress"]
    world.gateway_answers = False
    world.bind("models", "b.example.com")
    await settled(world)
    assert world.agent(CODER)["status"]["egress"] == before
    assert world.condition(CODER, "EgressProgrammed") == ("False", "Programming")


async def test_a_stopped_agent_is_selected_and_has_no_gateway(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.apply("coder", operatingMode="Stopped")
    await settled(world)
    said = world.binding("models")
    assert (said["agents"], said["programmed"], said["Ready"]) == (1, 0, ("True", "NotRunning"))
    assert "EgressProgrammed" not in [c["type"] for c in world.agent(CODER)["status"]["conditions"]]


async def test_in_audit_mode_what_would_be_denied_is_counted(world: World):
    world.counted = {"wouldDeny": [{"binding": "models", "count": 7}]}
    world.bind("models", "a.example.com", mode="Audit")
    await settled(world)
    assert world.binding("models")["wouldDeny"] == 7
    world.counted = {"wouldDeny": [{"binding": "models", "count": 9}]}
    await settled(world)
    assert world.binding("models")["wouldDeny"] == 9


async def test_what_finds_no_room_is_left_out_and_says_so(world: World):
    for number in range(4):
        world.bind(f"old{number}", *(f"h{n}.example.com" for n in range(64)))
    await settled(world)
    world.now = world.now.replace(year=2027)  # a later creationTimestamp
    world.bind("late", "late.example.com")
    await settled(world)
    assert "late.example.com" not in world.reaches(CODER)
    assert world.binding("late")["Programmed"] == ("False", "TooManyRules")
    assert world.binding("late")["Stalled"] == ("True", "TooManyRules")
    world.metrics.watch_store(world.store, lambda: world.now)
    assert b'aios_operator_tool_bindings{condition="Ready",status="False"} 1.0' in world.metrics.exposition()
    world.cluster.remove(resources.TOOL_BINDINGS, "old0", "ns")
    await settled(world)
    assert "late.example.com" in world.reaches(CODER)
    assert world.binding("late")["Ready"] == ("True", "Programmed")


async def test_a_fence_that_leaks_is_said_and_the_agent_is_not_ready(world: World):
    assert world.condition(CODER, "EgressFenced") == ("Unknown", "WaitingForNode")
    order: Any = world.cluster.peek(resources.AGENT_RUNTIMES, "coder", "ns")
    leak = {
        "type": "EgressFenced",
        "status": "False",
        "reason": "FenceLeaks",
        "message": "reached 1.1.1.1",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    conditions = [*order["status"]["conditions"], leak]
    world.cluster.alter(resources.AGENT_RUNTIMES, "coder", {"status": {"conditions": conditions}}, "ns")
    await world.settled()
    assert world.condition(CODER, "EgressFenced") == ("False", "FenceLeaks")
    assert world.condition(CODER, "Ready") == ("False", "FenceLeaks")


# At rest.


async def test_at_rest_nothing_is_written_and_neither_by_the_next_process(world: World):
    world.bind("models", "a.example.com")
    world.bind("broken", **BAD)
    world.bind("watch", mode="Audit", app="nobody")
    await settled(world)
    await world.settled(forward_seconds=700)
    mark = world.mark
    world.loop.sweep()
    await world.settled(forward_seconds=20)
    world.operator()
    await world.settled()
    world.loop.sweep()
    await world.settled(forward_seconds=20)
    assert [(call.verb, call.resource.kind, call.name) for call in world.writes_since(mark)] == []


async def test_a_change_of_a_binding_plans_only_whom_it_concerns(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.store.dirty.clear()
    world.bind("models", "b.example.com")
    world.deliver()
    assert world.store.dirty == {CODER}
    world.store.dirty.clear()
    world.bind("models", "b.example.com", app="somebody")
    world.deliver()
    assert world.store.dirty == {CODER}


async def test_an_order_that_is_revised_is_still_the_order(world: World):
    """The attempt's claim and pod stay, and a revision that comes late changes no later order."""
    world.bind("models", "a.example.com")
    await settled(world)
    view = world.store.runtimes.views["ns", "coder"]
    await world.loop.executor.perform(do.ReviseOrder(CODER, view.uid, None, None, None, None))
    assert world.reaches(CODER) == []
    await settled(world)
    assert world.reaches(CODER) == ["a.example.com"]
    assert world.agent(CODER)["status"]["attempt"] == 1


async def test_however_much_there_is_to_do_a_change_of_a_binding_comes_first(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.loop.settings = dataclasses.replace(world.loop.settings, concurrent_writes=1)
    for number in range(30):
        world.apply(f"many{number:02}")
    world.deliver()
    world.bind("models")
    world.deliver()
    mark = world.mark
    await world.loop.settle()
    assert world.writes_since(mark)[0].name == "coder"
    assert world.reaches(CODER) == []
    assert not world.store.first


async def test_so_does_a_change_of_labels(world: World):
    world.bind("models", "a.example.com")
    await settled(world)
    world.loop.settings = dataclasses.replace(world.loop.settings, concurrent_writes=1)
    for number in range(30):
        world.apply(f"many{number:02}")
    world.deliver()
    world.label(CODER, app="other")
    world.deliver()
    mark = world.mark
    await world.loop.settle()
    assert world.writes_since(mark)[0].name == "coder"
    assert world.reaches(CODER) == []

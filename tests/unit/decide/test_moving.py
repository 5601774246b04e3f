"""A context follows its Agent to another node: what is ordered, until when, and what follows when a node is lost in the middle."""

from dataclasses import replace
from typing import Any

import pytest

from aios_operator.decide import moving
from aios_operator.decide.views import Door, Key
from unit.decide.test_memory import facts, order
from unit.decide.world import NAMESPACE, World, agent

COMING = {"here": False, "receivedBytes": 5, "totalBytes": 10}
WAIT, EMPTY = {"whenNodeLost": "Wait"}, {"whenNodeLost": "StartEmpty"}
CHANGED = {"spec": {"containers": [{"name": "main", "image": "localhost/agent:2"}]}}


def two_nodes(context: dict[str, Any], **move: Any) -> World:
    """An Agent with something in its context on n1, which is edited so that only n2 has room for it."""
    world = World().node("n1", cpu="4").apply(agent("a", context=context)).settle()
    facts(world).node("n2", cpu="64")
    world.doors = {name: Door(f"{name}:9491", f"CERT{name}") for name in ("n1", "n2")}
    if move:
        world.moves["a"] = move
    world.hear()
    return world.apply(agent("a", context=context, cpu="20")).settle()


def heard(world: World) -> World:
    world.hear()
    return world.settle()


def test_a_context_is_ordered_from_where_it_is_with_both_ends_named_and_the_attempt_as_its_fence():
    world = heard(two_nodes(WAIT, **COMING))
    assert order(world)["nodeName"] == "n2"
    assert order(world)["attempt"] == 2
    assert order(world)["contextFrom"] == {"nodeName": "n1", "address": "n1:9491", "certificate": "CERTn1", "receiver": "CERTn2"}
    assert world.status("a")["contextMove"] == {"fromNode": "n1", "receivedBytes": 5, "totalBytes": 10}
    assert world.condition("a", "Ready") == ("False", "ContextOnItsWay")
    world.moves["a"] = {**COMING, "here": True}
    world.settle()
    assert world.ready("a")
    assert "contextMove" not in world.status("a")


def test_an_attempt_on_the_same_node_and_a_first_one_order_no_move():
    world = World().node("n1").apply(agent("a")).settle()
    assert "contextFrom" not in order(world)
    world.patch("a", template=CHANGED).settle()
    assert order(world)["attempt"] == 2
    assert "contextFrom" not in order(world)


def test_an_agent_that_never_ran_anywhere_has_nothing_to_fetch():
    world = World().node("n1", cpu="4")
    world.unprepared.add("a")
    world.nudges_help = False
    world.apply(agent("a")).settle().node("n2", cpu="64")
    world.apply(agent("a", cpu="20")).settle()
    assert order(world)["nodeName"] == "n2"
    assert "contextFrom" not in order(world)


def test_new_keys_of_a_gateway_are_in_the_order_at_once_and_what_has_come_stays():
    world = two_nodes(WAIT, **COMING)
    world.doors["n1"] = Door("n1:7", "NEW")
    heard(world)
    assert order(world)["contextFrom"]["certificate"] == "NEW"
    world.moves["a"] = {"here": True}
    world.settle()
    world.doors["n1"] = Door("n1:8", "NEWER")
    heard(world)
    assert order(world)["contextFrom"]["certificate"] == "NEW"


def test_what_has_come_is_fetched_from_there_the_next_time():
    world = two_nodes(WAIT)
    assert world.ready("a")
    world.delete("ResourceSlice", "n2-slice")
    world.node("n3", cpu="64").patch("a", template=CHANGED).patch("a", **agent("a", cpu="21", context=WAIT)["spec"]).settle()
    assert (order(world)["nodeName"], order(world)["contextFrom"]["nodeName"]) == ("n3", "n2")


def test_what_has_not_come_is_fetched_from_where_it_still_is():
    world = two_nodes(WAIT, **COMING)
    world.delete("ResourceSlice", "n2-slice")
    world.node("n3", cpu="64").patch("a", **agent("a", cpu="21", context=WAIT)["spec"]).settle()
    assert (order(world)["nodeName"], order(world)["contextFrom"]["nodeName"]) == ("n3", "n1")


def test_an_agent_goes_back_to_the_node_that_still_has_its_context_without_a_move():
    world = two_nodes(EMPTY, **COMING)
    world.delete("ResourceSlice", "n2-slice")
    world.apply(agent("a", context=EMPTY, cpu="1")).settle()
    assert order(world)["nodeName"] == "n1"
    assert "contextFrom" not in order(world)
    assert world.ready("a")


def test_an_agent_that_waits_for_its_context_does_so_as_long_as_its_node_gives_none():
    world = two_nodes(WAIT, **COMING, trouble="nobody is there")
    world.wait(3600)
    assert "startEmpty" not in order(world)["contextFrom"]
    told = world.status("a")["contextMove"]
    assert told["trouble"] == "nobody is there"
    assert "stalledSince" in told
    assert "startsEmptyAt" not in told


def test_an_agent_that_may_start_empty_says_until_when_it_waits_and_does():
    world = two_nodes(EMPTY, **COMING, trouble="nobody is there")
    told = world.status("a")["contextMove"]
    world.wait(290)
    assert world.status("a")["contextMove"] == told
    assert "startEmpty" not in order(world)["contextFrom"]
    world.wait(20)
    assert order(world)["contextFrom"] == {"nodeName": "n1", "startEmpty": True}
    assert world.ready("a")
    assert "contextMove" not in world.status("a")


def test_when_something_comes_again_the_time_begins_anew():
    world = two_nodes(EMPTY, **COMING, trouble="nobody is there").wait(290)
    world.moves["a"] = dict(COMING)
    world.settle()
    assert "startsEmptyAt" not in world.status("a")["contextMove"]
    world.moves["a"] = {**COMING, "trouble": "gone again"}
    world.settle().wait(290)
    assert "startEmpty" not in order(world)["contextFrom"]


def test_a_source_that_is_lost_in_the_middle_is_given_up_by_who_may_start_empty_and_waited_for_by_who_waits():
    for context, given_up in ((EMPTY, True), (WAIT, False)):
        world = two_nodes(context, **COMING)
        world.take_out_of_service("n1")
        heard(world)
        assert bool(order(world)["contextFrom"].get("startEmpty")) is given_up
        assert world.ready("a") is given_up


def test_a_node_out_of_touch_gives_no_context_so_who_waits_is_not_placed_elsewhere():
    world = World().node("n1", cpu="4").apply(agent("a", context=WAIT)).settle()
    facts(world).node("n2", cpu="64")
    world.hear()
    world.apply(agent("a", context=WAIT, cpu="20")).settle()
    assert order(world)["nodeName"] == "n1"
    assert "its context is on n1, which is not in touch" in world.status("a")["pending"]["message"]
    world.doors = {name: Door(f"{name}:9491", f"CERT{name}") for name in ("n1", "n2")}
    heard(world)
    assert order(world)["nodeName"] == "n2"


def edited_beside_a_better_fit(gpus: bool, something_in_it: bool) -> World:
    """An Agent on n1, edited when n2 has come, which fits it better: its GPU is smaller, or it has more CPU free."""
    world = World().node("n1", {"GPU-1": "80Gi"} if gpus else None).apply(agent("a", "16Gi" if gpus else None)).settle()
    if something_in_it:
        facts(world)
    return world.node("n2", {"GPU-2": "24Gi"} if gpus else None, cpu="64")


@pytest.mark.parametrize("gpus", [True, False])
def test_an_agent_is_placed_again_where_its_context_is_before_any_better_fit(gpus: bool):
    world = edited_beside_a_better_fit(gpus, something_in_it=True).patch("a", template=CHANGED).settle()
    assert (order(world)["attempt"], order(world)["nodeName"]) == (2, "n1")
    assert "contextFrom" not in order(world)


@pytest.mark.parametrize("gpus", [True, False])
def test_an_empty_context_holds_nobody_back_from_a_better_fit(gpus: bool):
    world = edited_beside_a_better_fit(gpus, something_in_it=False).patch("a", template=CHANGED).settle()
    assert (order(world)["attempt"], order(world)["nodeName"]) == (2, "n2")


@pytest.mark.parametrize("gpus", [True, False])
def test_where_the_node_of_its_context_will_not_do_an_agent_goes_elsewhere(gpus: bool):
    world = edited_beside_a_better_fit(gpus, something_in_it=True)
    world._edit("Node", "n1", lambda node: node["spec"].update(unschedulable=True))
    world.patch("a", template=CHANGED).settle()
    assert (order(world)["attempt"], order(world)["nodeName"]) == (2, "n2")
    assert order(world)["contextFrom"]["nodeName"] == "n1"


def test_a_node_whose_node_agent_is_silent_is_not_preferred():
    world = edited_beside_a_better_fit(True, something_in_it=True)
    state = world.state(Key(NAMESPACE, "a"))
    assert state.agent is not None
    assert moving.near(state, state.agent) == "n1"
    heard_last = replace(state.nodes["n1"], silent=state.nodes["n1"].mute_after)
    assert moving.near(replace(state, nodes={"n1": heard_last}), state.agent) is None

"""What an Agent's context is to be reaches its node at once, and what is in it reaches its status."""

from aios_api.context import AgentContext
from aios_operator.decide import effects as do
from aios_operator.decide import memory
from unit.decide.world import World, agent

SMALL = {"budget": 4000, "limits": {"items": 100}}


def test_a_merge_makes_one_of_the_other_at_every_depth():
    before = {"budget": 1, "strategy": {"type": "sliding", "keep": {"items": 3}}, "limits": {"items": 5}}
    after = {"strategy": {"type": "sliding", "keep": {"percent": 10}}, "limits": {"items": 5}}
    patch = memory.merge(before, after)
    assert patch == {"budget": None, "strategy": {"type": "sliding", "keep": {"items": None, "percent": 10}}, "limits": {"items": 5}}
    assert memory.merge(before, None) is None
    assert memory.merge(None, after) == after


def test_what_is_rendered_is_read_back_the_same():
    given = AgentContext.model_validate(
        {
            "budget": 8000,
            "strategy": {"type": "hierarchical", "tiers": [{"name": "new", "share": 60}, {"name": "rest", "strategy": "importance"}]},
            "retention": {"ageSeconds": 86400, "tiers": [{"name": "tools", "kinds": ["tool_call", "tool_result"], "items": 50}]},
            "limits": {"items": 100, "content": "1Mi"},
        }
    )
    assert AgentContext.model_validate(memory.rendered(given)) == given
    assert memory.rendered(None) is None


def order(world: World) -> dict:
    return world.get("AgentRuntime", "a")["spec"]


def test_the_order_says_it_from_the_first_and_after_every_change():
    world = World().node("n1").apply(agent("a", context=SMALL)).settle()
    assert order(world)["context"]["budget"] == 4000
    attempt = order(world)["attempt"]
    world.apply(agent("a", context={**SMALL, "strategy": {"type": "importance", "keep": {"items": 5}}})).settle()
    world.apply(agent("a", context={"budget": 5000, "strategy": {"type": "importance", "keep": {"percent": 50}}})).settle()
    assert order(world)["context"]["budget"] == 5000
    assert order(world)["context"]["strategy"]["keep"] == {"percent": 50}
    assert order(world)["context"]["limits"]["items"] == 200_000
    world.apply(agent("a")).settle()
    assert "context" not in order(world)
    assert order(world)["attempt"] == attempt, "none of it restarts the agent"
    revisions = [write for write in world.written if isinstance(write, do.ReviseOrder)]
    assert len(revisions) == 3, "and nothing is written where nothing changed"


def test_a_context_that_can_not_be_read_changes_nothing():
    world = World().node("n1").apply(agent("a", context=SMALL)).settle()
    world.apply(agent("a", context={"budget": 0})).settle()
    assert order(world)["context"]["budget"] == 4000
    assert "spec.context.budget" in world.message("a", "Accepted")


def facts(world: World, **told: object) -> World:
    """The node agent writes this of the context."""
    known = {"items": 3, "contentBytes": 30, "sessions": 1, "lastAppend": "2026-01-01T00:00:00Z", "firstAttempt": 1, **told}
    world._edit("AgentRuntime", "a", lambda obj: obj["status"].update(context=known))
    return world.settle()


def test_what_is_in_the_context_is_told_and_stays_told_without_a_pod():
    world = World().node("n1").apply(agent("a")).settle()
    assert "context" not in world.status("a")
    facts(world)
    assert world.status("a")["context"] == {
        "durability": "NodeLocal",
        "nodeName": "n1",
        "items": 3,
        "contentBytes": 30,
        "sessions": 1,
        "lastAppend": "2026-01-01T00:00:00Z",
        "firstAttempt": 1,
    }
    world.apply(agent("a", operatingMode="Stopped")).settle()
    assert world.status("a")["context"]["items"] == 3


def test_an_agent_whose_context_is_another_than_before_says_that_it_started_empty():
    world = World().node("n1").apply(agent("a")).settle()
    facts(world)
    assert "startedEmpty" not in world.status("a")["context"]
    facts(world, items=0, firstAttempt=2)
    assert world.status("a")["context"]["startedEmpty"] is True
    facts(world, items=5, firstAttempt=2)
    assert world.status("a")["context"]["startedEmpty"] is True, "as long as it is that one"


def test_a_context_that_had_nothing_in_it_is_not_missed():
    world = World().node("n1").apply(agent("a")).settle()
    facts(world, items=0)
    facts(world, items=0, firstAttempt=2)
    assert "startedEmpty" not in world.status("a")["context"]


def stopped_with_a_context(**context: object) -> World:
    """On one of two nodes, with something in its context, and stopped."""
    world = World().node("n1").apply(agent("a", context=context)).settle()
    facts(world).node("n2", cpu="64")
    return world.apply(agent("a", context=context, operatingMode="Stopped")).settle()


def test_an_agent_that_waits_for_its_context_runs_where_that_is():
    world = stopped_with_a_context(whenNodeLost="Wait").apply(agent("a", context={"whenNodeLost": "Wait"})).settle()
    assert world.ready("a")
    assert world.status("a")["nodeName"] == "n1"


def test_an_agent_that_may_start_empty_runs_where_its_context_is_and_elsewhere_when_that_will_not_do():
    for cordoned, runs_on in ((False, "n1"), (True, "n2")):
        world = stopped_with_a_context(whenNodeLost="StartEmpty")
        world._edit("Node", "n1", lambda node, cordoned=cordoned: node["spec"].update(unschedulable=cordoned))
        world.apply(agent("a", context={"whenNodeLost": "StartEmpty"})).settle()
        assert world.status("a")["nodeName"] == runs_on


def test_an_agent_whose_context_is_out_of_reach_waits_and_says_what_would_help():
    world = stopped_with_a_context(whenNodeLost="Wait")
    world.delete("ResourceSlice", "n1-slice")
    world.apply(agent("a", context={"whenNodeLost": "Wait"})).settle()
    pending = world.status("a")["pending"]
    assert pending["reason"] == "WaitingForContext"
    assert pending["message"] == "its context, with 3 items, is on node n1, which publishes no runtime now"
    assert pending["smallestChange"].endswith("spec.context.whenNodeLost to StartEmpty: then it runs elsewhere, without its context")
    world.apply(agent("a", context={"whenNodeLost": "StartEmpty"})).settle()
    assert world.status("a")["nodeName"] == "n2"


def test_an_empty_context_keeps_nobody_waiting():
    world = World().node("n1").apply(agent("a", context={"whenNodeLost": "Wait"})).settle()
    facts(world, items=0).node("n2", cpu="64")
    world.apply(agent("a", operatingMode="Stopped", context={"whenNodeLost": "Wait"})).settle()
    world.apply(agent("a", context={"whenNodeLost": "Wait"})).settle()
    assert world.status("a")["nodeName"] == "n2"

"""Whatever people write, one thing after the other: on the node there is what the orders say, a second look changes nothing, what was
wrong is mended by undoing it, and when all of it is deleted nothing is left there."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aios_bench.faults.node.checker import judge
from aios_kube import resources
from aios_operator.decide.views import Key
from faults.whole_node import NS, WholeNode
from node.conftest import missing
from node.played import cgroup_root
from node.support import eventually, make_hook, settings_in, short_directory
from property.declared import AGENTS, BINDINGS, BROKEN, QUOTAS

EXAMPLES = 40 if os.environ.get("AIOS_SEARCH") else 4
Step = tuple[str, str, Any, str | None]
NAMES, APPS = st.sampled_from(["a", "b", "c"]), st.sampled_from(["coder", "writer"])
AGENT = st.tuples(st.just("agent"), NAMES, AGENTS, APPS)
BINDING = st.tuples(st.just("binding"), st.sampled_from(["x", "y"]), BINDINGS, st.none())
STEP = st.one_of(
    AGENT,
    BINDING,
    st.tuples(st.just("quota"), st.just("q"), QUOTAS, st.none()),
    st.tuples(st.just("gone"), NAMES, st.none(), st.none()),
    st.tuples(st.just("broken and undone"), NAMES, st.sampled_from(BROKEN[resources.AGENTS]), st.none()),
)
STORY: st.SearchStrategy[list[Step]] = st.tuples(st.tuples(BINDING, AGENT, AGENT).map(list), st.lists(STEP, min_size=1, max_size=4)).map(
    lambda parts: parts[0] + parts[1]
)
ABSENT = dict.fromkeys(("gpu", "expose", "context", "activeDeadlineSeconds"))
KINDS = {"quota": resources.GPU_QUOTAS, "binding": resources.TOOL_BINDINGS}


@pytest.mark.timeout(600)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not os.environ.get("AIOS_SEARCH"),
    phases=(Phase.explicit, Phase.generate),  # each step is real work: what fails is told as it is
    suppress_health_check=list(HealthCheck),
)
@given(STORY)
def test_the_node_has_what_is_declared_after_each_change_and_nothing_at_the_end(steps: list[Step]) -> None:
    if reason := missing() or ("this machine lets nobody make cgroups" if cgroup_root() is None else None):
        pytest.skip(reason)
    asyncio.run(live(steps))


async def live(steps: list[Step]) -> None:
    with short_directory() as directory:
        quick = {"leftover_seconds": 0.05, "inspection_seconds": 0.5, "sweep_seconds": 0.5}
        node = WholeNode(settings_in(directory, make_hook(directory), **quick))
        async with node.working():
            for kind, name, spec, app in steps:
                await change(node, kind, name, spec, app)
                await is_as_declared(node)
            await all_goes(node)


async def change(node: WholeNode, kind: str, name: str, spec: Any, app: str | None) -> None:
    key, found = Key(NS, name), node.cluster.peek(resources.AGENTS, name, NS)
    if kind == "agent":
        node.world.label(node.world.apply(name, **{**ABSENT, **spec}), app=app)
    elif kind in KINDS:
        node.world.declare(KINDS[kind], name, spec)
    elif found is not None and kind == "gone":
        await node.world.delete(key)
    elif found is not None:
        before = booked(node)
        node.world.declare(resources.AGENTS, name, {**found["spec"], **spec})
        await node.settle()
        node.world.declare(resources.AGENTS, name, found["spec"])
        await node.settle()
        assert booked(node) == before, "undoing gives back what was"
    await node.settle()


async def is_as_declared(node: WholeNode) -> None:
    """What the node has is what the orders of Agents that are Ready say; looked at again, nothing is written anywhere."""
    found = judge(node.held(), await node.look())
    assert not found.broken, found.notes
    ready = [each for each in node.cluster.all(resources.AGENTS) if ("Ready", "True") in conditions(each)]
    assert sorted(each["metadata"]["name"] for each in ready) == sorted(
        s.name.rpartition("-")[0] for s in node.sandboxes.values() if s.runs
    )
    served = {each["metadata"]["name"] for each in ready}
    for order in [each for each in node.cluster.all(resources.AGENT_RUNTIMES) if each["metadata"]["name"] in served]:
        wanted, said = order["spec"].get("egress"), order["status"]
        assert wanted is None or said["egress"]["policyDigest"] == wanted["digest"], "the policy that is ordered is in force"
        assert {each["port"] for each in said.get("exposed") or ()} == {each["port"] for each in order["spec"].get("expose") or ()}
    assert {s.claim_uid for s in node.sandboxes.values()} == {c["metadata"]["uid"] for c in node.cluster.all(resources.RESOURCE_CLAIMS)}
    before = node.state(), node.files()
    node.world.loop.sweep()
    await node.settle()
    assert (node.state(), node.files()) == before, "a second look writes nothing"


async def all_goes(node: WholeNode) -> None:
    """Everything is deleted. A context stays where its spec does not ask for its erasure."""
    uids = {each["metadata"]["uid"] for each in node.cluster.all(resources.AGENTS)}
    had, erased = node.contexts(), {each["metadata"]["uid"] for each in node.cluster.all(resources.AGENTS) if erases(each)}
    for kind in KINDS.values():
        for each in node.cluster.all(kind):
            node.cluster.remove(kind, each["metadata"]["name"], NS)
    for each in node.cluster.all(resources.AGENTS):
        await node.world.delete(Key(NS, each["metadata"]["name"]))
    await node.settle()
    assert node.left() == []
    assert node.files() == {}
    found = judge({}, await node.look())
    assert not found.broken, found.notes
    await eventually(lambda: not node.contexts() & erased)
    assert node.contexts() & uids == (had & uids) - erased


def booked(node: WholeNode) -> dict[str, int]:
    """By Agent, in bytes. Which attempt holds it may have become another."""
    return {held.agent: held.booked_bytes for held in node.held().values()}


def conditions(agent: Any) -> list[tuple[str, str]]:
    return [(each["type"], each["status"]) for each in agent["status"]["conditions"]]


def erases(agent: Any) -> bool:
    return (agent["spec"].get("context") or {}).get("reclaim") == "Erase"

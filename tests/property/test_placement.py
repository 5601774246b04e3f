"""Placement over arbitrary clusters: nothing is given out twice, the fit is the best one, and what a refusal advises helps."""

import re
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_api.quantity import mebibytes, parse_bytes, parse_milli
from aios_operator.decide import effects as do
from aios_operator.decide import placement
from aios_operator.decide.cluster import plan_cluster
from aios_operator.decide.states import Refusal
from aios_operator.decide.views import Key
from unit.decide.world import H100, NAMESPACE, Object, World, agent

GI = 1024
PROFILE = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

sizes = st.sampled_from([1, 5, 16, 24, 40, 79, 80, 141])
gpus = st.lists(st.sampled_from([16, 24, 80, 141]), max_size=3)
nodes = st.lists(
    st.fixed_dictionaries(
        {"gpus": gpus, "cpu": st.sampled_from(["1", "2", "16"]), "memory": st.sampled_from(["2Gi", "64Gi"]), "slots": st.integers(0, 6)}
    ),
    min_size=1,
    max_size=4,
)
shapes = st.fixed_dictionaries(
    {
        "memory": st.none() | sizes.map(lambda size: f"{size}Gi"),
        "cpu": st.sampled_from(["0", "600m", "1"]),
        "ram": st.sampled_from(["0", "1536Mi", "1Gi"]),
        "models": st.none() | st.sampled_from([[H100], ["NVIDIA Nothing 9000"], ["NVIDIA Nothing 9000", H100]]),
    },
)


def an_agent(name: str, shape: dict[str, Any]) -> Object:
    return agent(name, shape["memory"], shape["models"], cpu=shape["cpu"], ram=shape["ram"])


def a_cluster(offered: list[dict[str, Any]]) -> World:
    world = World()
    for n, each in enumerate(offered):
        uuids = {f"GPU-{n}-{g}": f"{size}Gi" for g, size in enumerate(each["gpus"])}
        world.node(f"n{n}", uuids, cpu=each["cpu"], memory=each["memory"], slots=each["slots"])
    return world


def waiting(world: World, *names: str) -> list[do.Effect]:
    """The finalizers are there; what the cluster planner says to these Agents."""
    keys = [Key(NAMESPACE, name) for name in names]
    return plan_cluster(world.cluster(keys), world.now)


@PROFILE
@given(nodes, st.lists(shapes, min_size=1, max_size=8))
def test_one_cycle_gives_nothing_out_twice_and_each_gets_the_best_fit(offered: list[dict[str, Any]], wanted: list[dict[str, Any]]):
    world = a_cluster(offered).apply(*(an_agent(f"a{i}", shape) for i, shape in enumerate(wanted)))
    free = {(f"n{n}", f"GPU-{n}-{g}"): size * GI for n, each in enumerate(offered) for g, size in enumerate(each["gpus"])}
    room = {f"n{n}": [each["slots"], parse_milli(each["cpu"]), parse_bytes(each["memory"])] for n, each in enumerate(offered)}
    for effect in waiting(world, *(f"a{i}" for i in range(len(wanted)))):
        if not isinstance(effect, do.ApplyRuntime):
            continue
        order, node = effect.body["spec"], effect.body["spec"]["nodeName"]
        shape = wanted[int(effect.key.name[1:])]
        needs = [1, parse_milli(shape["cpu"]), parse_bytes(shape["ram"])]
        able = {name for name, has in room.items() if all(n <= h for n, h in zip(needs, has, strict=True))}
        assert node in able
        room[node] = [h - n for n, h in zip(needs, room[node], strict=True)]
        assert ("gpu" in order) == (shape["memory"] is not None)
        if "gpu" in order:
            uuid, size = order["gpu"]["uuid"], mebibytes(order["gpu"]["memory"])
            assert size == mebibytes(shape["memory"])
            assert free[node, uuid] == min(left for (name, _), left in free.items() if name in able and left >= size)
            free[node, uuid] -= size


@PROFILE
@given(nodes, st.lists(shapes, max_size=5), shapes, st.integers(0, 3))
def test_the_node_of_a_context_is_taken_whenever_it_would_do_and_decides_nothing_else(
    offered: list[dict[str, Any]], residents: list[dict[str, Any]], shape: dict[str, Any], number: int
):
    world = a_cluster(offered).apply(*(an_agent(f"r{i}", each) for i, each in enumerate(residents))).settle()
    world.apply(an_agent("a", shape))
    near = f"n{number}"
    key = Key(NAMESPACE, "a")
    board = placement.Board.of(world.cluster([key]))
    a = world.state(key).agent
    assert a is not None
    only = placement.place(placement.search(a, board, (), world.now, home=near))
    freely = placement.place(placement.search(a, board, (), world.now))
    assert placement.place(placement.search(a, board, (), world.now, near=near)) == (freely if isinstance(only, Refusal) else only)


@PROFILE
@given(nodes, st.lists(shapes, max_size=5), shapes)
def test_following_what_refusals_advise_leads_to_a_place(
    offered: list[dict[str, Any]], residents: list[dict[str, Any]], shape: dict[str, Any]
):
    world = a_cluster(offered).apply(*(an_agent(f"r{i}", each) for i, each in enumerate(residents))).settle()
    world.apply(an_agent("a", shape))
    for _ in range(8):
        effects = [e for e in waiting(world, "a") if isinstance(e, do.ApplyRuntime | do.Wait)]
        if any(isinstance(effect, do.ApplyRuntime) for effect in effects):
            return
        (wait,) = effects
        assert isinstance(wait, do.Wait)
        assert wait.refusal is not None
        if not advised(world, wait.refusal):
            return
    raise AssertionError(f"following the advice did not help; the last was {wait.refusal}")


def advised(world: World, refusal: Refusal) -> bool:
    """Does to Agent `a` what the refusal advises; False when that is not a change of its spec."""
    change = refusal.smallest_change
    spec = world.get("Agent", "a")["spec"]
    container = {**spec["template"]["spec"]["containers"][0]}
    requests = dict((container.get("resources") or {}).get("requests") or {})
    if found := re.match(r"lower spec\.gpu\.memory to (\w+)", change):
        assert mebibytes(found[1]) < mebibytes(spec["gpu"]["memory"]), "a smaller share was advised"
        world.patch("a", gpu={**spec["gpu"], "memory": found[1]})
        return True
    if found := re.match(r"add (.+) to spec\.gpu\.models", change):
        world.patch("a", gpu={**spec["gpu"], "models": [*spec["gpu"]["models"], found[1]]})
        return True
    if found := re.match(r"lower the (CPU|memory) that the template requests to (\w+) in all", change):
        requests["cpu" if found[1] == "CPU" else "memory"] = found[2]
        world.patch("a", template={"spec": {"containers": [{**container, "resources": {"requests": requests}}]}})
        return True
    assert re.match(r"stop|add a node|free .* or add a node", change), refusal
    return False


actions = st.one_of(
    st.tuples(st.just("apply"), st.integers(0, 5), shapes),
    st.tuples(st.just("delete"), st.integers(0, 5), st.just({})),
    st.tuples(st.just("stop"), st.integers(0, 5), st.just({})),
    st.tuples(st.just("kill"), st.integers(0, 5), st.just({})),
    st.tuples(st.just("round"), st.integers(0, 3), st.just({})),
    st.tuples(st.just("pass"), st.integers(1, 60), st.just({})),
)


def act(world: World, what: str, number: int, shape: dict[str, Any]) -> None:
    name = f"a{number}"
    there = world.find("Agent", name)
    if what == "apply" and (there is None or "deletionTimestamp" not in there["metadata"]):
        world.apply(an_agent(name, shape))
    elif what == "delete":
        world.delete("Agent", name)
    elif what == "stop" and there is not None:
        world.patch(name, operatingMode="Stopped")
    elif what == "kill":
        for pod in world.names("Pod"):
            if pod.startswith(f"{name}-"):
                world.delete("Pod", pod)
    elif what == "round":
        for _ in range(number):
            world.operate()
            world.others()
    elif what == "pass":
        world.now += timedelta(seconds=number)


@PROFILE
@given(nodes, st.lists(actions, max_size=25))
def test_whatever_happens_what_was_given_out_is_there_when_kube_scheduler_books_it(
    offered: list[dict[str, Any]], story: list[tuple[str, int, dict[str, Any]]]
):
    world = a_cluster(offered)
    for action in story:
        act(world, *action)
        world.operate()
        attempts = [pod["metadata"]["labels"]["aios.dev/agent"] for pod in world.all("Pod")]
        assert len(attempts) == len(set(attempts)), "never two pods of one Agent"
    world.settle()
    assert world.no_room == []
    assert world.operate() == 0
    capacity = {f"gpu-gpu-{n}-{g}": size * GI for n, each in enumerate(offered) for g, size in enumerate(each["gpus"])}
    assert all(booked <= capacity[device] for device, booked in world.booked().items())
    board = placement.Board.of(world.cluster([]))
    assert all(left >= 0 for place in board.places.values() for left in (*place.free_mebibytes.values(), place.free_slots))
    assert all(min(place.free.cpu_milli, place.free.memory_bytes, place.free.pods) >= 0 for place in board.places.values())

"""Store, planners and executor together: what an Agent's life looks like to the API server, and what goes wrong on the way."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from aios_api.names import FINALIZER
from aios_kube import resources
from aios_kube.errors import ApiError, Conflict, Forbidden, Invalid, Unreachable
from aios_kube.fake import Call, Hook
from unit.operator.world import GPU, World


def failing(verb: str, resource: resources.Resource, error: ApiError, times: int = 1) -> Hook:
    left = [times]

    def hook(call: Call) -> ApiError | None:
        if (call.verb, call.resource) != (verb, resource) or not left[0]:
            return None
        left[0] -= 1
        return error

    return hook


async def test_an_agent_gets_an_order_a_claim_a_pod_and_becomes_ready():
    world = World()
    world.node()
    key = world.apply("a", "24Gi")
    await world.running()
    assert [(call.verb, call.resource.kind, call.name) for call in world.cluster.writes() if call.verb == "create"] == [
        ("create", "NetworkPolicy", "aios-agents"),
        ("create", "AgentRuntime", "a"),
        ("create", "ResourceClaim", "a-1"),
        ("create", "Pod", "a-1"),
    ]
    assert world.condition(key, "Ready")[0] == "True"
    assert world.agent(key)["status"]["gpu"]["memory"] == "24Gi"


async def test_at_rest_nothing_is_written():
    world = World()
    world.node()
    world.apply("a", "24Gi")
    world.apply("b")
    world.apply("too-large", "100Gi")
    world.apply("stopped", operatingMode="Stopped")
    await world.running()
    mark = world.mark
    world.loop.sweep()
    await world.settled(forward_seconds=1)
    world.operator()  # a new process lists everything anew
    await world.settled()
    world.loop.sweep()
    await world.settled(forward_seconds=700)
    assert world.writes_since(mark) == []


async def test_a_heartbeat_of_a_node_plans_nothing():
    world = World()
    world.node()
    world.apply("waits", "100Gi")
    await world.running()
    world.cluster.alter(resources.NODES, "n1", {"metadata": {"annotations": {"heartbeat": "1"}}})
    world.deliver()
    assert not world.store.cluster_dirty
    assert not world.store.dirty


async def test_a_deleted_agent_takes_everything_with_it_and_its_namespace_loses_the_policy():
    world = World()
    world.node()
    key = world.apply("a", "24Gi")
    await world.running()
    assert FINALIZER in world.agent(key)["metadata"]["finalizers"]
    await world.delete(key)
    await world.running()
    for resource in (resources.AGENTS, resources.AGENT_RUNTIMES, resources.RESOURCE_CLAIMS, resources.PODS, resources.NETWORK_POLICIES):
        assert world.cluster.all(resource) == [], resource.kind
    assert world.loop._orders == {}
    assert world.store.keys() == set()


async def test_two_agents_never_get_the_same_bytes_even_in_one_cycle():
    world = World()
    world.node(gpu="80Gi")
    keys = [world.apply(name, "50Gi") for name in ("a", "b")]
    await world.running()
    assert sorted(world.condition(key, "Placed")[0] for key in keys) == ["False", "True"]


async def test_room_that_comes_free_goes_to_the_one_who_waits():
    world = World()
    world.node(gpu="80Gi")
    first = world.apply("a", "50Gi")
    await world.running()
    second = world.apply("b", "50Gi")
    await world.running()
    assert world.condition(second, "Placed") == ("False", "NoGPUFits")
    await world.delete(first)
    await world.running()
    assert world.condition(second, "Ready")[0] == "True"


async def test_who_waits_is_woken_once_however_often_what_is_free_changes():
    world = World()
    world.node(gpu="80Gi")
    world.apply("a", "70Gi")
    await world.running()
    world.apply("b", "50Gi")
    await world.running()
    for size in range(20):
        world.cluster.alter(resources.NODES, "n1", {"metadata": {"labels": {"changes": str(size)}}})
        world.node(gpu=f"{81 + size}Gi")
        world.store.cluster_dirty = True
        await world.settled(forward_seconds=0.1)
    assert len(world.loop._timers) == 1


async def test_an_agent_that_gives_up_its_gpu_is_ordered_without_one():
    world = World()
    world.node()
    key = world.apply("a", "24Gi")
    await world.running()
    world.cluster.alter(resources.AGENTS, "a", {"spec": {"gpu": None}}, "ns")
    await world.running()
    order = world.cluster.peek(resources.AGENT_RUNTIMES, "a", "ns")
    assert order is not None
    assert (order["spec"]["attempt"], order["spec"].get("gpu")) == (2, None)
    assert world.condition(key, "Ready")[0] == "True"
    assert [pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)] == ["a-2"]


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("patch", resources.AGENTS),
        ("create", resources.AGENT_RUNTIMES),
        ("create", resources.RESOURCE_CLAIMS),
        ("create", resources.PODS),
        ("create", resources.NETWORK_POLICIES),
    ],
)
@pytest.mark.parametrize("where", ["refuse", "lose"])
async def test_a_write_that_fails_or_whose_answer_is_lost_is_made_good(verb: str, resource: resources.Resource, where: str):
    world = World()
    world.node()
    key = world.apply("a", "24Gi")
    getattr(world.cluster, where).append(failing(verb, resource, Unreachable("cut")))
    for _ in range(4):
        await world.running()
        world.now = world.now.replace(second=world.now.second + 5)
    assert world.condition(key, "Ready")[0] == "True"
    assert [pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)] == ["a-1"]


async def test_a_new_process_continues_from_any_point():
    stop_at = 0
    while True:
        world = World()
        world.node()
        key = world.apply("a", "24Gi")
        left = [stop_at]

        def crash(call: Call, left: list[int] = left) -> ApiError | None:
            if call.writes:
                left[0] -= 1
            return Unreachable("the process is gone") if call.writes and left[0] < 0 else None

        world.cluster.refuse.append(crash)
        await world.settled()
        crashed = left[0] < 0
        world.cluster.refuse.clear()
        world.operator()
        await world.running()
        assert world.condition(key, "Ready")[0] == "True", f"after a crash at write {stop_at}"
        assert [pod["metadata"]["name"] for pod in world.cluster.all(resources.PODS)] == ["a-1"]
        if not crashed:
            return
        stop_at += 1


async def test_an_invalid_pod_is_not_tried_again_until_the_template_changes():
    world = World()
    world.node()
    key = world.apply("a")
    world.cluster.refuse.append(failing("create", resources.PODS, Invalid("spec.containers[0].image: Required value", code=422), times=99))
    await world.running()
    await world.settled(forward_seconds=120)
    assert world.condition(key, "Accepted") == ("False", "TemplateRefused")
    tries = [call for call in world.cluster.writes() if call.verb == "create" and call.resource == resources.PODS]
    assert len(tries) == 1
    world.cluster.refuse.clear()
    world.apply("a", template={"spec": {"containers": [{"name": "main", "image": "localhost/other:1"}]}})
    await world.running()
    assert world.condition(key, "Ready")[0] == "True"


async def test_a_forbidden_pod_is_explained_and_tried_again_ever_more_rarely():
    world = World()
    world.node()
    key = world.apply("a")
    world.cluster.refuse.append(failing("create", resources.PODS, Forbidden("exceeded quota: compute", code=403), times=99))
    await world.running()
    for _ in range(60):
        await world.settled(forward_seconds=1)
    assert world.condition(key, "Ready") == ("False", "Forbidden")
    tries = [call for call in world.cluster.writes() if call.verb == "create" and call.resource == resources.PODS]
    assert 4 <= len(tries) <= 9
    world.cluster.refuse.clear()
    await world.settled(forward_seconds=60)
    await world.running()
    assert world.condition(key, "Ready")[0] == "True"


async def test_a_pod_of_somebody_else_that_has_our_name_is_left_alone():
    world = World()
    world.node()
    key = world.apply("a")
    world.cluster.put(resources.PODS, {"metadata": {"namespace": "ns", "name": "a-1"}, "spec": {"containers": []}})
    await world.running()
    for _ in range(6):
        await world.settled(forward_seconds=5)
        await world.running()
    theirs = world.cluster.peek(resources.PODS, "a-1", "ns")
    assert theirs is not None
    assert "deletionTimestamp" not in theirs["metadata"]
    assert world.condition(key, "Ready")[0] == "True"
    assert world.agent(key)["status"]["podName"] == "a-2"


async def test_an_agent_recreated_under_its_name_starts_from_its_own_uid():
    world = World()
    world.node()
    world.apply("a", "24Gi")
    await world.running()
    # Behind our back: the finalizer was removed by hand, and the Agent made anew before we looked.
    world.cluster.remove(resources.AGENTS, "a", "ns")
    key = world.apply("a", "10Gi")
    await world.settled()
    for resource in (resources.AGENT_RUNTIMES, resources.RESOURCE_CLAIMS):  # garbage collection
        for left in world.cluster.all(resource):
            world.cluster.remove(resource, left["metadata"]["name"], "ns")
    await world.running()
    assert world.condition(key, "Ready")[0] == "True"
    order = world.cluster.peek(resources.AGENT_RUNTIMES, "a", "ns")
    assert order is not None
    assert order["spec"]["agentUID"] == world.agent(key)["metadata"]["uid"]


async def test_a_policy_that_was_opened_is_closed_again():
    world = World()
    world.node()
    world.apply("a")
    await world.running()
    world.cluster.alter(resources.NETWORK_POLICIES, "aios-agents", {"spec": {"egress": [{}]}}, "ns")
    await world.settled()
    policy = world.cluster.peek(resources.NETWORK_POLICIES, "aios-agents", "ns")
    assert policy is not None
    assert "egress" not in policy["spec"]


@pytest.mark.usefixtures("errors_expected")
async def test_one_agent_that_no_planner_can_take_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, caplog: Any):
    from aios_operator import loop

    real = loop.plan_agent

    def odd(state: Any, now: Any) -> Any:
        if state.key.name == "odd":
            raise ZeroDivisionError
        return real(state, now)

    monkeypatch.setattr(loop, "plan_agent", odd)
    world = World()
    world.node()
    world.apply("odd")
    key = world.apply("a")
    await world.running()
    assert world.condition(key, "Ready")[0] == "True"
    assert "ns/odd can't be planned" in caplog.text


async def test_a_conflict_teaches_the_store_what_is_there():
    world = World()
    world.node()
    key = world.apply("a")
    world.deliver()
    seen = world.store.agents.views[key]
    world.cluster.alter(resources.AGENTS, "a", {"metadata": {"finalizers": ["example.org/theirs"]}}, "ns")
    await world.loop.settle()  # plans from the old picture
    assert world.store.agents.views[key] != seen
    await world.settled(forward_seconds=5)
    assert world.agent(key)["metadata"]["finalizers"] == ["example.org/theirs", FINALIZER]


async def test_metrics_tell_what_is_booked_and_who_waits():
    world = World()
    world.metrics.watch_store(world.store, lambda: world.now)
    world.node(gpu="80Gi")
    world.apply("a", "24Gi")
    world.apply("b", "100Gi")
    await world.running()
    read = world.metrics.registry.get_sample_value
    gpu = {"node": "n1", "gpu": GPU}
    assert read("aios_operator_gpu_vram_capacity_bytes", gpu) == 80 << 30
    assert read("aios_operator_gpu_vram_booked_bytes", gpu) == 24 << 30
    assert read("aios_operator_agents", {"condition": "Ready", "status": "True"}) == 1
    assert read("aios_operator_agents_in", {"queue": "waiting"}) == 1
    assert read("aios_operator_decisions_total", {"outcome": "LargerThanAnyGPU"}) >= 1
    assert read("aios_operator_queue_seconds_count") >= 2
    assert b"aios_operator_cycle_seconds_bucket" in world.metrics.exposition()
    world.now += timedelta(minutes=3)
    assert read("aios_operator_longest_wait_seconds", {"reason": "LargerThanAnyGPU"}) == 180


async def test_writes_are_bounded():
    world = World()
    world.loop.settings = dataclasses.replace(world.loop.settings, concurrent_writes=1)
    world.loop.__post_init__()
    at_once: list[int] = []
    inside = [0]
    real = world.loop.executor.perform

    async def perform(effect: Any) -> None:
        inside[0] += 1
        at_once.append(inside[0])
        await real(effect)
        inside[0] -= 1

    world.loop.executor.perform = perform  # type: ignore[method-assign]
    world.node()
    for number in range(5):
        world.apply(f"a{number}")
    await world.running()
    assert max(at_once) == 1


async def test_conflicts_of_two_operators_end_in_one_order():
    world = World()
    world.node()
    key = world.apply("a", "24Gi")
    world.cluster.refuse.append(failing("patch", resources.AGENTS, Conflict("someone was faster", code=409)))
    await world.running()
    await world.settled(forward_seconds=5)
    await world.running()
    assert world.condition(key, "Ready")[0] == "True"

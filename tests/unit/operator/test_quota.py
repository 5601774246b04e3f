"""Quota in the running operator: what a burst, a change and a deletion lead to on the API, and what is written at rest."""

import asyncio
from typing import Any

import pytest

from aios_kube import resources
from aios_operator.decide.views import Key
from unit.operator.world import World


def with_quota(memory: str) -> World:
    world = World()
    world.node()
    world.cluster.put(resources.GPU_QUOTAS, {"metadata": {"namespace": "ns", "name": "quota"}, "spec": {"memory": {"nominal": memory}}})
    return world


def reserved(world: World) -> dict[str, object]:
    found = world.cluster.peek(resources.GPU_QUOTAS, "quota", "ns")
    assert found is not None
    amount: dict[str, object] = found["status"]["reserved"]
    return amount


async def test_a_burst_takes_no_more_than_is_granted_and_the_status_of_the_quota_follows():
    world = with_quota("12Gi")
    keys = [world.apply(f"a{i:02}", "1Gi") for i in range(20)]
    await world.running()
    await world.settled(forward_seconds=2)
    said = [world.condition(key, "QuotaReserved") for key in keys]
    assert said == [("True", "QuotaReserved")] * 12 + [("False", "QuotaExhausted")] * 8
    assert reserved(world) == {"memory": "12Gi", "agents": 12}
    assert len([c for c in world.cluster.writes() if c.resource == resources.GPU_QUOTAS]) <= 3
    metrics = world.metrics
    metrics.watch_store(world.store, lambda: world.now)
    assert b'aios_operator_quota_memory_bytes{amount="waiting",namespace="ns"} 8.589934592e+09' in metrics.exposition()


async def test_at_rest_nothing_is_written_and_neither_by_the_next_process():
    world = with_quota("1Gi")
    world.apply("a", "1Gi")
    world.apply("b", "1Gi")
    await world.running()
    await world.settled(forward_seconds=20)
    mark = world.mark
    world.loop.sweep()
    await world.settled(forward_seconds=20)
    world.operator()
    await world.settled()
    world.loop.sweep()
    await world.settled(forward_seconds=700)
    assert world.writes_since(mark) == []


async def test_quota_that_is_given_back_or_raised_goes_to_who_waits():
    world = with_quota("1Gi")
    world.apply("a", "1Gi")
    world.apply("b", "1Gi")
    world.apply("c", "1Gi")
    await world.running()
    await world.delete(Key("ns", "a"))
    await world.running()
    assert world.condition(Key("ns", "b"), "Ready")[0] == "True"
    world.cluster.alter(resources.GPU_QUOTAS, "quota", {"spec": {"memory": {"nominal": "2Gi"}}}, "ns")
    await world.running()
    assert world.condition(Key("ns", "c"), "Ready")[0] == "True"


async def test_namespaces_do_not_share_a_quota():
    world = with_quota("1Gi")
    key = world.apply("a", "16Gi", namespace="other")
    await world.running()
    assert world.condition(key, "QuotaReserved") == ("True", "NoQuota")


async def test_who_is_written_while_places_are_given_keeps_its_turn():
    world, first, second = with_quota("1Gi"), Key("ns", "a"), Key("ns", "b")
    perform, answered = world.loop.executor.perform, asyncio.Event()

    async def slow_for_the_first(effect: Any) -> None:
        if getattr(effect, "key", None) == first:
            await answered.wait()
        await perform(effect)

    world.loop.executor.perform = slow_for_the_first  # type: ignore[method-assign]
    world.apply("a", "1Gi")
    world.apply("b", "1Gi")
    for _ in range(20):
        world.deliver()
        world.loop.turn()
        await asyncio.sleep(0.001)
    assert world.cluster.all(resources.AGENT_RUNTIMES) == []
    answered.set()
    await world.running()
    assert world.condition(first, "QuotaReserved") == ("True", "QuotaReserved")
    assert world.condition(second, "QuotaReserved") == ("False", "QuotaExhausted")


@pytest.mark.parametrize("change", [{"priority": "high"}, {"operatingMode": "Stopped"}], ids=["can not be read", "is stopped"])
async def test_who_waits_hears_that_one_who_was_ahead_waits_no_more(change: dict[str, Any]):
    world = with_quota("40Gi")
    first = world.apply("a", "80Gi")
    await world.running()
    behind = world.apply("b", "80Gi")
    await world.running()
    assert "spec.memory.nominal to 160Gi" in world.agent(behind)["status"]["pending"]["smallestChange"]
    world.cluster.alter(resources.AGENTS, first.name, {"spec": change}, first.namespace)
    await world.running()
    await world.settled(forward_seconds=10)  # what is told no sooner than a moment after the last time is told
    assert "spec.memory.nominal to 80Gi" in world.agent(behind)["status"]["pending"]["smallestChange"]

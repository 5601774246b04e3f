"""What gateways are told of the cluster's own public addresses, on a cluster in memory."""

from typing import Any

from aios_api import names
from aios_kube import resources
from aios_kube.errors import Unreachable
from aios_operator.observe import ranges
from unit.operator.test_loop import failing
from unit.operator.world import World

RELEASE = "aios-system"


def installed() -> World:
    """An operator of a release whose chart has made the ConfigMap."""
    world = World(lease_namespace=RELEASE)
    world.cluster.put(resources.CONFIG_MAPS, {"metadata": {"name": names.CLUSTER_RANGES, "namespace": RELEASE}})
    return world


def told(world: World) -> list[str] | None:
    found = world.cluster.peek(resources.CONFIG_MAPS, names.CLUSTER_RANGES, RELEASE)
    assert found is not None
    return found["data"][names.CLUSTER_RANGES_KEY].split() if "data" in found else None


def public(world: World, name: str, *addresses: str, **spec: Any) -> None:
    world.node(name)
    found = [{"type": "ExternalIP", "address": each} for each in addresses]
    world.cluster.alter(resources.NODES, name, {"spec": spec, "status": {"addresses": found}})


async def read(world: World) -> None:
    await ranges.read(world.cluster, world.store.ranges, RELEASE)


async def test_where_all_addresses_are_private_nothing_is_written():
    world = installed()
    public(world, "n1", "10.0.0.1", podCIDRs=["10.244.0.0/24"])
    world.cluster.put(resources.SERVICE_CIDRS, {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}})
    await read(world)
    await world.settled()
    assert told(world) is None


async def test_what_is_public_is_told_and_follows_the_nodes():
    world = installed()
    world.cluster.put(resources.SERVICE_CIDRS, {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["198.51.100.0/24"]}})
    public(world, "n1", "203.0.113.7", podCIDRs=["2001:db8::/64"])
    await read(world)
    await world.settled()
    assert told(world) == ["198.51.100.0/24", "203.0.113.7/32", "2001:db8::/64"]
    public(world, "n2", "203.0.113.8")
    await world.settled(forward_seconds=10)
    assert told(world) == ["198.51.100.0/24", "203.0.113.7/32", "203.0.113.8/32", "2001:db8::/64"]
    mark = world.mark
    world.operator()
    await read(world)
    await world.settled(forward_seconds=700)
    assert world.writes_since(mark) == [], "a new process that finds it so writes nothing"


async def test_what_somebody_else_wrote_there_is_put_right():
    world = installed()
    public(world, "n1", "203.0.113.7")
    await read(world)
    await world.settled()
    world.cluster.alter(resources.CONFIG_MAPS, names.CLUSTER_RANGES, {"data": {names.CLUSTER_RANGES_KEY: ""}}, RELEASE)
    await read(world)
    await world.settled(forward_seconds=10)
    assert told(world) == ["203.0.113.7/32"]


async def test_a_write_that_fails_is_made_again():
    world = installed()
    public(world, "n1", "203.0.113.7")
    await read(world)
    world.cluster.refuse.append(failing("patch", resources.CONFIG_MAPS, Unreachable("cut off")))
    await world.settled()
    assert told(world) is None
    await world.settled(forward_seconds=60)
    assert told(world) == ["203.0.113.7/32"]


async def test_a_config_map_that_somebody_removed_is_missed_in_the_log_and_holds_up_nobody(caplog):
    world = World(lease_namespace=RELEASE)
    public(world, "n1", "203.0.113.7")
    await read(world)
    key = world.apply("a")
    await world.running()
    assert world.condition(key, "Ready")[0] == "True"
    assert "address ranges of the cluster: " in caplog.text


async def test_without_a_namespace_of_ours_nobody_is_told():
    world = World()
    public(world, "n1", "203.0.113.7")
    await world.settled(forward_seconds=10)
    assert [call for call in world.cluster.writes() if call.resource is resources.CONFIG_MAPS] == []

"""What an Agent exposes: Service, NetworkPolicy and order follow the spec, within the attempt, and are given back."""

from typing import Any

import pytest

from aios_api import names
from aios_kube import resources
from aios_kube.errors import Forbidden
from aios_operator.decide.views import Key
from unit.operator.world import Object, World

WEB = Key("ns", "web")
HTTP, DNS = {"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}


@pytest.fixture
async def world() -> World:
    world = World()
    world.node()
    world.apply("web", expose=[HTTP])
    await world.running()
    return world


def service(world: World) -> Object | None:
    return world.cluster.peek(resources.SERVICES, "web", "ns")


def policy(world: World) -> Object | None:
    return world.cluster.peek(resources.NETWORK_POLICIES, "aios-expose-web", "ns")


def order(world: World) -> Object:
    found = world.cluster.peek(resources.AGENT_RUNTIMES, "web", "ns")
    assert found is not None
    spec: Object = found["spec"]
    return spec


async def test_service_policy_and_order_have_the_ports(world: World):
    found, let_in = service(world), policy(world)
    assert found is not None
    assert let_in is not None
    uid = world.agent(WEB)["metadata"]["uid"]
    pods = {names.LABEL_AGENT: "web", names.LABEL_AGENT_UID: uid}
    assert found["spec"]["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080, "targetPort": 8080}]
    assert found["spec"]["selector"] == let_in["spec"]["podSelector"]["matchLabels"] == pods
    assert let_in["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]
    assert order(world)["expose"] == [HTTP]
    for each in (found, let_in):
        assert [(o["kind"], o["uid"]) for o in each["metadata"]["ownerReferences"]] == [("Agent", uid)]
    assert world.condition(WEB, "Exposed") == ("True", "Exposed")


async def test_a_change_is_in_force_within_the_attempt(world: World):
    world.apply("web", expose=[DNS, HTTP])
    await world.running()
    found, let_in = service(world), policy(world)
    assert found is not None
    assert let_in is not None
    assert [(p["name"], p["protocol"]) for p in found["spec"]["ports"]] == [("dns", "UDP"), ("http", "TCP")]
    assert len(let_in["spec"]["ingress"][0]["ports"]) == 2
    assert order(world)["expose"] == [DNS, HTTP]
    assert world.agent(WEB)["status"]["attempt"] == 1


async def test_until_the_fence_is_open_the_port_is_not_said_to_be_exposed(world: World):
    world.fence_follows = False
    world.apply("web", expose=[HTTP, DNS])
    await world.running()
    assert world.condition(WEB, "Exposed") == ("False", "Exposing")
    world.fence_follows = True
    await world.running()
    assert world.condition(WEB, "Exposed") == ("True", "Exposed")
    world.fence_follows = False
    world.apply("web", operatingMode="Stopped")
    await world.running()
    assert world.condition(WEB, "Exposed") == ("True", "Exposed"), "Service and policy stay while it is stopped"


async def test_what_is_no_longer_exposed_is_gone(world: World):
    world.apply("web", expose=[])
    await world.running()
    assert (service(world), policy(world), order(world).get("expose")) == (None, None, None)
    assert "Exposed" not in [c["type"] for c in world.agent(WEB)["status"]["conditions"]]


async def test_what_someone_changed_or_removed_is_as_it_was(world: World):
    world.cluster.alter(
        resources.SERVICES, "web", {"spec": {"ports": [{"port": 22}], "selector": {"app": "x"}, "type": "LoadBalancer"}}, "ns"
    )
    world.cluster.remove(resources.NETWORK_POLICIES, "aios-expose-web", "ns")
    await world.running()
    found = service(world)
    assert found is not None
    assert found["spec"]["ports"][0]["port"] == 8080
    assert found["spec"]["type"] == "ClusterIP"
    assert found["spec"]["selector"].get(names.LABEL_AGENT) == "web"
    assert policy(world) is not None
    world.cluster.alter(resources.NETWORK_POLICIES, "aios-expose-web", {"spec": {"ingress": [{}]}}, "ns")
    await world.running()
    let_in = policy(world)
    assert let_in is not None
    assert let_in["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]


async def test_an_address_that_the_server_gave_stays(world: World):
    world.cluster.alter(resources.SERVICES, "web", {"spec": {"clusterIP": "10.96.0.7"}}, "ns")
    world.apply("web", expose=[DNS])
    await world.running()
    found = service(world)
    assert found is not None
    assert found["spec"]["clusterIP"] == "10.96.0.7"


async def test_a_service_of_somebody_else_is_left_alone_and_holds_nothing_up():
    world = World()
    world.node()
    theirs: Any = {"metadata": {"namespace": "ns", "name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}}}
    world.cluster.put(resources.SERVICES, theirs)
    world.apply("web", expose=[HTTP])
    await world.running()
    assert world.condition(WEB, "Ready") == ("True", "Ready")
    assert world.condition(WEB, "Exposed") == ("False", "NameTaken")
    found = service(world)
    assert found is not None
    assert found["spec"]["selector"] == {"app": "theirs"}
    world.cluster.remove(resources.SERVICES, "web", "ns")
    await world.settled(forward_seconds=120)
    assert world.condition(WEB, "Exposed") == ("True", "Exposed")


async def test_a_service_that_may_not_be_made_is_said(world: World):
    world.cluster.remove(resources.SERVICES, "web", "ns")
    refused = Forbidden("exceeded quota: services", code=403, reason="Forbidden")
    world.cluster.refuse.append(lambda call: refused if call.writes and call.resource == resources.SERVICES else None)
    await world.settled()
    assert world.condition(WEB, "Exposed") == ("False", "Forbidden")
    world.cluster.refuse.clear()
    await world.settled(forward_seconds=120)
    assert world.condition(WEB, "Exposed") == ("True", "Exposed")


async def test_an_agent_of_the_same_name_gets_its_own(world: World):
    before = service(world)
    assert before is not None
    await world.delete(WEB)
    await world.running()
    world.apply("web", expose=[HTTP])
    await world.running()
    found = service(world)
    assert found is not None
    assert found["metadata"]["uid"] != before["metadata"]["uid"]
    assert found["metadata"]["ownerReferences"][0]["uid"] == world.agent(WEB)["metadata"]["uid"]


async def test_a_deleted_agent_lets_nothing_be_made_anew(world: World):
    await world.delete(WEB)
    await world.running()
    world.cluster.remove(resources.SERVICES, "web", "ns") if service(world) else None
    mark = world.mark
    world.loop.sweep()
    await world.settled()
    assert world.writes_since(mark) == []


async def test_at_rest_nothing_is_written(world: World):
    mark = world.mark
    world.loop.sweep()
    await world.settled(forward_seconds=20)
    world.operator()
    await world.settled()
    await world.settled(forward_seconds=20)
    assert world.writes_since(mark) == []

"""What a node agent does about contexts that come and leave: what it tells its gateway, and when a claim may be prepared."""

import asyncio
from typing import Any

import pytest

from aios_api import names
from aios_sidecar.contracts.link import ContextDoor, FetchStage, MovedContext
from aios_sidecar.node.claims import ClaimRef, NotYet
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.settings import NodeSettings

ORIGIN = {"nodeName": "n1", "address": "10.0.0.1:9491", "certificate": "SOURCE", "receiver": "HERE"}
REF = ClaimRef("team", "coder-2", "claim")


def an_order(node: str = "n2", origin: dict[str, Any] | None = ORIGIN, status: dict[str, Any] | None = None, version: str = "1") -> Any:
    spec = {"agentUID": "6a9c", "attempt": 2, "templateDigest": "d", "nodeName": node, "claimName": "coder-2", "podName": "coder-2"}
    if origin is not None:
        spec["contextFrom"] = origin
    metadata = {"namespace": "team", "name": "coder", "uid": "runtime", "resourceVersion": version}
    return {"metadata": metadata, "spec": spec, "status": status or {}}


class Node:
    """The moves of node n2, as far as it has heard."""

    def __init__(self, node: str = "n2") -> None:
        self.mirror, self.leaving = Mirror(), Mirror()
        self.orders = Orders(self.mirror)
        self.moves = Moves(NodeSettings(node), self.orders, self.leaving)
        self._version = 0

    def hear(self, mirror: Mirror | None = None, **order: Any) -> None:
        self._version += 1
        (mirror or self.mirror).replace([an_order(version=str(self._version), **order)])

    @property
    def order(self) -> Any:
        return self.orders.all()[0]


async def test_a_copy_is_fetched_at_once_and_all_of_it_once_the_claim_waits_for_it():
    node = Node()
    node.hear()
    fetch = node.moves.fetches()["6a9c"]
    assert (fetch.node, fetch.address, fetch.certificate, fetch.stage) == ("n1", "10.0.0.1:9491", "SOURCE", FetchStage.COPY)
    change = node.moves.next_change()
    with pytest.raises(NotYet, match="the context comes from node n1"):
        node.moves.require(REF, node.order)
    assert change.is_set()
    assert node.moves.fetches()["6a9c"].stage is FetchStage.TAKE
    assert node.moves.awaited(node.order) == REF


async def test_the_claim_waits_until_the_api_server_knows_that_the_context_is_here():
    node = Node()
    node.hear()
    node.moves.learn(MovedContext(uid="6a9c", attempt=2, here=True, received_bytes=7, total_bytes=7))
    with pytest.raises(NotYet):
        node.moves.require(REF, node.order)
    move = node.moves.status(node.order)
    assert move == {"fromNode": "n1", "here": True, "receivedBytes": 7, "totalBytes": 7}
    node.hear(status={"attempt": 2, "nodeName": "n2", "move": move})
    node.moves.require(REF, node.order)
    assert node.moves.fetches()["6a9c"].stage is FetchStage.RELEASE
    assert node.moves.awaited(node.order) is None


@pytest.mark.parametrize("about", [{"attempt": 1, "nodeName": "n2"}, {"attempt": 2, "nodeName": "n1"}])
async def test_a_word_about_another_attempt_or_node_lets_nobody_start(about: dict[str, Any]):
    node = Node()
    node.hear(status={**about, "move": {"fromNode": "n1", "here": True, "receivedBytes": 0, "totalBytes": 0}})
    with pytest.raises(NotYet):
        node.moves.require(REF, node.order)
    node.moves.learn(MovedContext(uid="6a9c", attempt=1, here=True))
    assert node.moves.status(node.order)["here"] is False


async def test_why_nothing_comes_is_told_also_while_the_gateway_is_away():
    node = Node()
    node.hear()
    assert node.moves.status(node.order)["trouble"] == "the gateway of the node has not said anything of it yet"
    node.moves.learn(MovedContext(uid="6a9c", attempt=2, trouble="nobody is there"))
    assert node.moves.message(node.order) == "the context comes from node n1, and nothing comes now: nobody is there"


async def test_without_a_context_elsewhere_nothing_is_waited_for():
    node = Node()
    node.hear(origin=None)
    node.moves.require(REF, node.order)
    assert node.moves.fetches() == {}
    assert node.moves.status(node.order) is None


async def test_a_context_that_is_given_up_is_fetched_from_nobody():
    node = Node()
    node.hear(origin={"nodeName": "n1", "startEmpty": True})
    fetch = node.moves.fetches()["6a9c"]
    assert (fetch.start_empty, fetch.address) == (True, None)


async def test_what_leaves_is_offered_to_the_gateway_that_the_order_names_and_to_nobody_before_it_does():
    source = Node("n1")
    source.hear(source.leaving)
    offer = source.moves.offers()["6a9c"]
    assert (offer.identity.name, offer.identity.attempt, offer.certificate) == ("coder", 2, "HERE")
    for origin in ({"nodeName": "n1"}, {"nodeName": "n1", "startEmpty": True, "receiver": "HERE"}, {**ORIGIN, "nodeName": "n3"}):
        source.hear(source.leaving, origin=origin)
        assert source.moves.offers() == {}


async def test_the_lease_says_where_contexts_are_given():
    node = Node()
    assert node.moves.annotations() == {}
    node.moves.learn_door(ContextDoor(address="10.0.0.2:9491", certificate="HERE"))
    assert node.moves.annotations() == {names.ANNOTATION_DOOR: "10.0.0.2:9491", names.ANNOTATION_CERTIFICATE: "HERE"}
    await asyncio.sleep(0)

"""Which contexts of Agents that are gone are erased: those that were to be, of Agents of which the API server says that they are gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aios_kube.errors import ApiError, NotFound, Unreachable
from aios_kube.events import EventRecorder
from aios_kube.fake import Call, FakeCluster
from aios_kube.resources import AGENTS
from aios_sidecar.contracts.link import ErasedContext, ReclaimableContext
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.reclaim import Reclaim
from aios_sidecar.node.settings import NodeSettings
from unit.node.support import NOW, a_state

CODER = ReclaimableContext(namespace="team", name="coder", uid="6a9c")


def an_order(reclaim: str = "Erase", node: str = "n1", version: str = "1", **spec: Any) -> dict[str, Any]:
    fixed = {"agentUID": "6a9c", "attempt": 2, "templateDigest": "d", "nodeName": node, "claimName": "coder-2", "podName": "coder-2"}
    metadata = {"namespace": "team", "name": "coder", "uid": "runtime", "resourceVersion": version}
    return {"metadata": metadata, "spec": {**fixed, "context": {"reclaim": reclaim}, **spec}}


class Node:
    """Node n1, whose gateway has said that the context of coder is to be erased once it is gone."""

    def __init__(self) -> None:
        self.cluster, self.mirror, self.leaving = FakeCluster(), Mirror(), Mirror()
        self.claims = LiveClaims(lambda: NOW)
        settings = NodeSettings("n1", leftover_seconds=0.01, reservation_seconds=0.02)
        self.events = EventRecorder(self.cluster, "test", "test", lambda: NOW)
        orders = Orders(self.mirror)
        self.reclaim = Reclaim(settings, self.cluster, orders, self.leaving, self.claims, self.events, Metrics(lambda: 0.0))
        self.mirror.replace([])
        self.leaving.replace([])
        self.reclaim.learn(CODER)

    def has_agent(self, uid: str = "6a9c", reclaim: str = "Erase") -> None:
        metadata = {"namespace": "team", "name": "coder", "uid": uid}
        self.cluster.put(AGENTS, {"metadata": metadata, "spec": {"context": {"reclaim": reclaim}}})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reclaim.run())
        try:
            yield
        finally:
            task.cancel()

    async def asked(self, at_least: int = 0) -> int:
        """How often the API server was asked for the Agent, some moments after it was `at_least` so often."""

        def so_far() -> int:
            return len([call for call in self.cluster.calls if call.verb == "get"])

        async with asyncio.timeout(60):
            while so_far() < at_least:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        return so_far()


async def test_what_is_of_an_agent_that_is_gone_is_erased_and_an_event_says_what_it_was():
    node = Node()
    async with node.running():
        assert await node.asked(1)
        assert node.reclaim.gone()["6a9c"] > 0
        node.reclaim.erased(ErasedContext(uid="6a9c", items=7, files=2))
        assert node.reclaim.gone() == {}


async def test_an_agent_of_the_same_name_is_another_one():
    node = Node()
    node.has_agent(uid="another")
    async with node.running():
        assert await node.asked(1)
        assert "6a9c" in node.reclaim.gone()


async def test_who_is_there_keeps_what_it_has_without_an_order_too():
    node = Node()
    node.has_agent()
    async with node.running():
        assert await node.asked(2) > 1
        assert node.reclaim.gone() == {}


async def test_who_does_not_want_it_erased_any_more_has_it_kept():
    node = Node()
    node.has_agent(reclaim="Retain")
    async with node.running():
        assert await node.asked(1) == 1
        assert node.reclaim.wishes()["6a9c"].erase is False
        assert node.reclaim.gone() == {}


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("no answer"),
        ApiError("agents.aios.dev is forbidden", code=403, reason="Forbidden"),
        NotFound("404 page not found", code=404),
        NotFound("the server could not find the requested resource", code=404, reason="NotFound"),
    ],
    ids=["unreachable", "forbidden", "no path", "no kind"],
)
async def test_who_can_not_be_asked_for_is_not_gone(error: ApiError):
    node = Node()

    def refuse(call: Call) -> ApiError | None:
        return error if call.verb == "get" else None

    node.cluster.refuse.append(refuse)
    async with node.running():
        assert await node.asked(2) > 1
        assert node.reclaim.gone() == {}


async def test_nobody_is_asked_for_while_it_is_ordered_leaves_or_was_not_heard_of():
    node = Node()
    for mirror in (node.mirror, node.leaving):
        mirror.replace([an_order(node="n1" if mirror is node.mirror else "n2")])
        async with node.running():
            assert await node.asked() == 0
        mirror.replace([])
    node.leaving.heard = False
    async with node.running():
        assert await node.asked() == 0


async def test_nobody_is_asked_for_while_a_claim_of_it_is_prepared():
    node = Node()
    node.claims.put(a_state(agent_uid="6a9c"))
    async with node.running():
        assert await node.asked() == 0


async def test_what_orders_say_is_told_and_what_they_say_no_more_too():
    node = Node()
    node.mirror.replace([an_order()])
    assert node.reclaim.wishes()["6a9c"].erase is True
    node.mirror.replace([an_order("Retain", version="2")])
    assert node.reclaim.wishes()["6a9c"].erase is False
    node.reclaim.forget()
    assert node.reclaim.wishes() == {}

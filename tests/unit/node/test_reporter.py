"""What is true of a claim is written into its order's status, whoever stands in the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aios_kube.errors import ApiError, Conflict
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.reporter import Reporter
from aios_sidecar.node.settings import NodeSettings
from unit.node.support import CLAIM_UID, NOW, a_state

SPEC = {"agentUID": "a", "attempt": 1, "templateDigest": "d", "nodeName": "node-a", "claimName": "agent-1", "podName": "agent-1"}


@asynccontextmanager
async def reporting(cluster: FakeCluster) -> AsyncIterator[Mirror]:
    """Of one prepared claim, whose order was heard."""
    settings, mirror, claims = NodeSettings("node-a"), Mirror(), LiveClaims(lambda: NOW)
    cluster.put(AGENT_RUNTIMES, {"metadata": {"namespace": "team", "name": "agent", "uid": "r"}, "spec": SPEC})
    mirror.replace([order_in(cluster)])
    claims.put(a_state())
    orders = Orders(mirror)
    reporter = Reporter(settings, cluster, orders, claims, Moves(settings, orders, Mirror()), lambda: NOW)
    task = asyncio.create_task(reporter.run())
    try:
        yield mirror
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def order_in(cluster: FakeCluster) -> Any:
    found = cluster.peek(AGENT_RUNTIMES, "agent", "team")
    assert found is not None
    return found


def conflicts(cluster: FakeCluster, times: int) -> list[str]:
    """So many writes meet a conflict; the names of what they were to write."""
    met: list[str] = []

    def refuse(call: Any) -> ApiError | None:
        if call.verb != "apply" or len(met) == times:
            return None
        met.append(call.name)
        return Conflict("somebody else wrote at once", code=409, reason="Conflict")

    cluster.refuse.append(refuse)
    return met


async def test_a_status_that_met_a_conflict_is_written_all_the_same():
    cluster = FakeCluster()
    met = conflicts(cluster, 1)
    async with reporting(cluster), asyncio.timeout(60):
        while order_in(cluster).get("status", {}).get("claimUID") != CLAIM_UID:
            await asyncio.sleep(0.01)
    assert met == ["agent"]


async def test_a_status_that_always_meets_a_conflict_is_written_no_more_once_the_order_is_heard_to_be_gone():
    cluster = FakeCluster()
    met = conflicts(cluster, 1000)
    async with reporting(cluster) as mirror, asyncio.timeout(60):
        while not met:
            await asyncio.sleep(0.01)
        mirror.remove(order_in(cluster))
        tried = len(met)
        await asyncio.sleep(1.0)
        assert len(met) == tried

"""In which order a node agent tells that it is there and asks for its orders when it starts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aios_kube.errors import ApiError, Unreachable
from aios_kube.fake import Call, FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, LEASES
from aios_sidecar.node.agent import NodeAgent
from aios_sidecar.node.settings import NodeSettings
from unit.node.support import NOW


@asynccontextmanager
async def hearing(cluster: FakeCluster, directory: Path) -> AsyncIterator[NodeAgent]:
    """What of a node agent renews its Lease and hears its orders; it needs neither GPUs nor sockets."""
    gpus: Any = None
    agent = NodeAgent(NodeSettings("node-a", state_dir=directory, mute_seconds=600), cluster, gpus, gpus, lambda: NOW)
    tasks = [asyncio.create_task(agent._hear_orders(agent._heartbeat.next_change())), asyncio.create_task(agent._heartbeat.run())]
    try:
        async with asyncio.timeout(60):
            while not agent.orders.heard:
                await asyncio.sleep(0.002)
        yield agent
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_orders_are_listed_after_the_first_renewal_so_that_agents_are_served_at_once(tmp_path: Path) -> None:
    cluster = FakeCluster()
    async with hearing(cluster, tmp_path) as agent:
        assert [call.resource for call in cluster.calls][:2] == [LEASES, AGENT_RUNTIMES]
        assert agent._heartbeat.left_seconds > 0, "without waiting for the watch to say something"


async def test_orders_are_heard_also_while_no_lease_can_be_written_and_are_not_fresh(tmp_path: Path) -> None:
    cluster = FakeCluster()

    def refuse(call: Call) -> ApiError | None:
        return Unreachable("no route") if call.resource is LEASES else None

    cluster.refuse.append(refuse)
    async with hearing(cluster, tmp_path) as agent:
        assert agent._heartbeat.fresh_until is None

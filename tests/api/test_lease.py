"""A Lease on a real API server: what our client writes is what the server takes, and one of two holds it."""

import asyncio
from datetime import UTC, datetime

import pytest

from aios_kube import connect
from aios_kube.lease import Lease, LeaseLost, LeaseSettings
from aios_kube.resources import LEASES
from aios_localcluster import LocalCluster
from aios_sidecar.node.heartbeat import Heartbeat
from aios_sidecar.node.settings import NodeSettings
from api.support import Space

FAST = LeaseSettings(duration_seconds=6, renew_deadline_seconds=4, retry_seconds=0.2)


async def test_one_of_two_holds_it_hands_it_over_and_loses_it_to_who_takes_it(cluster: LocalCluster, space: Space):
    client = await connect(cluster.kubeconfig, user_agent="tests")
    try:
        first, second = (Lease(client, space.namespace, "x", name, "tests", lambda: datetime.now(UTC), FAST) for name in ("a", "b"))
        await asyncio.wait_for(first.acquire(), 60)
        waiting = asyncio.create_task(second.acquire())
        keeping = asyncio.create_task(first.hold())
        await asyncio.sleep(7)  # renewed, it does not run out
        spec = (await client.get(LEASES, "x", space.namespace))["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], waiting.done(), keeping.done()) == ("a", 6, False, False)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await first.release()
        await asyncio.wait_for(waiting, 60)
        await client.patch(LEASES, "x", {"spec": {"holderIdentity": "c"}}, namespace=space.namespace, field_manager="tests")
        with pytest.raises(LeaseLost, match="is held by c"):
            await asyncio.wait_for(second.hold(), 60)
    finally:
        await client.close()


async def test_the_lease_of_a_node_is_made_and_renewed(cluster: LocalCluster, space: Space):
    client = await connect(cluster.kubeconfig, user_agent="tests")
    heartbeat = Heartbeat(NodeSettings("node-a", space.namespace, 2.0), client, lambda: 10.0, lambda: datetime.now(UTC), lambda: 10.0)
    task = asyncio.create_task(heartbeat.run())
    try:
        times = set()
        async with asyncio.timeout(60):
            while len(times) < 3:
                await heartbeat.next_change().wait()
                spec = (await client.get(LEASES, "aios-node.node-a", space.namespace))["spec"]
                assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("node-a", 2)
                times.add(spec["renewTime"])
        assert heartbeat.fresh_until == 12.0
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()

"""The Lease of a node agent, and until when its gateway may go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aios_api import names
from aios_kube.errors import Forbidden, Unreachable
from aios_kube.fake import Call, FakeCluster
from aios_kube.resources import LEASES
from aios_sidecar.node.heartbeat import Heartbeat
from aios_sidecar.node.settings import NodeSettings
from unit.node.support import NOW

MUTE = 0.4


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Cluster(FakeCluster):
    """Each answer takes `seconds` of the clock that we are shown."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.shown = clock
        self.seconds = 0.0
        self.silent = False

    async def apply(self, *arguments: Any, **named: Any) -> Any:
        if self.silent:
            await asyncio.Event().wait()
        self.shown.now += self.seconds
        return await super().apply(*arguments, **named)


@asynccontextmanager
async def beating(cluster: Cluster, heard: float | None = 5000.0, mute: float = MUTE) -> AsyncIterator[Heartbeat]:
    heartbeat = Heartbeat(NodeSettings("node-a", "ns", mute), cluster, lambda: heard, lambda: NOW, cluster.shown)
    task = asyncio.create_task(heartbeat.run())
    try:
        yield heartbeat
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lease(cluster: FakeCluster) -> Any:
    return cluster.peek(LEASES, names.node_lease_name("node-a"), "ns")


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


async def test_the_lease_names_the_node_and_is_renewed_four_times_in_the_mute_time():
    cluster = Cluster(Clock())
    async with beating(cluster):
        await until(lambda: len(cluster.writes()) >= 4)
    found = lease(cluster)
    assert found["metadata"]["name"] == "aios-node.node-a"
    assert found["metadata"]["labels"] == {"app.kubernetes.io/component": "node-agent"}
    assert "ownerReferences" not in found["metadata"]
    assert found["spec"] == {"holderIdentity": "node-a", "leaseDurationSeconds": 1, "renewTime": NOW.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


async def test_the_time_is_counted_from_before_the_renewal_was_asked_for():
    cluster = Cluster(Clock())
    cluster.seconds = 7
    async with beating(cluster, mute=60) as heartbeat:
        await until(lambda: lease(cluster))
        await until(lambda: heartbeat.fresh_until is not None)
        assert heartbeat.fresh_until == 1060
        assert heartbeat.left_seconds == 53
        cluster.shown.now = 1061
        assert heartbeat.left_seconds == 0


@pytest.mark.parametrize(("heard", "expected"), [(None, None), (990.0, None), (1001.0, 1060.0)])
async def test_orders_that_were_not_heard_are_not_fresh_however_often_the_lease_is_renewed(heard, expected):
    cluster = Cluster(Clock())
    async with beating(cluster, heard, mute=60) as heartbeat:
        changed = heartbeat.next_change()
        await asyncio.wait_for(changed.wait(), 60)
        assert heartbeat.fresh_until == expected


async def test_after_a_lapse_what_was_heard_before_the_renewal_is_not_fresh():
    """While the Lease was silent the operator may have given the agents to another node; the watch may be dead by now."""
    cluster = Cluster(Clock())
    heard = [1000.0]
    heartbeat = Heartbeat(NodeSettings("node-a", "ns", 60), cluster, lambda: heard[0], lambda: NOW, cluster.shown)
    assert await heartbeat._renew(1)
    assert heartbeat.fresh_until == 1060
    heard[0] = cluster.shown.now = 1120.0  # orders are heard all the time, and for two minutes no renewal succeeds
    assert heartbeat.left_seconds == 0
    cluster.shown.now = 1121.0
    assert await heartbeat._renew(1)
    assert heartbeat.left_seconds == 0, "the last word about orders is older than the renewal"
    heard[0] = 1122.0
    assert heartbeat.fresh_until == 1181


async def test_a_new_program_calls_no_orders_fresh_that_it_heard_before_its_first_renewal():
    """It lists them and is cut off; meanwhile the operator gives the agents to another node, which only a later word tells."""
    cluster = Cluster(Clock())
    heard = [1000.0]
    heartbeat = Heartbeat(NodeSettings("node-a", "ns", 60), cluster, lambda: heard[0], lambda: NOW, cluster.shown)
    cluster.refuse.append(lambda call: Unreachable("no route"))
    assert not await heartbeat._renew(1)
    cluster.refuse.clear()
    cluster.shown.now, cluster.seconds = 1040.0, 7
    assert await heartbeat._renew(1)
    heard[0] = 1046.0
    assert heartbeat.fresh_until is None, "asked for before the renewal was known to be written"
    heard[0] = 1048.0
    assert heartbeat.fresh_until == 1100


@pytest.mark.parametrize("error", [Unreachable("no route"), Forbidden("no role", code=403, reason="Forbidden")])
async def test_a_renewal_that_fails_gives_no_time_and_is_tried_again(error):
    cluster = Cluster(Clock())
    refusing = [True]

    def refuse(call: Call) -> Exception | None:
        return error if refusing[0] else None

    cluster.refuse.append(refuse)
    async with beating(cluster) as heartbeat:
        await until(lambda: len(cluster.calls) >= 3)
        assert heartbeat.fresh_until is None
        refusing[0] = False
        await until(lambda: heartbeat.fresh_until is not None)


async def test_an_answer_that_never_comes_holds_nothing_up():
    cluster = Cluster(Clock())
    cluster.silent = True
    async with beating(cluster) as heartbeat:
        await asyncio.wait_for(heartbeat.next_change().wait(), 60)
        assert heartbeat.fresh_until is None
        cluster.silent = False
        await until(lambda: heartbeat.fresh_until is not None)


async def test_a_lease_that_somebody_changed_or_removed_is_made_anew():
    cluster = Cluster(Clock())
    async with beating(cluster):
        await until(lambda: lease(cluster))
        cluster.alter(LEASES, "aios-node.node-a", {"spec": {"holderIdentity": "else"}}, "ns")
        await until(lambda: lease(cluster)["spec"]["holderIdentity"] == "node-a")
        cluster.remove(LEASES, "aios-node.node-a", "ns")
        await until(lambda: lease(cluster))

"""What a gateway is told, in which order: what went away before anything is called fresh."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aios_kube.events import EventRecorder
from aios_kube.fake import FakeCluster
from aios_sidecar import handover
from aios_sidecar.contracts.link import Fresh, Held, Hello, Message, Serve, Stop, Synced
from aios_sidecar.handover import Link
from aios_sidecar.node.link import GatewayLink
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.reclaim import Reclaim
from aios_sidecar.node.settings import NodeSettings
from unit.node.support import CLAIM_UID, NOW, a_state


@dataclass
class Heartbeat:
    """Fresh for as long as a test says."""

    fresh_until: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def next_change(self) -> asyncio.Event:
        return self.changed

    def beat(self, until: float) -> None:
        self.fresh_until = until
        self.changed.set()
        self.changed = asyncio.Event()


class Node:
    def __init__(self, directory: Path) -> None:
        self.settings = NodeSettings("node-a", run_dir=directory, gateway_uid=os.geteuid())
        self.claims, self.mirror, self.heartbeat = LiveClaims(lambda: NOW), Mirror(), Heartbeat()
        beats: Any = self.heartbeat
        orders = Orders(self.mirror)
        leaving, cluster = Mirror(), FakeCluster()
        moves = Moves(self.settings, orders, leaving)
        events = EventRecorder(cluster, "test", "test", lambda: NOW)
        reclaim = Reclaim(self.settings, cluster, orders, leaving, self.claims, events, Metrics(lambda: 0.0))
        self.link = GatewayLink(self.settings, self.claims, orders, beats, moves, reclaim, lambda: NOW)
        self.link.open()
        live = self.claims.put(a_state())
        self.claims.give(live, "loopback", socket.create_server(("127.0.0.1", 0)))

    def order(self, attempt: int = 1) -> None:
        spec = {"agentUID": "a", "attempt": attempt, "templateDigest": "d", "nodeName": "node-a", "claimName": "c", "podName": "p"}
        metadata = {"namespace": "team", "name": "agent", "uid": "r", "resourceVersion": str(attempt)}
        self.mirror.replace([{"metadata": metadata, "spec": spec}])

    @asynccontextmanager
    async def gateway(self, *held: str) -> AsyncIterator[Link]:
        """The other end of the link, which names what it holds."""
        link = await handover.connect(self.settings.gateway_socket, peer=os.geteuid())
        try:
            await link.send(Hello())
            for uid in held:
                await link.send(Held(claim_uid=uid), {})
            await link.send(Synced())
            assert isinstance((await link.receive()).message, Hello)
            yield link
        finally:
            link.close()


async def told(link: Link) -> Message | None:
    """What is said next; None when nothing is for a while."""
    try:
        async with asyncio.timeout(0.3):
            received = await link.receive()
    except TimeoutError:
        return None
    received.close()
    return received.message


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        made = Node(Path(directory))
        task = asyncio.create_task(made.link.run())
        yield made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.claims.drop(CLAIM_UID)


async def test_who_is_released_before_orders_are_heard_is_answered_no_more(node: Node) -> None:
    async with node.gateway(CLAIM_UID) as link:
        assert await told(link) is None
        node.claims.drop(CLAIM_UID)
        assert await told(link) == Stop(claim_uid=CLAIM_UID)
        assert await told(link) is None


async def test_who_was_released_while_no_gateway_was_there_is_stopped_once(node: Node) -> None:
    node.order()
    node.claims.drop(CLAIM_UID)
    async with node.gateway(CLAIM_UID) as link:
        assert await told(link) == Stop(claim_uid=CLAIM_UID)
        assert await told(link) is None


async def test_a_new_gateway_may_answer_before_it_has_anybody_to_answer(node: Node) -> None:
    node.order()
    node.heartbeat.fresh_until = 60
    async with node.gateway() as link:
        assert await told(link) == Fresh(until_seconds=60)
        assert isinstance(await told(link), Serve)
        assert await told(link) is None


async def test_a_gateway_that_went_on_hears_what_is_true_before_it_is_called_fresh(node: Node) -> None:
    node.order()
    node.heartbeat.fresh_until = 60
    async with node.gateway(CLAIM_UID, "dead") as link:
        assert await told(link) == Stop(claim_uid="dead")
        assert isinstance(await told(link), Serve)
        assert await told(link) == Fresh(until_seconds=60)


@pytest.mark.parametrize("attempt", [None, 2])
async def test_an_attempt_whose_order_went_away_is_stopped_before_the_next_fresh_word_and_not_served_again(
    node: Node, attempt: int | None
) -> None:
    node.order()
    node.heartbeat.fresh_until = 60
    async with node.gateway() as link:
        while await told(link) is not None:
            pass
        if attempt is None:
            node.mirror.replace([])
        else:
            node.order(attempt)
        after = [message for message in [await told(link), await told(link)] if message is not None]
        assert all(message.type == "update" for message in after), "until then it may still speak"
        node.heartbeat.beat(75)
        assert [await told(link), await told(link)] == [Stop(claim_uid=CLAIM_UID), Fresh(until_seconds=75)]
        node.heartbeat.beat(90)
        assert [await told(link), await told(link)] == [Fresh(until_seconds=90), None]
    async with node.gateway() as link:
        said = [await told(link) for _ in range(3)]
        assert said == [Fresh(until_seconds=90), None, None], "nor by the next gateway"


async def test_without_a_fresh_word_nothing_is_called_over(node: Node) -> None:
    """The node agent has just started, and has not heard the API server yet."""
    async with node.gateway(CLAIM_UID) as link:
        assert await told(link) is None
        node.mirror.replace([])
        node.heartbeat.beat(60)
        said = [await told(link) for _ in range(3)]
        assert [message.type for message in said if message is not None][-2:] == ["stop", "fresh"]

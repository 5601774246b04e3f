"""A reflector's sink always ends up with what exists."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aios_kube import Reflector, Selection
from aios_kube.backoff import Backoff
from aios_kube.errors import Gone, Unreachable
from aios_kube.fake import FakeCluster
from aios_kube.protocol import ALL, Page, WatchEvent
from aios_kube.resources import AGENT_RUNTIMES, Resource


class Known:
    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.lists = 0

    def replace(self, objects: list[Any]) -> None:
        self.lists += 1
        self.objects = {obj["metadata"]["name"]: obj for obj in objects}

    def upsert(self, obj: Any) -> None:
        self.objects[obj["metadata"]["name"]] = obj

    def remove(self, obj: Any) -> None:
        self.objects.pop(obj["metadata"]["name"], None)


def order(name: str, node: str = "n1") -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name}, "spec": {"nodeName": node}}


@asynccontextmanager
async def reflecting(cluster: FakeCluster, **settings: Any) -> AsyncIterator[Known]:
    known = Known()
    quick = Backoff(first_seconds=0.001, longest_seconds=0.001)
    reflector = Reflector(cluster, AGENT_RUNTIMES, known, Selection(fields="spec.nodeName=n1"), backoff=quick, **settings)
    task = asyncio.create_task(reflector.run())
    await asyncio.wait_for(reflector.synced.wait(), 60)
    try:
        yield known
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


async def test_it_follows_orders_of_one_node():
    cluster = FakeCluster()
    cluster.put(AGENT_RUNTIMES, order("a"))
    cluster.put(AGENT_RUNTIMES, order("elsewhere", "n2"))
    async with reflecting(cluster) as known:
        assert set(known.objects) == {"a"}
        cluster.put(AGENT_RUNTIMES, order("b"))
        await until(lambda: set(known.objects) == {"a", "b"})
        cluster.remove(AGENT_RUNTIMES, "a", "ns")
        await until(lambda: set(known.objects) == {"b"})


async def test_it_resumes_when_the_server_ends_the_watch():
    cluster = FakeCluster()
    async with reflecting(cluster) as known:
        cluster.end_watches()
        cluster.put(AGENT_RUNTIMES, order("b"))
        await until(lambda: "b" in known.objects)
        assert known.lists == 1


async def test_what_vanished_while_nobody_watched_is_missing_from_the_next_list():
    cluster = FakeCluster()
    cluster.put(AGENT_RUNTIMES, order("a"))
    async with reflecting(cluster) as known:
        refuse = [lambda call: Unreachable("down") if call.verb == "watch" else None]
        cluster.refuse.extend(refuse)
        cluster.end_watches()
        cluster.remove(AGENT_RUNTIMES, "a", "ns")
        cluster.put(AGENT_RUNTIMES, order("b"))
        cluster.compact()
        await asyncio.sleep(0.02)
        assert set(known.objects) == {"a"}
        cluster.refuse.clear()
        await until(lambda: set(known.objects) == {"b"})
        assert known.lists == 2


async def test_it_knows_when_the_server_was_heard_last_also_when_nothing_happens():
    cluster, now = FakeCluster(), [1.0]
    reflector = Reflector(cluster, AGENT_RUNTIMES, Known(), backoff=Backoff(0.001, 0.001), watch_seconds=0.02, clock_seconds=lambda: now[0])
    assert reflector.heard_seconds is None
    task = asyncio.create_task(reflector.run())
    await until(lambda: reflector.heard_seconds == 1.0)
    now[0] = 2.0
    await until(lambda: reflector.heard_seconds == 2.0)
    cluster.refuse.append(lambda call: Unreachable("down"))
    await asyncio.sleep(0.05)
    now[0] = 3.0
    await asyncio.sleep(0.05)
    assert reflector.heard_seconds == 2.0
    cluster.refuse.clear()
    await until(lambda: reflector.heard_seconds == 3.0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_list_is_as_old_as_its_question():
    class Slow(FakeCluster):
        async def list(self, *arguments: Any, **named: Any) -> Any:
            now[0] += 30
            return await super().list(*arguments, **named)

    now = [1.0]
    reflector = Reflector(Slow(), AGENT_RUNTIMES, Known(), clock_seconds=lambda: now[0])
    task = asyncio.create_task(reflector.run())
    await asyncio.wait_for(reflector.synced.wait(), 60)
    assert reflector.heard_seconds == 1.0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Stale(FakeCluster):
    """Answers lists as it once did, so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.once: Page | None = None
        self.stale = 0

    async def list(self, resource: Resource, selection: Selection = ALL, *, metadata_only: bool = False) -> Page:
        if self.stale and self.once is not None:
            self.stale -= 1
            return self.once
        self.once = await super().list(resource, selection, metadata_only=metadata_only)
        return self.once


@asynccontextmanager
async def answering_late(times: int) -> AsyncIterator[tuple[Stale, Known]]:
    """ "b" came and "a" went after the first list, and the next lists are answered as that one."""
    cluster = Stale()
    cluster.put(AGENT_RUNTIMES, order("a"))
    async with reflecting(cluster) as known:
        cluster.remove(AGENT_RUNTIMES, "a", "ns")
        cluster.put(AGENT_RUNTIMES, order("b"))
        await until(lambda: set(known.objects) == {"b"})
        cluster.stale = times
        cluster.compact()
        gone = [Gone("expired", code=410, reason="Expired")]
        cluster.refuse.append(lambda call: gone.pop() if call.verb == "watch" and gone else None)
        cluster.end_watches()
        yield cluster, known


async def test_a_list_from_before_what_was_heard_is_not_believed():
    async with answering_late(2) as (cluster, known):
        seen = []
        while cluster.stale or known.lists < 2:
            seen.append(set(known.objects))
            await asyncio.sleep(0)
        assert all(each == {"b"} for each in seen)
        assert known.objects.keys() == {"b"}


async def test_a_server_that_was_set_back_is_believed_in_the_end():
    async with answering_late(1000) as (_, known):
        await until(lambda: set(known.objects) == {"a"})


async def test_what_a_watch_did_not_tell_is_known_after_the_next_list():
    class Silent(FakeCluster):
        async def watch(self, *arguments: Any, **named: Any) -> AsyncIterator[WatchEvent]:
            await asyncio.sleep(0.001)
            return
            yield

    cluster, now = Silent(), [0.0]
    async with reflecting(cluster, relist_seconds=300.0, clock_seconds=lambda: now[0]) as known:
        cluster.put(AGENT_RUNTIMES, order("a"))
        now[0] = 299.0
        await asyncio.sleep(0.05)
        assert known.lists == 1
        now[0] = 300.0
        await until(lambda: set(known.objects) == {"a"})

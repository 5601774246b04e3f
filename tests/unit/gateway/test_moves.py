"""Contexts between two gateways over the real channel: who gets what, what is refused, and what is left."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aios_sidecar.context.errors import Fenced
from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.contracts.link import FetchContext, FetchStage
from aios_sidecar.gateway.moves.channel import Identity, Unreachable, dial
from aios_sidecar.gateway.moves.mover import Mover
from aios_sidecar.gateway.settings import MoveLimits

KEY = AgentKey("team", "coder", "6a9c")


def said(*texts: str) -> list[Draft]:
    return [Draft(Role.USER, text) for text in texts]


def identity(attempt: int = 2, uid: str = KEY.uid) -> AgentIdentity:
    return AgentIdentity(namespace=KEY.namespace, name=KEY.name, uid=uid, attempt=attempt)


@dataclass
class Side:
    """The part of a gateway that moves contexts, with its store and its door."""

    mover: Mover
    store: SqliteStore
    address: str
    forgotten: list[str]

    def fetch(self, source: "Side", stage: FetchStage, attempt: int = 2, **more: Any) -> None:
        known = {"address": source.address, "certificate": source.mover.identity.certificate, **more}
        self.mover.fetch(FetchContext(identity=identity(attempt), node="n1", stage=stage, **known))

    def texts(self, attempt: int) -> list[str]:
        with self.store.context(KEY, attempt).reading() as reader:
            return [item.content for item in reader.oldest(100_000)]


@pytest.fixture
async def sides(tmp_path: Path) -> AsyncIterator[Callable[..., Side]]:
    async with contextlib.AsyncExitStack() as undo:

        def make(name: str, **limits: Any) -> Side:
            store = SqliteStore(tmp_path / name)
            undo.callback(store.close)
            forgotten: list[str] = []
            mover = Mover(lambda: store, MoveLimits(**limits), forgotten.append)
            undo.callback(mover.close)
            listener = socket.create_server(("127.0.0.1", 0))
            task = asyncio.create_task(mover.listen(listener))
            undo.push_async_callback(asyncio.gather, task, return_exceptions=True)
            undo.callback(task.cancel)
            return Side(mover, store, f"127.0.0.1:{listener.getsockname()[1]}", forgotten)

        yield make


async def until(mover: Mover, holds: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(60):
        while True:
            change = mover.next_change()
            for moved in mover.moved():
                if holds(moved):
                    return moved
            await change.wait()


async def gone(side: Side) -> None:
    async with asyncio.timeout(60):
        while side.store.holds(KEY):
            await asyncio.sleep(0.02)


async def test_a_context_is_copied_while_the_agent_goes_on_then_taken_then_released(sides):
    here, there = sides("here"), sides("there")
    agent = here.store.context(KEY, 1)
    agent.append(said("a", *["b" * 200_000] * 15))
    here.mover.offer(identity(), there.mover.identity.certificate)
    there.fetch(here, FetchStage.COPY)
    copied = await until(there.mover, lambda moved: moved.total_bytes and moved.received_bytes == moved.total_bytes)
    assert not copied.here
    agent.append(said("c"))
    there.fetch(here, FetchStage.TAKE)
    await until(there.mover, lambda moved: moved.here)
    with pytest.raises(Fenced):
        agent.append(said("lost"))
    assert "".join(text[0] for text in there.texts(2)) == "a" + "b" * 15 + "c"
    assert here.store.holds(KEY), "nothing is removed before the API server knows where the context is"
    there.fetch(here, FetchStage.RELEASE)
    await gone(here)
    with pytest.raises(Fenced):
        agent.append(said("lost"))
    assert there.store.context(KEY, 2).append(said("d")).first == 18


async def test_of_an_agent_without_a_context_there_is_nothing_to_wait_for_and_none_begins_one_there_any_more(sides):
    here, there = sides("here"), sides("there")
    here.mover.offer(identity(), there.mover.identity.certificate)
    there.fetch(here, FetchStage.TAKE)
    await until(there.mover, lambda moved: moved.here)
    assert there.texts(2) == []
    with pytest.raises(Fenced):
        here.store.context(KEY, 1)


async def test_who_is_to_begin_empty_does_so_and_asks_nobody(sides):
    there = sides("there")
    there.mover.fetch(FetchContext(identity=identity(), node="n1", start_empty=True, stage=FetchStage.TAKE))
    await until(there.mover, lambda moved: moved.here)
    assert there.store.context(KEY, 2).describe().first_attempt == 2


async def test_a_move_is_given_up_in_the_middle_and_the_attempt_begins_empty(sides):
    there = sides("there")
    there.mover.fetch(FetchContext(identity=identity(), node="n1", stage=FetchStage.TAKE))
    moved = await until(there.mover, lambda moved: moved.trouble)
    assert moved.trouble == "node n1 has not said where its contexts can be fetched"
    there.mover.fetch(FetchContext(identity=identity(), node="n1", start_empty=True, stage=FetchStage.TAKE))
    await until(there.mover, lambda moved: moved.here)


async def test_new_keys_of_a_source_that_was_restarted_are_taken_at_once(sides):
    here, there = sides("here"), sides("there")
    here.store.context(KEY, 1).append(said("a"))
    here.mover.offer(identity(), there.mover.identity.certificate)
    there.fetch(here, FetchStage.TAKE, certificate=Identity().certificate)
    moved = await until(there.mover, lambda moved: moved.trouble)
    assert "not who it must be" in moved.trouble
    there.fetch(here, FetchStage.TAKE)
    await until(there.mover, lambda moved: moved.here)
    assert there.texts(2) == ["a"]


def asked(side: Side, me: Identity, request: dict[str, Any], certificate: str | None = None) -> dict[str, Any]:
    channel = dial(side.address, certificate or side.mover.identity.certificate, me)
    try:
        channel.send(request)
        return channel.receive()
    finally:
        channel.close()


async def test_nobody_but_who_is_named_gets_anything_and_nothing_but_what_is_named(sides):
    here, me, other = sides("here"), Identity(), Identity()
    other_key = AgentKey("team", "other", "77aa")
    for key in (KEY, other_key):
        here.store.context(key, 1).append(said("secret"))
    request = {"ask": "tail", "after": 0, "uid": KEY.uid, "attempt": 2}

    def refused(who: Identity, **changed: Any) -> bool:
        try:
            return "refused" in asked(here, who, {**request, **changed})
        except Unreachable:
            return True

    assert await asyncio.to_thread(refused, me), "nothing is offered to anybody"
    here.mover.offer(identity(), me.certificate)
    assert await asyncio.to_thread(refused, Identity()), "a key that no order names"
    here.mover.offer(identity(5, other_key.uid), other.certificate)
    assert await asyncio.to_thread(refused, other), "the right node for another agent"
    for changed in ({"attempt": 1}, {"attempt": 3}, {"uid": other_key.uid}, {"uid": "../x"}, {"uid": None}, {"ask": "everything"}):
        assert await asyncio.to_thread(lambda c=changed: refused(me, **c)), changed
    assert here.store.context(KEY, 1).append(said("on")), "no refusal has handed anything over"
    answer = await asyncio.to_thread(asked, here, me, request)
    assert answer["bytes"] > 0
    here.mover.withdraw(KEY.uid)
    assert await asyncio.to_thread(refused, me), "the order is gone"


async def test_who_fetches_looks_who_gives(sides):
    here, me = sides("here"), Identity()
    here.mover.offer(identity(), me.certificate)
    with pytest.raises(Unreachable, match="not who it must be"):
        await asyncio.to_thread(asked, here, me, {"ask": "snapshot"}, Identity().certificate)


async def test_once_it_is_completed_nothing_is_given_again(sides):
    here, there = sides("here"), sides("there")
    here.store.context(KEY, 1).append(said("a"))
    here.mover.offer(identity(), there.mover.identity.certificate)
    there.fetch(here, FetchStage.RELEASE)
    await gone(here)
    for ask in ("snapshot", "tail"):
        answer = await asyncio.to_thread(asked, here, there.mover.identity, {"ask": ask, "after": 0, "uid": KEY.uid, "attempt": 2})
        assert answer["refused"] == "the context went to attempt 2, which completed its move"
    answer = await asyncio.to_thread(asked, here, there.mover.identity, {"ask": "release", "uid": KEY.uid, "attempt": 2})
    assert answer == {"released": True}


async def test_a_later_attempt_gets_it_and_the_one_before_no_more(sides):
    here, there, third = sides("here"), sides("there"), sides("third")
    here.store.context(KEY, 1).append(said("a"))
    here.mover.offer(identity(2), there.mover.identity.certificate)
    assert (await asyncio.to_thread(asked, here, there.mover.identity, {"ask": "tail", "after": 0, "uid": KEY.uid, "attempt": 2}))["bytes"]
    here.mover.offer(identity(3), third.mover.identity.certificate)
    third.fetch(here, FetchStage.TAKE, attempt=3)
    await until(third.mover, lambda moved: moved.here)
    assert third.texts(3) == ["a"]
    there.fetch(here, FetchStage.TAKE)
    await until(there.mover, lambda moved: moved.trouble)
    here.mover.offer(identity(2), there.mover.identity.certificate)
    answer = await asyncio.to_thread(asked, here, there.mover.identity, {"ask": "tail", "after": 0, "uid": KEY.uid, "attempt": 2})
    assert "attempt 3 of this agent writes its context" in answer["refused"]


async def test_a_context_that_is_larger_than_may_come_is_refused_and_leaves_nothing(sides):
    here, there = sides("here"), sides("there", move_bytes=1 << 20)
    here.store.context(KEY, 1).append(said(*["a" * 200_000] * 15))
    here.mover.offer(identity(), there.mover.identity.certificate)
    there.fetch(here, FetchStage.TAKE)
    moved = await until(there.mover, lambda moved: moved.trouble)
    assert f"it must be a number up to {1 << 20}" in moved.trouble
    assert not there.store.folder(KEY.uid).exists()


async def test_what_no_order_asks_for_any_more_is_not_kept(sides):
    here, there = sides("here"), sides("there")
    here.store.context(KEY, 1).append(said("a"))
    here.mover.offer(identity(), there.mover.identity.certificate)
    there.fetch(here, FetchStage.COPY)
    await until(there.mover, lambda moved: moved.total_bytes and moved.received_bytes == moved.total_bytes)
    there.mover.forgo(KEY.uid)
    assert list(there.mover.moved()) == []
    async with asyncio.timeout(60):
        while there.store.folder(KEY.uid).exists():
            await asyncio.sleep(0.02)


async def test_strangers_who_say_nothing_hold_up_nobody_and_no_older_version_is_spoken(sides):
    here, there = sides("here", move_greetings=2), sides("there")
    here.store.context(KEY, 1).append(said("a"))
    here.mover.offer(identity(), there.mover.identity.certificate)
    host, port = here.address.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(5)]
    there.fetch(here, FetchStage.TAKE)
    await until(there.mover, lambda moved: moved.here)
    for each in silent:
        each.close()
    old = there.mover.identity.as_client(here.mover.identity.certificate)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    def speak() -> None:
        with socket.create_connection((host, int(port))) as raw:
            old.wrap_socket(raw)

    with pytest.raises(OSError):
        await asyncio.to_thread(speak)

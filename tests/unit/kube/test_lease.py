"""One of several holds the Lease; another takes over at once when it is let go, and after its duration when its holder is dead."""

import asyncio
import contextlib
from collections.abc import Awaitable
from datetime import UTC, datetime

import pytest

from aios_kube.errors import ApiError, NotHeld, Unreachable
from aios_kube.fake import Call, FakeCluster
from aios_kube.lease import Lease, LeaseLost, LeaseSettings
from aios_kube.resources import LEASES

FAST = LeaseSettings(duration_seconds=1, renew_deadline_seconds=0.7, retry_seconds=0.02)


def a_lease(cluster: FakeCluster, identity: str, settings: LeaseSettings = FAST) -> Lease:
    return Lease(cluster, "ns", "leader", identity, "test", lambda: datetime.now(UTC), settings)


def holder(cluster: FakeCluster) -> str:
    found = cluster.peek(LEASES, "leader", "ns")
    assert found is not None
    return str(found["spec"]["holderIdentity"])


async def soon(work: Awaitable[None]) -> None:
    await asyncio.wait_for(work, 60)


async def test_one_holds_it_and_the_next_gets_it_when_it_is_let_go():
    cluster = FakeCluster()
    first, second = a_lease(cluster, "a"), a_lease(cluster, "b")
    await soon(first.acquire())
    keeping, waiting = asyncio.create_task(first.hold()), asyncio.create_task(second.acquire())
    await asyncio.sleep(2)  # twice the duration: renewed, it does not run out
    assert (holder(cluster), waiting.done()) == ("a", False)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    began = asyncio.get_running_loop().time()
    await first.release()
    await soon(waiting)
    assert asyncio.get_running_loop().time() - began < FAST.duration_seconds, "no need to wait until it runs out"
    found = cluster.peek(LEASES, "leader", "ns")
    assert found is not None
    assert (found["spec"]["holderIdentity"], found["spec"]["leaseTransitions"], second.held, first.held) == ("b", 2, True, False)


async def test_a_dead_holder_is_replaced_after_the_duration_by_ones_own_clock():
    cluster = FakeCluster()
    times = {"acquireTime": "2999-01-01T00:00:00.000000Z", "renewTime": "2999-01-01T00:00:00.000000Z"}  # of a clock far ahead
    cluster.put(LEASES, {"metadata": {"namespace": "ns", "name": "leader"}, "spec": {"holderIdentity": "dead", **times}})
    began = asyncio.get_running_loop().time()
    await soon(a_lease(cluster, "b").acquire())
    assert asyncio.get_running_loop().time() - began >= FAST.duration_seconds
    assert holder(cluster) == "b"


async def test_of_many_that_want_a_free_one_exactly_one_gets_it():
    cluster = FakeCluster()
    leases = [a_lease(cluster, name) for name in "abcdefgh"]
    tasks = [asyncio.create_task(each.acquire()) for each in leases]
    async with asyncio.timeout(60):
        while not any(each.held for each in leases):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert [each.identity for each in leases if each.held] == [holder(cluster)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_holder_that_can_not_renew_gives_up_before_another_may_begin():
    cluster = FakeCluster()
    first = a_lease(cluster, "a")
    await soon(first.acquire())

    def cut(call: Call) -> ApiError | None:
        return Unreachable("cut")

    cluster.refuse.append(cut)
    began = asyncio.get_running_loop().time()
    with pytest.raises(LeaseLost, match="could not be renewed"):
        await soon(first.hold())
    assert asyncio.get_running_loop().time() - began < FAST.duration_seconds
    assert not first.held


async def test_a_holder_that_was_stopped_may_write_no_more_before_another_may_begin():
    lease, now = a_lease(FakeCluster(), "a", LeaseSettings()), [1000.0]
    lease.monotonic = lambda: now[0]
    with pytest.raises(NotHeld):
        lease.confirm()
    await lease.acquire()
    now[0] += 9.9
    lease.confirm()
    now[0] += 0.1  # it was stopped meanwhile, and nothing of it could run
    with pytest.raises(NotHeld, match="was last renewed 10 s ago"):
        lease.confirm()


async def test_requests_that_never_end_do_not_keep_it_held():
    cluster = FakeCluster()
    first = a_lease(cluster, "a")
    await soon(first.acquire())

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    cluster.get = hang  # type: ignore[method-assign, assignment]
    with pytest.raises(LeaseLost, match="could not be renewed"):
        await soon(first.hold())


async def test_a_passing_failure_does_not_lose_it():
    cluster = FakeCluster()
    first = a_lease(cluster, "a")
    await soon(first.acquire())
    left = [3]

    def cut(call: Call) -> ApiError | None:
        left[0] -= 1
        return Unreachable("cut") if left[0] >= 0 else None

    cluster.refuse.append(cut)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(first.hold(), 0.5)
    assert (holder(cluster), left[0] < 0) == ("a", True)


@pytest.mark.parametrize("other", ["b", ""])
async def test_a_lease_that_is_anothers_is_lost_at_once(other: str):
    cluster = FakeCluster()
    first = a_lease(cluster, "a")
    await soon(first.acquire())
    cluster.alter(LEASES, "leader", {"spec": {"holderIdentity": other}}, "ns")
    with pytest.raises(LeaseLost, match="is held by " + (other or "nobody")):
        await soon(first.hold())
    await first.release()
    assert holder(cluster) == other, "what is another's is not let go"


async def test_a_lease_that_is_deleted_is_lost():
    cluster = FakeCluster()
    first = a_lease(cluster, "a")
    await soon(first.acquire())
    cluster.remove(LEASES, "leader", "ns")
    with pytest.raises(LeaseLost, match="nobody"):
        await soon(first.hold())


def test_settings_in_which_two_could_hold_it_are_refused():
    with pytest.raises(ValueError, match="renew_deadline_seconds < duration_seconds"):
        LeaseSettings(duration_seconds=10, renew_deadline_seconds=10)

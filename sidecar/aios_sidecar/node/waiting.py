"""How this program waits: for the first of several events, for work that must not stop half-way, for its turn at a claim."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

Result = TypeVar("Result")


async def first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Returns when one of the events is set, or after `seconds`."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which runs to its end even when the caller is cancelled: the caller holds a lock that must not open before."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        raise


class Turns:
    """One at a time for each claim; a lock lives as long as somebody uses it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def at(self, claim_uid: str) -> asyncio.Lock:
        lock = self._locks.get(claim_uid)
        if lock is None:
            lock = self._locks[claim_uid] = asyncio.Lock()
        return lock

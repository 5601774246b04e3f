"""Whose turn it is on the event loop: one slice of work for each agent in each turn of the loop, however many connections it has ready."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable


class Turns:
    """Shares the loop. Who asks first in a turn of the loop goes on at once; whoever had a slice in this turn waits for the next.

    So an agent that keeps 64 connections busy delays another's request by one slice in each turn, and not by 64.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._taken: set[Hashable] = set()
        self._waiting: dict[Hashable, deque[Callable[[], None]]] = {}
        self._next_is_due = False

    def take(self, who: Hashable) -> bool:
        """True when `who` may go on now. False: `call` will say when."""
        if who in self._taken:
            return False
        self._taken.add(who)
        self._await_next()
        return True

    def call(self, who: Hashable, granted: Callable[[], None]) -> None:
        """Calls `granted`, once, in the next free turn of `who`. It must bear being called when there is nothing left to do."""
        self._waiting.setdefault(who, deque()).append(granted)
        self._await_next()

    async def __call__(self, who: Hashable) -> None:
        """Returns when it is the turn of `who`."""
        if self.take(who):
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self.call(who, lambda: _wake(turn))
        await turn

    def _await_next(self) -> None:
        if not self._next_is_due:
            self._next_is_due = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._next_is_due = False
        self._taken.clear()
        for who, queue in list(self._waiting.items()):
            granted = queue.popleft()
            if not queue:
                del self._waiting[who]
            self._taken.add(who)
            granted()
        if self._taken:
            self._await_next()


def _wake(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)

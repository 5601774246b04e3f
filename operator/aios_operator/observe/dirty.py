"""What is to be planned, in the order in which it came to be so."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, MutableSet
from typing import TypeVar

T = TypeVar("T", bound=Hashable)
S = TypeVar("S")


class Dirty(MutableSet[T]):
    """A set that iterates over who came first, and knows since when each is in it. What is added again keeps its place."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[T, float] = {}

    @classmethod
    def _from_iterable(cls, it: Iterable[S]) -> set[S]:
        """What operators such as `-` give: they have no places to keep."""
        return set(it)

    def __contains__(self, item: object) -> bool:
        return item in self._since

    def __iter__(self) -> Iterator[T]:
        return iter(self._since)

    def __len__(self) -> int:
        return len(self._since)

    def add(self, value: T) -> None:
        self._since.setdefault(value, self._clock())

    def discard(self, value: T) -> None:
        self._since.pop(value, None)

    def seconds(self, value: T) -> float:
        """How long it has been in the set. Raises KeyError when it is not."""
        return self._clock() - self._since[value]

    def __repr__(self) -> str:
        return f"Dirty({list(self._since)!r})"

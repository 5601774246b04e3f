"""So many at once, and so many a second after that."""


class Rate:
    """A token bucket: `burst` at once, then `per_second`. Times are a clock's of the caller, in seconds, and never go back."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._at = float(burst), now

    def take(self, now: float) -> bool:
        """Whether one more is within it; it counts then."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def is_full(self, now: float) -> bool:
        """Nothing was taken for so long that it could be forgotten."""
        return self._left + (now - self._at) * self._per_second >= self._burst

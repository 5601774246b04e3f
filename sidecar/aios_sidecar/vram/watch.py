"""Who took more than his share for longer than the grace. Pure: readings in, excesses out; the clock is the reader's."""

from aios_sidecar.contracts.worker import Excess
from aios_sidecar.vram.ledger import Ledger


class Watch:
    """Of one GPU. What can't be attributed is nobody's excess."""

    def __init__(self, grace_seconds: float, stale_seconds: float) -> None:
        """`stale_seconds`: readings further apart than this don't belong together; an excess seen before such a gap is seen anew."""
        self._grace_seconds = grace_seconds
        self._stale_seconds = stale_seconds
        self._since: dict[str, float] = {}
        self._last: float | None = None

    def judge(self, ledger: Ledger, at_seconds: float) -> list[Excess]:
        """The excesses that have lasted for the grace at this reading. One that goes on is told again after another grace."""
        if self._last is not None and at_seconds - self._last > self._stale_seconds:
            self._since.clear()
        self._last = at_seconds
        over = {use.claim_uid: use for use in ledger.uses if use.used_bytes > use.allowed_bytes}
        self._since = {claim: self._since.get(claim, at_seconds) for claim in over}
        excesses = []
        for claim, use in over.items():
            seconds = at_seconds - self._since[claim]
            if seconds >= self._grace_seconds:
                excesses.append(Excess(use=use, seconds=round(seconds, 2)))
                self._since[claim] = at_seconds
        return excesses

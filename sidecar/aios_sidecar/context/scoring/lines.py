"""Which items stand next to which within their session."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from aios_sidecar.context.reader import Reader, Session
from aios_sidecar.context.scoring.base import Facts

READ_LIMIT = 100
"""Where sessions run at once, the neighbours of so many items are read, one by one; others have none."""


class Lines(Protocol):
    """Neighbours, nearest first."""

    def before(self, seq: int, n: int) -> Sequence[int]: ...

    def after(self, seq: int, n: int) -> Sequence[int]: ...


class KnownLines:
    """Of items whose sessions are all known."""

    def __init__(self, facts: Mapping[int, Facts]) -> None:
        self._by_session: dict[str, list[int]] = {}
        self._place: dict[int, tuple[list[int], int]] = {}
        for seq, each in facts.items():
            line = self._by_session.setdefault(each.session, [])
            self._place[seq] = (line, len(line))
            line.append(seq)

    def before(self, seq: int, n: int) -> Sequence[int]:
        line, at = self._place.get(seq, ((), 0))
        return line[max(0, at - n) : at][::-1]

    def after(self, seq: int, n: int) -> Sequence[int]:
        line, at = self._place.get(seq, ((), 0))
        return line[at + 1 : at + 1 + n]


class ApartLines:
    """Of sessions that follow one another: neighbours are the next numbers, up to the ends of the session."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = sessions
        self._firsts = [session.first for session in sessions]

    def before(self, seq: int, n: int) -> Sequence[int]:
        first, _ = self._ends(seq)
        return range(seq - 1, max(first, seq - n) - 1, -1)

    def after(self, seq: int, n: int) -> Sequence[int]:
        _, last = self._ends(seq)
        return range(seq + 1, min(last, seq + n) + 1)

    def _ends(self, seq: int) -> tuple[int, int]:
        at = bisect_right(self._firsts, seq) - 1
        return (seq, seq) if at < 0 else (self._sessions[at].first, self._sessions[at].last)


class ReadLines:
    """Of sessions that run at once: read from the log."""

    def __init__(self, reader: Reader, seqs: Sequence[int], reach: int) -> None:
        self._around = {seq: [item.seq for item in reader.neighbours(seq, reach)] for seq in seqs[:READ_LIMIT]}

    def before(self, seq: int, n: int) -> Sequence[int]:
        return [other for other in self._around.get(seq, ()) if other < seq][::-1][:n]

    def after(self, seq: int, n: int) -> Sequence[int]:
        return [other for other in self._around.get(seq, ()) if other > seq][:n]


def lines_of(reader: Reader, session: str | None, seqs: Sequence[int], reach: int) -> Lines:
    """The neighbours of `seqs`, up to `reach` places; of as many as it is cheap to know, the first first."""
    sessions = sorted(reader.sessions(), key=lambda each: each.first)
    apart = all(earlier.last < later.first for earlier, later in pairwise(sessions))
    return ApartLines(sessions) if apart else ReadLines(reader, seqs, reach)

"""The audit: one JSON line for each verdict, in files that are rotated, so that their size is bounded and the newest lines are kept.

All agents of a node share these files. An agent has a line for each verdict up to a rate; beyond it, like lines of half a second become one
that says how many it stands for. So one agent needs a quarter of an hour, and not half a minute, to write over what others have done.

Lines are made where the verdict falls and written by a thread of its own, twice a second. When the disk is slower than the agents, lines
are dropped and counted, and no agent waits. Lines that go with the oldest file are counted as well: who has not
collected them by then has lost them.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from aios_sidecar.gateway.rate import Rate

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.5
PENDING_LIMIT: Final = 20_000
"""Lines that wait to be written. At 1,500 a second that is a disk that does not answer for 13 s."""

LINES_PER_SECOND: Final = 200.0
LINES_BURST: Final = 2_000
"""Of one agent, each by itself."""
KINDS: Final = 16
"""Of one agent's lines beyond that, in half a second; the rest becomes one line for each verdict and reason."""
_KIND: Final = ("verdict", "reason", "method", "host", "port", "binding", "rule", "generation")
_COARSE: Final = ("verdict", "reason")
_WHOSE: Final = ("namespace", "agent", "uid", "attempt", "policy")
_SUMS: Final = ("upBytes", "downBytes", "seconds")
READ_BYTES: Final = 1024 * 1024
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Fields = Mapping[str, str | int | float | None]


class Audit(Protocol):
    """Takes verdicts down."""

    def note(self, fields: Fields) -> None:
        """Never blocks, never fails."""

    async def close(self) -> None:
        """What was noted is kept, as far as there is room for it."""


class NoAudit:
    """Where nobody wants one."""

    def note(self, fields: Fields) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """There is nothing to keep."""


class _Part:
    """What one agent has written."""

    def __init__(self, now: float) -> None:
        self.rate = Rate(LINES_PER_SECOND, LINES_BURST, now)
        self._folded: dict[tuple[object, ...], dict[str, str | int | float | None]] = {}

    def fold(self, fields: Fields) -> None:
        """Count it with those like it."""
        kind: tuple[object, ...] = tuple(fields.get(each) for each in _KIND)
        if kind not in self._folded and len(self._folded) >= KINDS:
            fields = {name: value if name in (*_COARSE, *_WHOSE, *_SUMS) else None for name, value in fields.items()}
            kind = tuple(fields.get(each) for each in _COARSE)
        known = self._folded.setdefault(kind, {**fields, **dict.fromkeys(_SUMS, 0), "repeated": 0})
        for name in _SUMS:
            known[name] = _number(known[name]) + _number(fields.get(name))
        known["repeated"] = _number(known["repeated"]) + 1

    def take_folded(self) -> Sequence[Fields]:
        folded, self._folded = list(self._folded.values()), {}
        return folded


def _number(value: object) -> int | float:
    return value if isinstance(value, (int, float)) else 0


class AuditFile:
    """Writes to `path`; when a file is full it becomes `path.1`, that one `path.2`, and so on, at most `files` in all."""

    def __init__(self, path: Path, *, file_bytes: int, files: int) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._files = files
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._lines: list[str] = []
        self._parts: dict[object, _Part] = {}
        """By the agent's uid."""
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self.dropped = 0
        """Lines that were not written, since the start."""
        self.rotated_out = 0
        """Lines that were written and went with the oldest file, since the start."""

    def note(self, fields: Fields) -> None:
        now = self._loop.time()
        part = self._parts.get(fields.get("uid"))
        if part is None:
            part = self._parts[fields.get("uid")] = _Part(now)
        if part.rate.take(now):
            self._line(fields)
        else:
            part.fold(fields)
            self._flush_later()

    def _line(self, fields: Fields) -> None:
        if len(self._lines) >= PENDING_LIMIT:
            self.dropped += int(_number(fields.get("repeated", 1)))
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._lines.append(_ENCODE({"time": time, **fields}))
        self._flush_later()

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    async def close(self) -> None:
        """What was noted is in the file, as far as the disk takes it."""
        if self._writing is not None:
            await self._writing
        self._flush()
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)  # the disk is slow; the lines wait, up to the limit
            return
        for uid, part in list(self._parts.items()):
            for fields in part.take_folded():
                self._line(fields)
            if part.rate.is_full(self._loop.time()):
                del self._parts[uid]
        if self._lines:
            lines, self._lines = self._lines, []
            self._writing = asyncio.ensure_future(self._write(lines))

    async def _write(self, lines: list[str]) -> None:
        try:
            await self._loop.run_in_executor(self._thread, self._append, lines)
            self._failing = False
        except OSError as error:
            self.dropped += len(lines)
            if not self._failing:
                log.error("the audit can't be written, lines are dropped and counted: %s", error)
            self._failing = True
        finally:
            self._writing = None

    def _append(self, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        if self._path.exists() and self._path.stat().st_size + len(text) > self._file_bytes:
            self._rotate()
        with self._path.open("ab") as file:
            file.write(text)

    def _rotate(self) -> None:
        oldest = self._numbered(self._files - 1)
        going = _lines_in(oldest) if oldest.exists() else 0
        for number in range(self._files - 1, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self._files == 1:
            self._path.unlink()
        self.rotated_out += going

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def _lines_in(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(partial(file.read, READ_BYTES), b""))

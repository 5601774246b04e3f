"""The audit: one JSON line for each verdict, in files that are rotated, so that their size is bounded and the newest lines are kept.

Lines are made where the verdict falls and written by a thread of its own, twice a second. When the disk is slower than the agents, lines
are dropped and counted, and no agent waits. Lines that go with the oldest file are counted as well: who has not
collected them by then has lost them.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.5
PENDING_LIMIT: Final = 20_000
"""Lines that wait to be written. At 1,500 a second that is a disk that does not answer for 13 s."""

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


class AuditFile:
    """Writes to `path`; when a file is full it becomes `path.1`, that one `path.2`, and so on, at most `files` in all."""

    def __init__(self, path: Path, *, file_bytes: int, files: int) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._files = files
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._lines: list[str] = []
        self._writing: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self.dropped = 0
        """Lines that were not written, since the start."""
        self.rotated_out = 0
        """Lines that were written and went with the oldest file, since the start."""

    def note(self, fields: Fields) -> None:
        if len(self._lines) >= PENDING_LIMIT:
            self.dropped += 1
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._lines.append(_ENCODE({"time": time, **fields}))
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
        elif self._lines:
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

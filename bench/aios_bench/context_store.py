"""How fast a context takes what is appended: single, in batches, from many agents at once; and the disk's own time beside it."""

import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aios_bench.result import percentile
from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.sqlite.context import SqliteContext
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Appended

AGENTS: Final = 64
ROUNDS: Final = 3
"""Each figure is the best of so many: a machine that others use too is slower, never faster."""
TEXT: Final = (
    "Ann told Bob on Tuesday that shipment {} of 42 crates will reach Rotterdam by the end of the month, unless the storm delays it."
)
METHOD: Final = (
    "append_batch_durable_per_s: batches of 1,000 chat-sized items, each waited for on the disk. append_relaxed_per_s: one item a "
    "request, not waited for. append_durable_per_s: one item a request, one writer alone. append_group_commit_ratio: "
    f"{AGENTS} agents with one such request each under way, over that. append_durable_cpu_ms, append_group_cpu_ms: the processor's time "
    "for one append of each, all threads and the kernel's part of fsync together: where that is most of the time of one writer alone, "
    "others gain little by sharing its wait. fsync_ms: of 4 KiB appended to a file beside. reopen_100k_ms: a context of 100,000 items, to "
    f"its newest item; reopen_killed_100k_ms: as a kill leaves it, with a log to recover. Best of {ROUNDS} rounds."
)


def figures(quick: bool) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The figures, and the samples of those that have some."""
    scale = 10 if quick else 1
    with _store() as (store, root):
        single_count, each = 300 // scale, 20 // min(scale, 4)
        single, single_cpu = _with_cpu(lambda: _rate(_context(store, "single"), single_count, durable=True))
        many, many_cpu = _with_cpu(lambda: _many_at_once(store, each))
        found = {
            "append_batch_durable_per_s": _best(lambda: _batches(_context(store, "batches"), 20 // scale)),
            "append_relaxed_per_s": _best(lambda: _rate(_context(store, "relaxed"), 4000 // scale, durable=False)),
            "append_durable_per_s": single,
            "append_group_per_s": many,
            "append_group_commit_ratio": many / single,
            "append_durable_cpu_ms": 1000 * single_cpu / single_count,
            "append_group_cpu_ms": 1000 * many_cpu / (AGENTS * (each + 1)),
        }
        fsync = _fsync_ms(root, 200 // scale)
    reopen, killed = _reopen_ms(100_000 // scale)
    found |= {
        "fsync_ms_p50": percentile(fsync, 50),
        "reopen_100k_ms": percentile(reopen, 50),
        "reopen_killed_100k_ms": percentile(killed, 50),
    }
    return found, {"fsync_ms": fsync, "reopen_ms": reopen, "reopen_killed_ms": killed}


@contextmanager
def _store() -> Iterator[tuple[SqliteStore, Path]]:
    """On the disk of the working directory: /tmp may be memory, where nothing waits."""
    with tempfile.TemporaryDirectory(prefix=".bench-context-", dir=Path.cwd()) as directory:
        store = SqliteStore(Path(directory, "contexts"))
        try:
            yield store, Path(directory)
        finally:
            store.close()


def _context(store: SqliteStore, uid: str) -> SqliteContext:
    return store.context(AgentKey("bench", uid, uid), 1)


def _drafts(count: int, start: int = 0) -> list[Draft]:
    return [Draft(Role.USER, TEXT.format(start + number)) for number in range(count)]


def _best(measure: Callable[[], float]) -> float:
    return max(measure() for _ in range(ROUNDS))


def _with_cpu(measure: Callable[[], float]) -> tuple[float, float]:
    """The best of the rounds, and the least processor time of one in seconds."""
    best, least = 0.0, math.inf
    for _ in range(ROUNDS):
        before = time.process_time()
        best = max(best, measure())
        least = min(least, time.process_time() - before)
    return best, least


def _rate(context: SqliteContext, count: int, *, durable: bool) -> float:
    began = time.perf_counter()
    for number in range(count):
        context.append(_drafts(1, number), durable=durable)
    return count / (time.perf_counter() - began)


def _batches(context: SqliteContext, count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        context.append(_drafts(1000, number))
    return 1000 * count / (time.perf_counter() - began)


def _many_at_once(store: SqliteStore, each: int) -> float:
    """Every agent has one durable append under way at any time, until it has done `each`."""
    contexts = [_context(store, f"agent-{number}") for number in range(AGENTS)]
    for context in contexts:
        context.append(_drafts(1))
    done = threading.Semaphore(0)

    def go_on(context: SqliteContext, left: int) -> None:
        def next_one(before: "Future[Appended]") -> None:
            before.result()
            go_on(context, left - 1)

        if left == 0:
            done.release()
        else:
            context.submit(_drafts(1, left)).add_done_callback(next_one)

    began = time.perf_counter()
    for context in contexts:
        go_on(context, each)
    for _ in contexts:
        done.acquire()
    return AGENTS * each / (time.perf_counter() - began)


def _fsync_ms(directory: Path, count: int) -> list[float]:
    descriptor = os.open(directory / "fsync", os.O_CREAT | os.O_WRONLY)
    samples = []
    try:
        for _ in range(count):
            os.write(descriptor, b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            samples.append(1000 * (time.perf_counter() - began))
    finally:
        os.close(descriptor)
    return samples


def _reopen_ms(items: int) -> tuple[list[float], list[float]]:
    """After the end of the program, and after a kill."""
    killed = []
    with tempfile.TemporaryDirectory(prefix=".bench-context-", dir=Path.cwd()) as directory:
        root = Path(directory, "contexts")
        store = SqliteStore(root)
        context = _context(store, "large")
        for start in range(0, items, 1000):
            context.append(_drafts(1000, start), durable=False)
        for number in range(ROUNDS):
            copy = Path(directory, f"killed-{number}")
            shutil.copytree(root, copy)  # while it is open: what a kill would leave
            killed.append(_opened_ms(copy))
        store.close()
        closed = [_opened_ms(root) for _ in range(ROUNDS)]
    return closed, killed


def _opened_ms(root: Path) -> float:
    began = time.perf_counter()
    store = SqliteStore(root)
    with _context(store, "large").reading() as reader:
        assert len(reader.newest(1)) == 1
    taken = 1000 * (time.perf_counter() - began)
    store.close()
    return taken

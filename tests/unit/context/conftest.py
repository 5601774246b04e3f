"""Every back end of the context store, for the suite that all of them pass."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import ContextStore
from aios_sidecar.context.volatile import VolatileStore
from unit.context.support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sqlite(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., SqliteStore]]:
    """Opens a store in the same directory, again and again; of two that are open at once the second is refused."""
    opened: list[SqliteStore] = []

    def open_(**options: object) -> SqliteStore:
        store = SqliteStore(tmp_path / "contexts", clock=clock, **options)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        store.close()


@pytest.fixture(params=["volatile", "sqlite"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Iterator[ContextStore]:
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")()
    else:
        yield VolatileStore(clock)

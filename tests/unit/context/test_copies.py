"""Snapshots of a context, and its move to another store."""

from pathlib import Path

import pytest

from aios_sidecar.context.errors import Conflict, Damaged, Fenced
from aios_sidecar.context.items import Draft, Kind, Role
from aios_sidecar.context.sqlite import copies
from aios_sidecar.context.sqlite.move import Destination, Source, move
from aios_sidecar.context.sqlite.store import FILE, SqliteStore
from aios_sidecar.context.store import Appended, Scope
from unit.context.support import KEY, Clock, said


@pytest.fixture
def other(tmp_path, clock: Clock):
    store = SqliteStore(tmp_path / "other node", clock=clock)
    yield store
    store.close()


def all_of(context) -> list[tuple]:
    with context.reading() as reader:
        items = reader.oldest(10_000)
        assert {hit.seq for hit in reader.search(["word"], 10_000)} == {item.seq for item in items if "word" in item.content}
        return [(item.seq, item.content, item.session, item.pinned, item.importance, item.labels) for item in items]


def a_context(store: SqliteStore):
    context = store.context(KEY, 1)
    context.append(said(*(f"word {number}" for number in range(200)), labels={"a": "b"}))
    context.append(said("in another", session="b"), key="k")
    context.append([Draft(Role.ASSISTANT, "word of words", Kind.SUMMARY, derived_from=(1, 2))])
    context.pin([3])
    context.weigh([4], 0.5)
    context.keep_vectors("mini", {5: b"\x00\xff"})
    return context


def test_a_snapshot_is_one_file_and_is_restored_by_its_digest(sqlite, other):
    context = a_context(sqlite())
    snapshot = context.snapshot()
    before = all_of(context)
    context.append(said("later"))
    assert snapshot.path.name == f"202-{snapshot.digest}.db"
    assert snapshot.digest == copies.of_bytes(snapshot.path)
    assert (snapshot.last_seq, snapshot.file_bytes) == (202, snapshot.path.stat().st_size)
    assert not list(snapshot.path.parent.glob("*.part"))
    with pytest.raises(Conflict, match="must have the digest"):
        other.restore(KEY, 1, snapshot.path, "0" * 64)
    restored = other.restore(KEY, 2, snapshot.path, snapshot.digest)
    assert all_of(restored) == before
    with restored.reading() as reader:
        assert reader.vectors("mini", [5]) == {5: b"\x00\xff"}
    assert restored.append(said("in another", session="b"), key="k") == Appended(201, 201, replayed=True)
    assert restored.append(said("new")) == Appended(203, 203)
    with pytest.raises(Conflict, match="there is a context already"):
        other.restore(KEY, 2, snapshot.path, snapshot.digest)


def test_only_the_newest_snapshots_stay_and_none_through_an_erasure(sqlite):
    context = a_context(sqlite())
    made = []
    for number in range(5):
        context.append(said(str(number)))
        made.append(context.snapshot().path)
    assert [path.exists() for path in made] == [False, False, True, True, True]
    assert context.erase(Scope(items=(1,))).places["snapshots"] == 3
    assert not any(path.exists() for path in made)


def test_a_damaged_context_is_restored_from_a_snapshot_that_was_taken_elsewhere(sqlite, tmp_path):
    store = sqlite()
    context = a_context(store)
    snapshot = context.copy_to(tmp_path / "copy.db")
    before = all_of(context)
    store.close()
    (store.folder(KEY.uid) / FILE).write_bytes(b"x" * 9000)
    store = sqlite()
    with pytest.raises(Damaged):
        store.context(KEY, 1)
    assert all_of(store.restore(KEY, 1, snapshot.path, snapshot.digest)) == before


def test_a_moved_context_is_the_same_there_and_can_not_be_written_here(sqlite, other, tmp_path):
    here = sqlite()
    context = a_context(here)
    source, destination = Source(here, KEY, 2), Destination(other, KEY, 2)
    assert not destination.completed()
    snapshot = source.snapshot(tmp_path / "copy.db")
    with pytest.raises(Conflict, match="must be handed over before its tail"):
        source.tail(snapshot)
    with pytest.raises(Conflict, match="must be received"):
        destination.complete({})
    destination.receive(snapshot.path, snapshot.digest)
    context.append(said("word after the snapshot"), key="late")
    context.keep_vectors("mini", {9: b"made meanwhile", 203: b"new"})
    context.erase(Scope(items=(7,)))
    context.pin([8])
    context.fork(2, "c")
    source.hand_over()
    before = all_of(context)
    for write in (lambda: context.append(said("x")), lambda: here.context(KEY, 2), lambda: context.erase(Scope(items=(1,)))):
        with pytest.raises(Fenced):
            write()
    tail = copies.decode(copies.encode(source.tail(snapshot)))
    with pytest.raises(Conflict, match="does not say what its source does"):
        destination.complete({**tail, "digest": "0"})
    destination.complete(tail)
    destination.complete(tail)
    assert destination.completed()
    moved = other.context(KEY, 2)
    assert all_of(moved) == before
    assert moved.append(said("word after the snapshot"), key="late") == Appended(203, 203, replayed=True)
    assert moved.append(said("new")) == Appended(204, 204)
    with moved.reading() as reader:
        assert reader.vectors("mini", [5, 9, 203]) == {5: b"\x00\xff", 203: b"new"}, "what is missing is made anew"
        assert [item.seq for item in reader.oldest(9, session="c")] == [1, 2]
    with pytest.raises(Fenced):
        other.context(KEY, 1)
    source.release()
    source.release()
    assert not here.holds(KEY)


def test_what_is_here_is_not_thrown_away_for_what_comes(sqlite, other, tmp_path):
    here = sqlite()
    a_context(here)
    other.context(KEY, 1).append(said("of another life"))
    source, destination = Source(here, KEY, 2), Destination(other, KEY, 2)
    snapshot = source.snapshot(tmp_path / "copy.db")
    destination.receive(snapshot.path, snapshot.digest)
    source.hand_over()
    with pytest.raises(Conflict, match="there is another context"):
        destination.complete(source.tail(snapshot))
    with other.context(KEY, 1).reading() as reader:
        assert [item.content for item in reader.oldest(9)] == ["of another life"]


def test_a_context_moves_away_and_back(sqlite, other, tmp_path):
    here = sqlite()
    before = all_of(a_context(here))
    for attempt, source, destination in ((2, here, other), (3, other, here), (4, here, other)):
        through = tmp_path / f"through-{attempt}"
        through.mkdir()
        move(Source(source, KEY, attempt), Destination(destination, KEY, attempt), through)
        assert not source.holds(KEY)
        context = destination.context(KEY, attempt)
        assert all_of(context) == before
        context.append(said(f"word of attempt {attempt}"))
        before = all_of(context)


def test_what_was_handed_over_in_vain_is_taken_up_again_by_a_later_attempt(sqlite, tmp_path):
    here = sqlite()
    context = a_context(here)
    Source(here, KEY, 2).hand_over()
    with pytest.raises(Fenced, match="handed over"):
        here.context(KEY, 2)
    assert here.context(KEY, 3).append(said("on")).first == 203
    with pytest.raises(Fenced):
        context.append(said("x"))
    with pytest.raises(Conflict, match="handed over to attempt 2 before"):
        Source(here, KEY, 2).release()


def test_a_copy_is_complete_whatever_is_in_it(tmp_path: Path, sqlite):
    """Every table that the format has is part of a tail."""
    store = sqlite()
    context = a_context(store)
    with store.use(context._holder) as file:
        tables = {name for (name,) in file._base.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    derived = {name for name in tables if name.startswith(("words", "sqlite_"))}
    assert tables - derived == {*copies.WHOLE, *(table for table, _ in copies.BY_ITEM), "about"}

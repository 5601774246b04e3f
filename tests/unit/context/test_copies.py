"""Snapshots of a context, and its move to another store."""

from datetime import timedelta
from pathlib import Path

import pytest

from aios_sidecar.context.errors import Busy, Conflict, Damaged, Fenced, NotThere, TooMuch
from aios_sidecar.context.items import Draft, Kind, Role
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.sqlite import copies
from aios_sidecar.context.sqlite.folder import FILE, copies_in
from aios_sidecar.context.sqlite.move import Destination, Source, move
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import Appended, Scope
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.window import Memory, WindowRequest, build_window
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
    snapshot = source.snapshot()
    with pytest.raises(Conflict, match="must be handed over before its tail"):
        source.tail(snapshot.last_seq)
    with pytest.raises(Conflict, match="must be received"):
        destination.complete({})
    destination.receive(copies.pieces(snapshot.path), snapshot.digest)
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
    tail = copies.decode(copies.encode(source.tail(snapshot.last_seq)))
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
    with pytest.raises(Conflict, match="completed its move"):
        source.snapshot()


def test_where_there_is_no_context_none_begins_any_more_once_a_later_attempt_has_asked(sqlite):
    here = sqlite()
    for attempt in (2, 2, 3):
        with pytest.raises(NotThere):
            Source(here, KEY, attempt).hand_over()
    with pytest.raises(Fenced):
        here.context(KEY, 3)
    assert here.context(KEY, 4).append(said("x")).first == 1
    with pytest.raises(Conflict):
        here.close_off(KEY, 5)


def test_where_a_context_went_from_no_attempt_before_begins_another(sqlite, other):
    here = sqlite()
    context = a_context(here)
    move(Source(here, KEY, 2), Destination(other, KEY, 2))
    for write in (lambda: context.append(said("x")), lambda: here.context(KEY, 1), lambda: here.context(KEY, 2), context.describe):
        with pytest.raises(Fenced, match="handed over to attempt 2"):
            write()
    here.close()
    here = sqlite()
    with pytest.raises(Fenced):
        here.context(KEY, 2)
    assert (here.agents(), here.holds(KEY)) == ([], False)
    assert here.context(KEY, 3).append(said("a new life")).first == 1


def test_nothing_that_was_erased_on_the_way_is_left_in_any_file_of_it(sqlite, other):
    here = sqlite()
    context = a_context(here)
    context.append(said("sesquipedalian " * 3000, author="eve"))
    source, destination = Source(here, KEY, 2), Destination(other, KEY, 2)
    snapshot = source.snapshot()
    destination.receive(copies.pieces(snapshot.path), snapshot.digest)
    source.forget_copy()
    context.erase(Scope(author="eve"))
    source.hand_over()
    destination.complete(source.tail(snapshot.last_seq))
    other.close()
    for store in (here, other):
        assert not any(b"sesquipedalian" in path.read_bytes() for path in store.folder(KEY.uid).rglob("*") if path.is_file())


def test_another_context_that_an_attempt_began_meanwhile_is_kept_as_a_snapshot(sqlite, other):
    here = sqlite()
    before = all_of(a_context(here))
    began = other.context(KEY, 2)
    began.append(said("of another life"))
    move(Source(here, KEY, 3), Destination(other, KEY, 3))
    assert all_of(other.context(KEY, 3)) == before
    (kept,) = (other.folder(KEY.uid) / "snapshots").iterdir()
    assert b"of another life" in kept.read_bytes()


def test_who_begins_empty_begins_empty_whatever_is_left_of_a_move_and_that_is_kept_as_a_snapshot(sqlite):
    here = sqlite()
    a_context(here)
    Source(here, KEY, 2).hand_over()
    destination = Destination(here, KEY, 3)
    destination.begin_empty()
    destination.begin_empty()
    assert destination.completed()
    assert here.context(KEY, 3).describe().first_attempt == 3
    assert all_of(here.context(KEY, 3)) == []
    (kept,) = (here.folder(KEY.uid) / "snapshots").iterdir()
    assert b"in another" in kept.read_bytes()


def test_what_a_move_left_half_done_is_removed(sqlite, other, tmp_path):
    here = sqlite()
    context = a_context(here)
    context.append(said("sesquipedalian " * 3000, author="eve"))
    source, destination = Source(here, KEY, 2), Destination(other, KEY, 2)
    snapshot = source.snapshot()
    destination.receive(copies.pieces(snapshot.path), snapshot.digest)
    destination.forget()
    assert not other.folder(KEY.uid).exists()
    destination.receive(copies.pieces(snapshot.path), snapshot.digest)
    assert context.erase(Scope(author="eve")).places["copies"] == 1
    assert not any(b"sesquipedalian" in path.read_bytes() for path in here.folder(KEY.uid).rglob("*") if path.is_file())
    source.snapshot()
    here.close()
    other.close()
    for store in (sqlite(), SqliteStore(tmp_path / "other node")):
        assert copies_in(store.folder(KEY.uid)) == [], "the next program begins without them"
        store.close()
    here = sqlite()
    assert here.holds(KEY)


def test_a_context_that_is_being_read_is_not_taken_away(sqlite, other):
    here = sqlite()
    context = a_context(here)
    source = Source(here, KEY, 2)
    source.hand_over()
    with context.reading() as reader:
        with pytest.raises(Busy):
            source.release()
        assert reader.oldest(1)
    source.release()


def test_more_than_a_tail_may_have_is_in_a_snapshot_that_is_made_after_the_hand_over(sqlite, other):
    here = sqlite()
    context = a_context(here)
    source, destination = Source(here, KEY, 2), Destination(other, KEY, 2)
    first = source.snapshot()
    context.append(said("word " * 1000))
    source.hand_over()
    for said_there in (None, "0" * 64):
        with pytest.raises(TooMuch, match="more than 4096 bytes"):
            source.tail(first.last_seq, 4096, said_there)
    again = source.snapshot()
    destination.receive(copies.pieces(again.path), again.digest)
    tail = copies.decode(copies.encode(source.tail(again.last_seq, 4096, destination.said())))
    assert tail["rows"] == {}
    destination.complete(tail)
    assert all_of(other.context(KEY, 2)) == all_of(here.existing(KEY, 2))


def test_nobody_writes_or_erases_where_a_context_was_handed_over(sqlite):
    """Not even a visitor, who is refused by no other fence: the receipt would be for what goes on elsewhere."""
    here = sqlite()
    a_context(here)
    Source(here, KEY, 2).hand_over()
    visitor = here.existing(KEY, 2**31 - 1)
    for write in (lambda: visitor.append(said("x")), lambda: visitor.pin([1]), lambda: visitor.erase(Scope(everything=True))):
        with pytest.raises(Fenced, match="handed over to attempt 2"):
            write()


def test_where_a_context_was_handed_over_nothing_is_retired_any_more(sqlite, clock):
    """Else no copy would say what the file does a moment later."""
    here = sqlite()
    context = a_context(here)
    source = Source(here, KEY, 2)
    source.hand_over()
    snapshot = source.snapshot()
    clock.now += timedelta(days=1000)
    source.hand_over()
    assert here.existing(KEY, 2).describe().retired == 0
    source.tail(snapshot.last_seq)
    assert context.describe().items == 202


def test_a_summary_of_what_went_on_the_way_is_the_same_there(sqlite, other):
    """What it was made from is gone: a link to that is on neither side."""
    here = sqlite()
    context = a_context(here)
    source, destination = Source(here, KEY, 2), Destination(other, KEY, 2)
    snapshot = source.snapshot()
    destination.receive(copies.pieces(snapshot.path), snapshot.digest)
    context.limit(Limits(items=150))
    context.append(said("word"))
    source.hand_over()
    destination.complete(source.tail(snapshot.last_seq))
    assert all_of(other.context(KEY, 2)) == all_of(here.existing(KEY, 2))


def test_a_tail_writes_into_tables_of_the_format_and_into_no_other(sqlite, other):
    here = sqlite()
    a_context(here)
    source, destination = Source(here, KEY, 2), Destination(other, KEY, 2)
    snapshot = source.snapshot()
    destination.receive(copies.pieces(snapshot.path), snapshot.digest)
    source.hand_over()
    tail = source.tail(snapshot.last_seq)
    destination.complete({**tail, "rows": {**tail["rows"], "about VALUES (1, 2); --": [[1]], "sqlite_schema": [[1]]}})
    assert all_of(other.context(KEY, 2)) == all_of(here.existing(KEY, 2))


def test_an_empty_context_that_is_used_is_not_replaced_by_a_snapshot(sqlite, other):
    snapshot = a_context(other).snapshot()
    here = sqlite()
    with here.context(KEY, 1).reading(), pytest.raises(Busy):
        here.restore(KEY, 1, snapshot.path, snapshot.digest)
    here.restore(KEY, 1, snapshot.path, snapshot.digest)


def test_windows_of_a_context_that_took_the_place_of_another_are_made_anew(sqlite, other):
    """Under one uid: what is remembered of the items and costs of one says nothing of the other."""
    here, memory = sqlite(), Memory()
    request = WindowRequest(budget=120, model="gpt-4o", query="what was said of words?")

    def window():
        with here.existing(KEY, 1).reading() as reader:
            return build_window(reader, request, memory, here.ages(), Models())

    here.context(KEY, 1).append(said(*("short" for _ in range(9))))
    window()
    there = other.context(KEY, 2)
    there.append(said(*("a much longer text of many words " * 5 for _ in range(9))))
    move(Source(other, KEY, 3), Destination(here, KEY, 3))
    assert window().tokens <= 120
    assert (window().tokens, window().units) == (anew(here, request).tokens, anew(here, request).units)
    Source(here, KEY, 4).hand_over()
    Destination(here, KEY, 5).begin_empty()
    assert window().units == []


def anew(store: SqliteStore, request: WindowRequest):
    with store.existing(KEY, 1).reading() as reader:
        return build_window(reader, request, Memory(), store.ages(), Models())


def test_a_context_moves_away_and_back(sqlite, other):
    here = sqlite()
    before = all_of(a_context(here))
    for attempt, source, destination in ((2, here, other), (3, other, here), (4, here, other)):
        move(Source(source, KEY, attempt), Destination(destination, KEY, attempt))
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

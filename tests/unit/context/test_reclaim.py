"""Whether a context is to be erased once its agent is gone: kept beside it, whatever becomes of it, and taken away at once when it is."""

from aios_sidecar.context.sqlite.move import Destination, Source, move
from aios_sidecar.context.sqlite.reclaim import MARK
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Scope
from unit.context.support import KEY, said

OTHER = AgentKey("team", "other", "0b1d")


def test_it_is_known_to_the_next_program_and_can_be_taken_back(sqlite):
    store = sqlite()
    store.context(KEY, 1).append(said("a"))
    store.reclaim(KEY, erase=True)
    store.close()
    store = sqlite()
    assert store.reclaimable() == [KEY]
    store.reclaim(KEY, erase=False)
    assert store.reclaimable() == []


def test_it_counts_for_a_context_that_begins_later(sqlite):
    store = sqlite()
    store.reclaim(KEY, erase=True)
    assert store.reclaimable() == []
    store.context(KEY, 1).append(said("a"))
    assert store.reclaimable() == [KEY]


def test_erasing_all_that_is_in_it_changes_nothing_of_that(sqlite):
    store = sqlite()
    store.reclaim(KEY, erase=True)
    store.context(KEY, 1).append(said("a"))
    store.existing(KEY, 1).erase(Scope(everything=True))
    assert store.reclaimable() == [KEY]


def test_taking_it_away_leaves_nothing_and_no_other_agent_loses_anything(sqlite):
    store = sqlite()
    for key in (KEY, OTHER):
        store.reclaim(key, erase=True)
        store.context(key, 1).append(said("a"))
    assert store.take_away(KEY) > 1
    assert store.take_away(KEY) == 0
    assert not store.folder(KEY.uid).exists()
    assert store.reclaimable() == [OTHER]
    with store.context(OTHER, 1).reading() as reader:
        assert len(reader.oldest(9)) == 1


def test_what_says_that_a_context_went_elsewhere_is_taken_away_as_well(tmp_path, sqlite):
    here, there = sqlite(), SqliteStore(tmp_path / "there")
    for store in (here, there):
        store.reclaim(KEY, erase=True)
    here.context(KEY, 1).append(said("a"))
    move(Source(here, KEY, 2), Destination(there, KEY, 2))
    assert here.reclaimable() == there.reclaimable() == [KEY]
    assert here.take_away(KEY) == 2
    assert not here.folder(KEY.uid).exists()
    assert there.holds(KEY)
    there.close()


def test_a_mark_that_can_not_be_read_or_is_another_agents_erases_nothing(sqlite):
    store = sqlite()
    for key in (KEY, OTHER):
        store.reclaim(key, erase=True)
        store.context(key, 1).append(said("a"))
    (store.folder(KEY.uid) / MARK).write_text("{")
    (store.folder(OTHER.uid) / MARK).write_text('{"namespace": "team", "name": "coder", "uid": "6a9c"}')
    assert store.reclaimable() == []

"""A file that is damaged is found to be, set aside, reported, and never silently replaced; and files of other formats."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_sidecar.context.errors import Damaged, Unwritable
from aios_sidecar.context.items import Draft, Kind, Role
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.sqlite import schema
from aios_sidecar.context.sqlite.folder import FILE, IDENTITY, RELEASED
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Appended, Observer, Scope
from unit.context.support import KEY, said


def folder(store: SqliteStore) -> Path:
    return store.folder(KEY.uid)


def kept(store: SqliteStore, attempt: int = 1) -> list[str]:
    with store.context(KEY, attempt).reading() as reader:
        return [item.content for item in reader.oldest(1000)]


class Told(Observer):
    def __init__(self) -> None:
        self.damages: list[str] = []

    def damaged(self, key: AgentKey, why: str) -> None:
        self.damages.append(f"{key.name}: {why}")


@pytest.mark.parametrize("damage", ["header", "middle", "truncated", "text"])
def test_a_damaged_file_is_set_aside_reported_and_not_replaced(sqlite, damage):
    observer = Told()
    store = sqlite(observer=observer)
    store.context(KEY, 1).append([Draft(Role.USER, f"{number} {'long ' * 100}") for number in range(200)])
    path = folder(store) / FILE
    store.close()
    content = path.read_bytes()
    page = schema.PAGE_BYTES
    path.write_bytes(
        {
            "header": b"\0" * 100 + content[100:],
            "middle": content[:page] + b"\xff" * (len(content) - page),
            "truncated": content[: 3 * page],
            "text": b"not a database",
        }[damage]
    )
    damaged_bytes = path.read_bytes()
    store = sqlite(observer=observer)
    with pytest.raises(Damaged):
        kept(store)
    assert len(observer.damages) == 1
    assert observer.damages[0].startswith("coder: ")
    (aside,) = (folder(store) / "damaged").glob(f"*/{FILE}")
    if damage != "header":
        assert aside.read_bytes()[:page] == damaged_bytes[:page]
    assert len(aside.read_bytes()) == len(damaged_bytes)
    for _ in range(2):
        for use in (lambda: kept(store), lambda: store.context(KEY, 1).append(said("x")), lambda: store.context(KEY, 2)):
            with pytest.raises(Damaged):
                use()
    assert len(observer.damages) == 1
    assert store.context(KEY._replace(uid="77"), 1).append(said("x")) == Appended(1, 1), "others are not disturbed"


def test_after_damage_only_an_erasure_of_everything_begins_anew(sqlite):
    store = sqlite()
    context = store.context(KEY, 1)
    context.append(said("a"))
    store.close()
    (folder(store) / FILE).write_bytes(b"x" * 9000)
    store = sqlite()
    with pytest.raises(Damaged):
        context = store.context(KEY, 1)
    with pytest.raises(Damaged, match="restore a snapshot of it, or erase everything"):
        store.existing(KEY, 1).erase(Scope(items=(1,)))
    receipt = store.existing(KEY, 1).erase(Scope(everything=True))
    assert receipt.places == {"damaged": 2}
    assert not (folder(store) / "damaged").exists()
    assert kept(store) == []
    store.context(KEY, 1).append(said("b"))
    assert kept(store) == ["b"]


def test_a_file_that_is_gone_is_missed(sqlite):
    store = sqlite()
    store.context(KEY, 1).append(said("a"))
    store.close()
    (folder(store) / FILE).unlink()
    with pytest.raises(Damaged, match="is gone"):
        sqlite().context(KEY, 1)


READS: dict[str, Callable[[Reader], object]] = {
    "newest": lambda reader: reader.newest(5),
    "oldest": lambda reader: reader.oldest(5),
    "range": lambda reader: reader.range(1, 9),
    "session": lambda reader: reader.range(1, 9, "main"),
    "by number": lambda reader: reader.by_seq([2]),
    "neighbours": lambda reader: reader.neighbours(1, 1),
    "call": lambda reader: reader.answers(reader.by_seq([1])[0]._replace(kind=Kind.TOOL_CALL, call_id="c")),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("letter", [b"X", b"\xff"], ids=["another letter", "no letter"])
def test_a_letter_that_changed_on_the_disk_is_found_by_every_read(sqlite, read, letter):
    observer = Told()
    store = sqlite(observer=observer)
    result = Draft(Role.TOOL, "the answer is forty-two", Kind.TOOL_RESULT, call_id="c")
    store.context(KEY, 1).append([*said("first"), result, *said("last")])
    store.close()
    path = folder(store) / FILE
    content = path.read_bytes()
    assert content.count(b"forty-two") == 1
    path.write_bytes(content.replace(b"forty-two", b"forty-tw" + letter))
    store = sqlite(observer=observer)
    with pytest.raises(Damaged) as refused, store.context(KEY, 1).reading() as reader:
        READS[read](reader)
    assert "forty" not in str(refused.value), "a message is read by others than the agent"
    assert len(observer.damages) == 1
    assert list((folder(store) / "damaged").glob(f"*/{FILE}"))
    with pytest.raises(Damaged, match="restore a snapshot of it"):
        store.context(KEY, 1)


@pytest.mark.parametrize("letter", [b"X", b"\xff"], ids=["another letter", "no letter"])
def test_no_snapshot_of_a_damaged_item_takes_the_place_of_a_good_one(sqlite, letter):
    store = sqlite()
    store.context(KEY, 1).append(said("the answer is forty-two", "last"))
    good = store.context(KEY, 1).snapshot()
    store.close()
    path = folder(store) / FILE
    path.write_bytes(path.read_bytes().replace(b"forty-two", b"forty-tw" + letter))
    store = sqlite()
    with pytest.raises(Damaged):
        store.context(KEY, 1).snapshot()
    assert list((folder(store) / "snapshots").iterdir()) == [good.path]
    restored = store.restore(KEY, 1, good.path, good.digest)
    with restored.reading() as reader:
        assert [item.content for item in reader.oldest(9)] == ["the answer is forty-two", "last"]


CHANGES = ["session = 9", "time = time + 1", "role = 2", "kind = 2", "author = 'eve'", "author = NULL", "call_id = 'd'", "derived = '[1]'"]
CHANGES += ['labels = \'{"a":"c"}\'', "tokens = NULL", "parts = 1", "content = 'second '", "content = NULL", "seq = 7", "sum = sum + 1"]


@pytest.mark.parametrize("change", CHANGES)
def test_every_part_of_an_item_is_under_its_checksum(sqlite, change):
    store = sqlite()
    store.context(KEY, 1).append(said("first"))
    item = Draft(Role.USER, "second", author="ann", call_id="c", labels={"a": "b"}, tokens={"t": 1})
    store.context(KEY, 1).append([item])
    assert kept(store) == ["first", "second"]
    store.close()
    base = sqlite3.connect(folder(store) / FILE)
    base.execute("PRAGMA writable_schema = ON")
    base.execute("UPDATE sqlite_schema SET sql = replace(sql, 'content TEXT NOT NULL', 'content TEXT') WHERE name = 'items'")
    base.commit()
    base.close()
    base = sqlite3.connect(folder(store) / FILE)
    base.execute(f"UPDATE items SET {change} WHERE seq = 2")
    base.commit()
    base.close()
    with pytest.raises(Damaged, match="its checksum differs"):
        kept(sqlite())


def test_a_file_of_the_first_format_becomes_one_of_this_and_keeps_what_is_in_it(sqlite):
    store = sqlite()
    store.context(KEY, 1).append(said("a", "b"))
    store.close()
    base = sqlite3.connect(folder(store) / FILE)
    base.execute("ALTER TABLE items DROP COLUMN sum")
    base.execute("DROP TABLE vectors")
    base.execute("CREATE TABLE vectors (name TEXT, item INTEGER, value BLOB NOT NULL, PRIMARY KEY (name, item)) WITHOUT ROWID")
    base.execute("PRAGMA user_version = 1")
    base.commit()
    base.close()
    for _ in range(2):
        store = sqlite()
        assert kept(store)[:2] == ["a", "b"]
        context = store.context(KEY, 1)
        context.append(said("c"))
        context.keep_vectors("mini", {1: b"v"})
        with context.reading() as reader:
            assert reader.vectors("mini", [1]) == {1: b"v"}
        store.close()
    with sqlite3.connect(folder(store) / FILE) as base:
        assert [row[0] is None for row in base.execute("SELECT sum FROM items")] == [True, True, False, False]
    base.close()


def test_a_file_of_a_later_format_is_left_as_it_is(sqlite):
    store = sqlite()
    store.context(KEY, 1).append(said("a"))
    store.close()
    path = folder(store) / FILE
    base = sqlite3.connect(path)
    base.execute("PRAGMA user_version = 99")
    base.close()
    store = sqlite()
    with pytest.raises(Unwritable, match="format 99"):
        store.context(KEY, 1)
    assert path.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"namespace": "n", "name": "other", "uid": "another"}'])
def test_a_context_whose_identity_is_damaged_hides_no_other_and_is_whole_once_its_agent_came(sqlite, damage):
    store = sqlite()
    other = KEY._replace(name="other", uid="other")
    for key in (KEY, other):
        store.context(key, 1).append([Draft(Role.USER, "a")])
    (folder(store) / IDENTITY).write_bytes(damage)
    store.close()
    again = sqlite()
    assert set(again.agents()) == {AgentKey("", "", KEY.uid), other}
    assert kept(again) == ["a"]
    assert set(again.agents()) == {KEY, other}


def test_what_says_where_a_context_went_is_damage_when_it_can_not_be_read(sqlite):
    store = sqlite()
    store.folder(KEY.uid).mkdir()
    (store.folder(KEY.uid) / RELEASED).write_text("{")
    with pytest.raises(Damaged, match=r"released\.json, which says to which attempt the context was handed over, can't be read"):
        store.context(KEY, 1)

"""`python -m faults.context_kills SCENARIO FOLDER`: kills a child at every write of the scenario, and looks at what is left each time.

A program of its own, because a child is made by fork, which wants a process of one thread.
"""

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.sqlite import copies
from aios_sidecar.context.sqlite.folder import FILE
from aios_sidecar.context.sqlite.move import Destination, Source, move
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Scope
from faults import channel_kills
from faults.stepping import killed_before

KEY = AgentKey("team", "coder", "6a9c")
Tell = Callable[[str], None]
BATCHES = ["ab", "c", "defg", "h"]
SECRET = "sesquipedalian"


def said(texts: str) -> list[Draft]:
    return [Draft(Role.USER, f"{text} {'long ' * 200}") for text in texts]


def kept(store: SqliteStore) -> str:
    with store.context(KEY, 2).reading() as reader:
        items = reader.oldest(100)
        assert [item.seq for item in items] == list(range(1, len(items) + 1))
        assert len(reader.search(["long"], 100)) == len(items)
        return "".join(item.content[0] for item in items)


def sound(root: Path) -> None:
    """SQLite finds no fault in the file, and what it counts is what there is."""
    base = sqlite3.connect(root / KEY.uid / FILE)
    assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    base.close()


def appends(root: Path, tell: Tell) -> None:
    store = SqliteStore(root)
    context = store.context(KEY, 1)
    for number, batch in enumerate(BATCHES):
        context.append(said(batch), key=f"key-{number}")
        tell(batch)
    context.append(said("i"), durable=False)
    context.pin([1])
    context.keep_vectors("mini", {1: SECRET.encode(), 2: b"v"})
    store.close()


def check_appends(root: Path, told: list[str]) -> str | None:
    store = SqliteStore(root)
    try:
        found, acknowledged = kept(store), "".join(told)
        whole = ["".join(BATCHES[:count]) for count in range(len(BATCHES) + 1)] + ["".join(BATCHES) + "i"]
        if found not in whole:
            return f"a batch in part: {found}"
        if not found.startswith(acknowledged):
            return f"acknowledged {acknowledged}, kept {found}"
        if len(found) > len(acknowledged) and found not in (whole[len(told) + 1], whole[-1]):
            return f"more than one batch that was not acknowledged: {acknowledged}, {found}"
        context = store.context(KEY, 2)
        for number, batch in enumerate(BATCHES):  # the agent, who does not know, appends all of it again
            context.append(said(batch), key=f"key-{number}")
        if kept(store).replace("i", "") != "".join(BATCHES):
            return f"doubled or lost by the second try: {kept(store)}"
    finally:
        store.close()
    return None


def erasure(root: Path, tell: Tell) -> None:
    store = SqliteStore(root)
    context = store.context(KEY, 1)
    tell(str(context.erase(Scope(author="eve")).items))
    store.close()


def before_erasure(root: Path) -> None:
    store = SqliteStore(root)
    context = store.context(KEY, 1)
    context.append(said("abc"))
    context.append([Draft(Role.USER, f"{SECRET} {number}", author="eve") for number in range(3)])
    context.keep_vectors("mini", {seq: f"vector of {SECRET}".encode() for seq in (4, 5, 6)})
    store.close()


def check_erasure(root: Path, told: list[str]) -> str | None:
    if told and SECRET.encode() in raw(root):
        return "acknowledged, and the bytes are there"
    store = SqliteStore(root)
    try:
        with store.context(KEY, 1).reading() as reader:
            left = len([item for item in reader.oldest(100) if item.author == "eve"])
        if left not in (0, 3):
            return f"erased in part: {left} of 3 left"
        if told and left:
            return "acknowledged, and the items are there"
        store.context(KEY, 1).erase(Scope(author="eve"))
        if SECRET.encode() in raw(root):
            return "the bytes are there after the second try"
        if kept_letters(store) != "abc":
            return "other items are gone"
    finally:
        store.close()
    return None


def kept_letters(store: SqliteStore) -> str:
    with store.context(KEY, 1).reading() as reader:
        return "".join(item.content[0] for item in reader.oldest(100))


def raw(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def moving(root: Path, tell: Tell) -> None:
    here, there = SqliteStore(root / "here"), SqliteStore(root / "there")
    context = here.context(KEY, 1)
    for batch in BATCHES[:3]:
        context.append(said(batch), key=batch)
        tell(batch)
    source, destination = Source(here, KEY, 2), Destination(there, KEY, 2)
    snapshot = source.snapshot()
    destination.receive(copies.pieces(snapshot.path), snapshot.digest)
    context.append(said(BATCHES[3]), key=BATCHES[3])
    tell(BATCHES[3])
    source.hand_over()
    destination.complete(source.tail(snapshot.last_seq))
    source.release()
    there.context(KEY, 2).append(said("i"), key="i")
    tell("i")
    here.close()
    there.close()


def check_moving(root: Path, told: list[str]) -> str | None:
    """Who was cut off moves anew, from the beginning; then the agent appends all of it again."""
    here, there = SqliteStore(root / "here"), SqliteStore(root / "there")
    try:
        if not Destination(there, KEY, 2).completed() and not here.holds(KEY):
            here.context(KEY, 1)  # killed before there was anything
        move(Source(here, KEY, 2), Destination(there, KEY, 2))
        if here.holds(KEY):
            return "the source still has it"
        if not kept(there).startswith("".join(told)):
            return f"acknowledged {''.join(told)}, kept {kept(there)}"
        for batch in (*BATCHES, "i"):
            there.context(KEY, 2).append(said(batch), key=batch)
        if kept(there) != "".join(BATCHES) + "i":
            return f"doubled or lost: {kept(there)}"
    finally:
        here.close()
        there.close()
    return None


def reclaiming(root: Path, tell: Tell) -> None:
    store = SqliteStore(root)
    store.reclaim(KEY, erase=True)
    store.context(KEY, 1).append(said("ab"))
    store.existing(KEY, 1).snapshot()
    tell("kept")
    store.take_away(KEY)
    tell("gone")
    store.close()


def check_reclaiming(root: Path, told: list[str]) -> str | None:
    """What was cut off is completed by the next store, or found by its mark and taken away."""
    store = SqliteStore(root)
    try:
        if "gone" in told and list(root.iterdir()):
            return f"acknowledged, and there is {next(iter(root.iterdir())).name}"
        if list(root.glob("*/*.db")) and store.reclaimable() != [KEY]:
            return "what is there is not known to be erased once its agent is gone"
        if told == ["kept"] and store.holds(KEY) and kept(store) != "ab":
            return "what is not taken away yet is not whole"
        store.take_away(KEY)
        if list(root.iterdir()):
            return f"after the second try there is {next(iter(root.iterdir())).name}"
    finally:
        store.close()
    return None


SCENARIOS = {
    "appends": (lambda root: None, appends, check_appends),
    "erasure": (before_erasure, erasure, check_erasure),
    "moving": (lambda root: None, moving, check_moving),
    "reclaiming": (lambda root: None, reclaiming, check_reclaiming),
    "giving": (channel_kills.before, channel_kills.giving, channel_kills.check),
    "fetching": (channel_kills.before, channel_kills.fetching, channel_kills.check),
}


def main(scenario: str, folder: Path) -> None:
    prepare, work, check = SCENARIOS[scenario]
    prepared = folder / "prepared"
    prepared.mkdir()
    prepare(prepared)
    faults, kills = [], 0
    while True:
        root = folder / "contexts"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(prepared, root)
        told, killed = killed_before(kills + 1, lambda tell, root=root: work(root, tell))
        if fault := next((line for line in told if line.startswith("FAILED")), None) or check(root, told):
            faults.append(f"killed before change {kills + 1}: {fault}")
        if scenario == "appends" and root.exists():
            sound(root)
        if not killed:
            break
        kills += 1
    print(json.dumps({"kills": kills, "faults": faults, "told": told}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

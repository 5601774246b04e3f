"""The store on the disk does what the one in memory does, whatever is done to both."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from aios_sidecar.context.errors import ContextError
from aios_sidecar.context.items import Draft, InvalidItem, Kind, Role
from aios_sidecar.context.limits import Limits, Retention
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Scope
from aios_sidecar.context.volatile import VolatileStore

KEY = AgentKey("team", "coder", "6a9c")
LIMITS = Limits(
    items=12,
    content_bytes=300,
    item_bytes=90,
    batch=6,
    sessions=4,
    pins=4,
    age_seconds=3600,
    tiers=(Retention(frozenset({Kind.NOTE}), items=2), Retention(frozenset({Kind.TOOL_RESULT}), items=3)),
)
SEQS = st.lists(st.integers(1, 30), min_size=1, max_size=3)
NAMES = st.sampled_from(["main", "b", "c", "d", "e"])


def call(call_id: str, session: str = "main") -> Draft:
    part = {"type": "tool_call", "name": "f", "arguments": {}}
    return Draft(Role.ASSISTANT, (part,), Kind.TOOL_CALL, session, call_id=call_id)


def result(call_id: str, session: str = "main") -> Draft:
    return Draft(Role.TOOL, "found", Kind.TOOL_RESULT, session, call_id=call_id)


TEXTS = st.text(st.sampled_from("ab é\0'\""), max_size=100)
MESSAGES = st.builds(
    lambda text, session, author, label: [Draft(Role.USER, text, session=session, author=author, labels=label)],
    TEXTS,
    NAMES,
    st.sampled_from([None, "ann", "eve"]),
    st.sampled_from([{}, {"case": "7"}]),
)
NOTES = st.builds(lambda text, of: [Draft(Role.ASSISTANT, text, Kind.NOTE, derived_from=tuple(sorted(set(of))))], TEXTS, SEQS)
IDS = st.sampled_from(["x", "x", "y"])
TOOLS = st.one_of(
    IDS.map(lambda call_id: [call(call_id), result(call_id)]),
    st.builds(lambda make, call_id, session: [make(call_id, session)], st.sampled_from([call, result]), IDS, NAMES),
)
BATCHES = st.lists(st.one_of(MESSAGES, NOTES, TOOLS), min_size=1, max_size=4).map(
    lambda several: [draft for drafts in several for draft in drafts]
)
SCOPES = st.one_of(
    st.builds(lambda seqs: Scope(items=tuple(seqs)), SEQS),
    st.builds(lambda name: Scope(session=name), NAMES),
    st.sampled_from([Scope(author="eve"), Scope(label=("case", "7")), Scope(everything=True)]),
)
STEPS = st.one_of(
    st.tuples(st.just("append"), BATCHES, st.sampled_from([None, None, "k1", "k2"]), st.booleans()),
    st.tuples(st.just("append"), BATCHES, st.sampled_from([None, None, "k1", "k2"]), st.booleans()),
    st.tuples(st.just("pin"), SEQS, st.booleans()),
    st.tuples(st.just("weigh"), SEQS, st.sampled_from([None, 0.5, 2.0])),
    st.tuples(st.just("accessed"), SEQS),
    st.tuples(st.just("fork"), st.integers(1, 30), NAMES),
    st.tuples(st.just("erase"), SCOPES),
    st.tuples(st.just("retire")),
    st.tuples(st.just("later"), st.integers(1, 3600)),
    st.tuples(st.just("reopen")),
)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def outcome(context, step: tuple):
    """What the step gives, or the kind of its refusal."""
    name, *arguments = step
    try:
        result = getattr(context, name)(*arguments)
    except (ContextError, InvalidItem) as refusal:
        return type(refusal)
    return (result.items, result.seqs) if name == "erase" else result


def all_that_is_read(context) -> list[object]:
    description = context.describe()
    with context.reading() as reader:
        sessions = {each.name: each for each in reader.sessions()}
        return [
            reader.oldest(100),
            {name: (each.items, each.first, each.last) for name, each in sessions.items()},
            [(name, reader.oldest(100, session=name), reader.newest(3, session=name), reader.count(name)) for name in sorted(sessions)],
            sorted(hit.seq for hit in reader.search(["a", "b", "found"], 100)),
            reader.document_frequencies(["a", "é", "found"]),
            [reader.call_of(item) for item in reader.oldest(100) if item.kind is Kind.TOOL_RESULT],
            [reader.answers(item) for item in reader.oldest(100) if item.kind is Kind.TOOL_CALL],
            reader.forks(),
            reader.there(range(1, 31)),
            reader.made_from(range(1, 31)),
            reader.pinned(),
            [reader.neighbours(seq, 2) for seq in range(1, 31)],
            reader.last_seq(),
            [getattr(description, field) for field in ("items", "content_bytes", "pinned", "last_seq", "erased", "retired", "last_append")],
        ]


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_both_stores_are_alike_after_every_step(steps):
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        disk = SqliteStore(Path(directory), clock=clock)
        memory = VolatileStore(clock)
        try:
            for step in steps:
                if step[0] == "later":
                    clock.now += timedelta(seconds=step[1])
                elif step[0] == "reopen":
                    disk.close()
                    disk = SqliteStore(Path(directory), clock=clock)
                else:
                    ours, theirs = (outcome(store.context(KEY, 1, LIMITS), step) for store in (disk, memory))
                    assert ours == theirs, step
                ours, theirs = (all_that_is_read(store.context(KEY, 1, LIMITS)) for store in (disk, memory))
                assert ours == theirs
        finally:
            disk.close()

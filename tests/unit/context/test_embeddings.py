"""Meaning, where words fail: a table of vectors that a user gives."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from aios_api.context import Strategy
from aios_sidecar.context.errors import InvalidWindow
from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.memory import MemoryReader
from aios_sidecar.context.scoring import QueryScorer, embeddings
from aios_sidecar.context.scoring.base import Known
from aios_sidecar.context.scoring.embeddings import StaticTable, scorer_for
from aios_sidecar.context.store import Context
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.tokens.errors import UnknownTokenizer
from aios_sidecar.context.window import Memory, Window, WindowRequest, build_window
from unit.context.support import KEY, said

NOW = datetime(2026, 6, 1, tzinfo=UTC)

WORDS = ["[UNK]", "dog", "puppy", "car", "the", "barked", "engine", "my", "started"]
VECTORS = [[0, 0], [1, 0], [0.9, 0.1], [0, 1], [0.1, 0.1], [0.8, 0], [0, 0.9], [0.1, 0.1], [0.1, 0.5]]


def a_model(directory: Path, rows: int = len(WORDS), vectors: list[list[float]] = VECTORS) -> Path:
    directory.mkdir(exist_ok=True)
    model = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(WORDS)}, "unk_token": "[UNK]"}
    fields = dict.fromkeys(("normalizer", "post_processor", "decoder", "truncation", "padding"))
    document = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model, **fields}
    (directory / "tokenizer.json").write_text(json.dumps(document))
    save_file({"embedding": numpy.array(vectors[:rows], dtype=numpy.float16)}, str(directory / "model.safetensors"))
    return directory


def test_what_means_the_same_is_found_without_a_common_word(tmp_path: Path):
    reader = MemoryReader.of([Draft(Role.USER, "the engine started"), Draft(Role.USER, "my puppy barked")])
    scorer = scorer_for(None, StaticTable.load(a_model(tmp_path)))
    known = Known()
    for _ in range(2):
        best, other = scorer.score("dog", reader, known, None)
        assert (best.seq, other.seq) == (2, 1)
        assert best.parts["meaning"] == pytest.approx(0.2)
        assert sum(best.values) == pytest.approx(best.score)


def test_vectors_of_two_contexts_do_not_mix(tmp_path: Path):
    scorer = scorer_for(None, StaticTable.load(a_model(tmp_path)))
    one, two = (MemoryReader.of([Draft(Role.USER, a), Draft(Role.USER, b)]) for a, b in (("the car", "my dog"), ("my dog", "the car")))
    assert next(iter(scorer.score("puppy", one, Known(), None))).seq == 2
    assert next(iter(scorer.score("puppy", two, Known(), None))).seq == 1


class Counting(StaticTable):
    """A table that tells how many texts it made vectors of."""

    made = 0

    def vectors(self, texts):
        self.made += len(texts)
        return super().vectors(texts)


QUESTION = WindowRequest(200, "o200k_base", strategy=Strategy(type="sliding", retrieve=100), query="dog")


def asked(context: Context, table: StaticTable, memory: Memory | None = None) -> Window:
    """A window as the gateway makes it."""
    with context.reading() as reader:
        window = build_window(reader, QUESTION, memory or Memory(), NOW, Models(), scorer_for(None, table))
    if window.vectors is not None:
        context.keep_vectors(*window.vectors)
    return window


def test_vectors_are_kept_with_the_context_and_made_once(store, tmp_path: Path):
    context = store.context(KEY, 1)
    context.append(said("the engine started", "my puppy barked"))
    table = Counting.load(a_model(tmp_path))
    first = asked(context, table)
    assert first.vectors is not None
    name, kept = first.vectors
    assert (name, set(kept)) == (table.name, {1, 2})
    with context.reading() as reader:
        assert reader.vectors(name, [1, 2]) == kept
    made = table.made
    again = asked(context, table)  # with nothing in memory, as after a restart
    assert again.vectors is None
    assert table.made - made == 1, "the question's alone"
    assert [(scored.scored.seq, scored.scored.parts) for scored in again.recall.taken] == [
        (scored.scored.seq, scored.scored.parts) for scored in first.recall.taken
    ]
    context.append(said("the car"))
    assert set(asked(context, table).vectors[1]) == {3}


def test_another_table_makes_vectors_anew_and_keeps_those(store, tmp_path: Path):
    context = store.context(KEY, 1)
    context.append(said("the engine started", "my puppy barked"))
    one = StaticTable.load(a_model(tmp_path / "one"))
    two = StaticTable.load(a_model(tmp_path / "two", vectors=[[0, 1], *VECTORS[1:]]))
    assert one.name != two.name
    assert StaticTable.load(tmp_path / "one").name == one.name
    memory = Memory()
    asked(context, one, memory)
    assert asked(context, two, memory).vectors[0] == two.name
    with context.reading() as reader:
        assert set(reader.vectors(two.name, [1, 2])) == {1, 2}
        assert reader.vectors(one.name, [1, 2]) == {}


def test_a_kept_vector_of_the_wrong_length_is_made_anew(store, tmp_path: Path):
    context = store.context(KEY, 1)
    context.append(said("my puppy barked"))
    table = StaticTable.load(a_model(tmp_path))
    context.keep_vectors(table.name, {1: b"\0" * 3})
    assert set(asked(context, table).vectors[1]) == {1}
    with context.reading() as reader:
        assert len(reader.vectors(table.name, [1])[1]) == table.row_bytes


def test_a_strategy_says_how_much_meaning_counts(tmp_path: Path):
    reader = MemoryReader.of([Draft(Role.USER, "the engine started"), Draft(Role.USER, "my puppy barked")])
    table = StaticTable.load(a_model(tmp_path))
    parts = [next(iter(scorer_for(weight, table).score("dog", reader, Known(), None))).parts for weight in (None, 20, 60)]
    assert [each["meaning"] for each in parts] == pytest.approx([0.2, 0.2, 0.6])
    assert isinstance(scorer_for(0, table), QueryScorer)


def test_a_strategy_that_asks_for_meaning_is_refused_where_there_is_no_table():
    assert isinstance(scorer_for(None, None), QueryScorer)
    assert isinstance(scorer_for(0, None), QueryScorer)
    strategy = Strategy(type="sliding", embedding=30)
    with pytest.raises(InvalidWindow, match=r"strategy\.embedding must be 0 or absent, not 30"):
        build_window(MemoryReader([]), replace(QUESTION, strategy=strategy), Memory(), NOW, Models())


def test_memory_for_vectors_is_bounded_and_windows_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reader = MemoryReader.of([Draft(Role.USER, f"the car {word} {n}") for n, word in enumerate(WORDS * 4)])
    scorer, known = scorer_for(None, StaticTable.load(a_model(tmp_path))), Known()
    before = list(scorer.score("dog", reader, Known(), None))
    monkeypatch.setattr(embeddings, "ROWS_BYTES", 4)
    for _ in range(2):
        assert list(scorer.score("dog", reader, known, None)) == before
    assert len(known.vectors.rows) == len(before)


def test_an_empty_log_has_nothing(tmp_path: Path):
    assert list(scorer_for(None, StaticTable.load(a_model(tmp_path))).score("dog", MemoryReader([]), Known(), None)) == []


@pytest.mark.parametrize("fault", ["no table", "no tokenizer", "too few rows", "no tensors", "no number"])
def test_a_directory_that_is_wrong_is_named(tmp_path: Path, fault: str):
    vectors = [[float("nan"), 0.0], *VECTORS[1:]] if fault == "no number" else VECTORS
    a_model(tmp_path, rows=3 if fault == "too few rows" else len(WORDS), vectors=vectors)
    if fault == "no table":
        (tmp_path / "model.safetensors").unlink()
    elif fault == "no tokenizer":
        (tmp_path / "tokenizer.json").unlink()
    elif fault == "no tensors":
        (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(UnknownTokenizer, match=str(tmp_path)):
        StaticTable.load(tmp_path)

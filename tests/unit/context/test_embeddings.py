"""Meaning, where words fail: a table of vectors that a user gives."""

import json
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.memory import MemoryReader
from aios_sidecar.context.scoring import QueryScorer
from aios_sidecar.context.scoring.base import Known
from aios_sidecar.context.scoring.embeddings import EmbeddingScorer, StaticTable
from aios_sidecar.context.tokens.errors import UnknownTokenizer

WORDS = ["[UNK]", "dog", "puppy", "car", "the", "barked", "engine", "my", "started"]
VECTORS = [[0, 0], [1, 0], [0.9, 0.1], [0, 1], [0.1, 0.1], [0.8, 0], [0, 0.9], [0.1, 0.1], [0.1, 0.5]]


def a_model(directory: Path, rows: int = len(WORDS)) -> Path:
    model = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(WORDS)}, "unk_token": "[UNK]"}
    fields = dict.fromkeys(("normalizer", "post_processor", "decoder", "truncation", "padding"))
    document = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model, **fields}
    (directory / "tokenizer.json").write_text(json.dumps(document))
    save_file({"embedding": numpy.array(VECTORS[:rows], dtype=numpy.float16)}, str(directory / "model.safetensors"))
    return directory


def test_what_means_the_same_is_found_without_a_common_word(tmp_path: Path):
    reader = MemoryReader.of([Draft(Role.USER, "the engine started"), Draft(Role.USER, "my puppy barked")])
    scorer = EmbeddingScorer(QueryScorer(), StaticTable.load(a_model(tmp_path)))
    known = Known()
    for _ in range(2):
        best, other = scorer.score("dog", reader, known, None)
        assert (best.seq, other.seq) == (2, 1)
        assert best.parts["meaning"] == pytest.approx(0.2)
        assert sum(best.values) == pytest.approx(best.score)


def test_vectors_of_two_contexts_do_not_mix(tmp_path: Path):
    scorer = EmbeddingScorer(QueryScorer(), StaticTable.load(a_model(tmp_path)))
    one, two = (MemoryReader.of([Draft(Role.USER, a), Draft(Role.USER, b)]) for a, b in (("the car", "my dog"), ("my dog", "the car")))
    assert next(iter(scorer.score("puppy", one, Known(), None))).seq == 2
    assert next(iter(scorer.score("puppy", two, Known(), None))).seq == 1


def test_an_empty_log_has_nothing(tmp_path: Path):
    assert list(EmbeddingScorer(QueryScorer(), StaticTable.load(a_model(tmp_path))).score("dog", MemoryReader([]), Known(), None)) == []


@pytest.mark.parametrize("fault", ["no table", "no tokenizer", "too few rows", "no tensors"])
def test_a_directory_that_is_wrong_is_named(tmp_path: Path, fault: str):
    a_model(tmp_path, rows=3 if fault == "too few rows" else len(WORDS))
    if fault == "no table":
        (tmp_path / "model.safetensors").unlink()
    elif fault == "no tokenizer":
        (tmp_path / "tokenizer.json").unlink()
    elif fault == "no tensors":
        (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(UnknownTokenizer, match=str(tmp_path)):
        StaticTable.load(tmp_path)

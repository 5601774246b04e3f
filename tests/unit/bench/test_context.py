"""Dialogues as a bench reads them, and the floor below which the quality of windows must not fall."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aios_bench import context_endpoint, context_promises, context_quality, context_windows, dialogue_maker, dialogues
from aios_cli.main import main
from aios_sidecar.context.scoring.embeddings import StaticTable
from unit.context.test_embeddings import a_model


def conversation(**more) -> dict:
    turns = [
        {"speaker": "Ann", "dia_id": "D1:1", "text": "Hello!"},
        {"speaker": "Bob", "dia_id": "D1:2", "text": "My dog is called Biscuit.", "blip_caption": "a corgi"},
    ]
    return {
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Bob",
            "session_1": turns,
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            **more,
        }
    }


def questions(*evidence, category: int = 4) -> dict:
    return {
        "qa": [{"question": "What is the dog called?", "answer": "Biscuit", "evidence": each, "category": category} for each in evidence]
    }


def test_a_dialogue_is_a_log_with_questions():
    read = dialogues.dialogue({**conversation(), **questions(["D1:2"])}, "x")
    assert [item.content for item in read.items] == ["Hello!", "My dog is called Biscuit. (image: a corgi)"]
    assert (read.items[1].author, read.items[1].session, read.items[1].time.isoformat()) == (
        "Bob",
        "session-1",
        "2023-05-08T13:56:00+00:00",
    )
    assert read.questions == [dialogues.Question("What is the dog called?", 4, frozenset({2}))]


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (["D1:3"], [(1, 3)]),
        (["D8:6; D9:17"], [(8, 6), (9, 17)]),
        ("D9:1 D4:4", [(9, 1), (4, 4)]),
        (["D:11:26"], [(11, 26)]),
        (["D30:05"], [(30, 5)]),
        (["D"], []),
        (None, []),
    ],
)
def test_evidence_is_read_however_it_is_written(written, means):
    assert dialogues.evidence(written) == means


def test_questions_that_nothing_answers_are_left_out():
    assert dialogues.dialogue({**conversation(), **questions(["D7:1"], [])}, "x").questions == []
    assert dialogues.dialogue({**conversation(), **questions(["D1:2"], category=5)}, "x").questions == []


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "must be JSON"),
        ("{}", "must be a list of conversations"),
        ('[{"qa": []}]', r"\[0\] must have conversation"),
        (json.dumps([{"conversation": {"session_1": [{"speaker": "A"}]}, "qa": []}]), "a turn must have speaker, dia_id and text"),
        (json.dumps([{**conversation(session_2=[{"speaker": "A", "dia_id": "x", "text": ""}]), "qa": []}]), "dia_id must be such as D1:3"),
    ],
)
def test_a_file_in_another_layout_is_refused(tmp_path: Path, document: str, says: str):
    path = tmp_path / "d.json"
    path.write_text(document)
    with pytest.raises(dialogues.InvalidDataset, match=says):
        dialogues.load(path)
    said = CliRunner().invoke(main, ["bench", "context", "--dataset", str(path)])
    assert said.exit_code == 2


def test_generated_dialogues_are_the_same_for_the_same_seed_and_their_evidence_is_there():
    assert dialogue_maker.make(3) == dialogue_maker.make(3) != dialogue_maker.make(4)
    for document in dialogue_maker.dataset(dialogue_maker.TEST[:2]):
        read = dialogues.dialogue(document, "generated")
        assert len(read.questions) == len(document["qa"]) > 50
        assert {question.category for question in read.questions} == {1, 2, 3, 4}
    assert not set(dialogue_maker.TRAIN) & set(dialogue_maker.TEST)


def test_windows_of_the_generated_test_half_stay_above_the_floor():
    """A tenth below what the present weights reach: a change that loses more loses it on purpose."""
    made = [dialogues.dialogue(document, "generated") for document in dialogue_maker.dataset(dialogue_maker.TEST)]
    quality = context_quality.measure(made, (2000, 4000), only=("query", "sliding", "importance"))
    recall = {(result["strategy"], result["budget"]): result["recall"] for result in quality.results}
    assert recall["query", 2000] > 45
    assert recall["query", 4000] > 70
    assert recall["importance", 2000] > 34
    assert recall["query", 2000] > 4 * recall["sliding", 2000]
    assert quality.figures["kept_at_20"] > 40


def test_no_window_breaks_a_promise():
    counted = context_promises.promises(400)
    assert counted["windows"] > 500
    assert {name: counted[name] for name in ("windows_over_budget", "orphaned_results", "lost_pins")} == dict.fromkeys(
        ("windows_over_budget", "orphaned_results", "lost_pins"), 0
    )


def test_prefixes_stay_cached():
    assert context_windows.prefix_reuse([dialogues.dialogue(dialogue_maker.make(dialogue_maker.TEST_FROM), "generated")]) >= 95


def test_windows_over_http_come_from_a_gateway_of_their_own():
    assert len(context_endpoint.window_ms(large=250, samples=2)) == 2


def test_questions_by_meaning_are_asked_where_there_is_a_table(tmp_path: Path):
    model, data = a_model(tmp_path / "model"), tmp_path / "d.json"
    _, taken = context_windows.speed(large=700, samples=2, table=StaticTable.load(model))
    assert {name: len(values) for name, values in taken.items() if name.endswith("embedding_ms")} == {
        "query_600_embedding_ms": 2,
        "query_100k_embedding_ms": 2,
    }
    turns = [{"speaker": "Ann", "dia_id": "D1:1", "text": "puppy"}, {"speaker": "Bob", "dia_id": "D1:2", "text": "engine"}]
    asks = {"qa": [{"question": "dog?", "answer": "x", "evidence": ["D1:1"], "category": 4}]}
    data.write_text(json.dumps([{**conversation(session_1=turns), **asks}]))
    recalls = []
    for more in ([], ["--embeddings", str(model)]):
        out = tmp_path / "out.json"
        said = CliRunner().invoke(main, ["bench", "context", "--dataset", str(data), "--budgets", "28", "--json", str(out), *more])
        assert said.exit_code == 0, said.output
        recalls.append({each["strategy"]: each["recall"] for each in json.loads(out.read_text())["results"]}["query"])
    assert recalls == [0, 100], "there is room for one of them"


def test_a_dataset_from_the_command_line_gives_results_by_name(tmp_path: Path):
    data, out = tmp_path / "d.json", tmp_path / "out.json"
    data.write_text(json.dumps([{**conversation(), **questions(["D1:2"])}]))
    said = CliRunner().invoke(main, ["bench", "context", "--dataset", str(data), "--budgets", "10,100", "--json", str(out)])
    assert said.exit_code == 0, said.output
    written = json.loads(out.read_text())
    assert {(result["strategy"], result["budget"]) for result in written["results"]} == {
        (name, budget) for name in context_quality.STRATEGIES for budget in (10, 100)
    }
    assert set(written["results"][0]) == {"strategy", "budget", "recall", "complete", "ms_per_window_p50", "questions"}
    assert written["tokens_for_80_percent"] > 0
    assert {"kept_at_10", "kept_at_20", "kept_at_30"} <= set(written["figures"])
    assert CliRunner().invoke(main, ["bench", "context", "--budgets", "many"]).exit_code == 2

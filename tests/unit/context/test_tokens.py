"""What texts cost: exact by tables, estimated from reports, with the user's own files."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_sidecar.context.items import Usage
from aios_sidecar.context.memory import DAWN
from aios_sidecar.context.tokens import Models, files, tables
from aios_sidecar.context.tokens.errors import UnknownTokenizer
from aios_sidecar.context.tokens.learned import ENOUGH, UNLEARNED, learn


def reports(count: int, ratio: float, kind: str = "message", overhead: int = 8) -> list[Usage]:
    """A provider that counts `ratio` tokens per byte, and `overhead` a message."""
    return [
        Usage("claude-x", DAWN + timedelta(minutes=n), 10, {kind: 1000 + 37 * n}, round(ratio * (1000 + 37 * n)) + overhead * 10)
        for n in range(count)
    ]


def test_the_packaged_tables_count_as_published():
    assert tables.packaged("o200k_base").count("hello world") == 2
    assert tables.packaged("cl100k_base").count("tiktoken is great!") == 6
    assert tables.packaged("o200k_base").count("<|endoftext|>") > 1, "what users write is never a special token"


@pytest.mark.parametrize(
    ("model", "name", "exact", "messages"),
    [
        ("gpt-4o", "o200k_base", True, True),
        ("gpt-4o-2024-08-06", "o200k_base", True, True),
        ("gpt-5-mini", "o200k_base", True, False),
        ("gpt-4", "cl100k_base", True, True),
        ("gpt-4o-audio-preview", "o200k_base", True, False),
        ("o200k_base", "o200k_base", True, False),
        ("claude-x", None, False, False),
        ("gpt-40", None, False, False),
    ],
)
def test_exact_is_said_only_where_table_and_template_are_known(model: str, name: str | None, exact: bool, messages: bool):
    counter = Models().counter(model)
    assert (counter.exact, counter.exact_messages) == (exact, messages)
    assert name is None or counter.name == name


def test_without_reports_the_declared_ratios_hold_and_say_so():
    counter = Models().counter("claude-x")
    assert counter.basis == "declared ratios of tokens to bytes"
    assert counter.bound_percent is None
    assert counter.count("x" * 1000) == 400


def test_ratios_come_from_reports_once_there_are_enough():
    assert learn(reports(ENOUGH - 1, 0.2), 8) == UNLEARNED
    learned = learn(reports(ENOUGH, 0.2), 8)
    assert 0.2 <= learned.per_byte["message"] <= 0.21
    assert learned.reports == ENOUGH


def test_an_upper_quantile_holds_not_the_mean():
    mixed = [each for pair in zip(reports(30, 0.2), reports(30, 0.3), strict=True) for each in pair]
    learned = learn(mixed, 8)
    assert learned.per_byte["message"] == pytest.approx(0.3, rel=0.05)


def test_kinds_are_told_apart():
    both = [
        Usage("m", DAWN, 0, {"message": 1000 * (1 + n % 3), "tool_result": 1000 * (1 + n % 5)}, 220 * (1 + n % 3) + 500 * (1 + n % 5))
        for n in range(60)
    ]
    learned = learn(both, 8)
    assert learned.per_byte["message"] < 0.3 < 0.4 < learned.per_byte["tool_result"]


def test_an_unknown_kind_costs_a_token_per_byte():
    assert UNLEARNED.tokens(10, "poem") == 10


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 5000), st.integers(1, 9000)), min_size=ENOUGH, max_size=40))
def test_whatever_is_reported_the_bound_that_is_declared_holds(observed: list[tuple[int, int, int]]):
    made = [Usage("m", DAWN, 3, {"message": said, "tool_result": back}, tokens) for said, back, tokens in observed]
    learned = learn(made, 8)
    assert learned.bound_percent is not None
    for said, back, tokens in observed:
        estimate = said * learned.per_byte["message"] + back * learned.per_byte["tool_result"] + 24
        assert tokens <= estimate * (1 + (learned.bound_percent + 0.1) / 100) or tokens <= 1
    assert all(0 < ratio <= 1 for ratio in learned.per_byte.values())


def test_a_new_report_changes_the_counter_and_an_old_one_is_kept():
    models = Models()
    first = models.counter("claude-x", reports(ENOUGH, 0.2))
    assert models.counter("claude-x", reports(ENOUGH, 0.2)) is first
    assert models.counter("claude-x", reports(ENOUGH + 1, 0.5)).name != first.name


def a_model(directory, template: str | None = "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"):
    """A tokenizer of single characters."""
    letters = {letter: n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz <>/?")}
    model = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": letters, "unk_token": "?"},
    }
    directory.mkdir()
    (directory / "tokenizer.json").write_text(json.dumps(model))
    if template is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return directory


def test_files_of_a_user_count_exactly_with_their_template(tmp_path):
    a_model(tmp_path / "lab--tiny")
    counter = Models(files.load_all(tmp_path)).counter("lab/tiny")
    assert counter.count("abc") == 3
    assert (counter.exact, counter.exact_messages) == (True, True)
    assert counter.template is not None
    assert counter.template.count_messages([{"role": "user", "content": "abc"}]) == len("<s>user abc</s>")


def test_without_a_template_the_text_is_exact_and_messages_are_not(tmp_path):
    counter = files.load(a_model(tmp_path / "tiny", template=None))
    assert (counter.exact, counter.exact_messages) == (True, False)


@pytest.mark.parametrize("fault", ["missing", "no json", "template"])
def test_a_file_that_is_wrong_is_named(tmp_path, fault: str):
    directory = a_model(tmp_path / "tiny", template="{% if %}" if fault == "template" else None)
    if fault == "missing":
        (directory / "tokenizer.json").unlink()
    elif fault == "no json":
        (directory / "tokenizer.json").write_text("{")
    with pytest.raises(UnknownTokenizer, match="tiny"):
        files.load(directory)


def test_a_template_can_not_leave_its_sandbox(tmp_path):
    directory = a_model(tmp_path / "tiny", template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(UnknownTokenizer, match="refuses"):
        files.load(directory)

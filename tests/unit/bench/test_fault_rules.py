"""Rules of faults: what a file may say, and whom they befall."""

import pytest

from aios_bench.faults.api.rules import Asked, Draws, InvalidRules, on_fake, parse, read
from aios_kube import resources
from aios_kube.errors import Conflict, TooManyRequests, Unreachable
from aios_kube.fake import FakeCluster

PATCH = Asked("patch", "pods", "ns", "a-1")


def draws(*rules: dict[str, object], seed: int = 1) -> Draws:
    return Draws(parse({"seed": seed, "rules": [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]}))


def faults(drawn: Draws, asked: Asked, times: int = 10) -> list[int]:
    """Which of so many like it meet a fault."""
    return [number for number in range(1, times + 1) if drawn.draw(asked) is not None]


@pytest.mark.parametrize(
    ("rule", "must"),
    [
        ({"do": {}}, r"rules.rules\[0\]: .*exactly one fault, not none"),
        ({"do": {"answer": 409, "stall": True}}, "exactly one fault, not answer, stall"),
        ({"do": {"answer": 418}}, r"rules.rules\[0\].do.answer: Input should be 409"),
        ({"do": {"drop": True}}, "do.drop befalls events: name them in when.events"),
        ({"when": {"events": ["ADDED"]}, "do": {"answer": 409}}, "do.answer befalls requests"),
        ({"do": {"answer": 409, "retryAfterSeconds": 1}}, "retryAfterSeconds must stand beside an answer of 429 or 503"),
        ({"do": {"stale": True}}, "do.stale must be on the verbs get or list only"),
        ({"do": {"answer": 409}, "nth": [1], "probability": 0.5}, "only one of nth, every and probability"),
        ({"do": {"answer": 409}, "probability": 2}, r"probability: .*less than or equal to 1"),
        ({"do": {"answer": 409}, "verb": "get"}, r"rules.rules\[0\].verb: Extra inputs"),
    ],
)
def test_what_can_not_be_meant_is_refused_by_its_field(rule: dict[str, object], must: str):
    with pytest.raises(InvalidRules, match=must):
        draws(rule)


def test_names_of_rules_differ_since_they_are_counted_by_name():
    with pytest.raises(InvalidRules, match="twice there: x"):
        parse({"rules": [{"name": "x", "do": {"answer": 409}}] * 2})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidRules, match=r"odd\.yaml must be a readable YAML or JSON file"):
        read(tmp_path / "odd.yaml")
    (tmp_path / "odd.yaml").write_text("rules: [{name: x, do: {reset: after}}]")
    assert read(tmp_path / "odd.yaml").rules[0].do.reset == "after"


def test_which_ones_are_chosen():
    assert faults(draws({"do": {"answer": 409}, "nth": [2, 5]}), PATCH) == [2, 5]
    assert faults(draws({"do": {"answer": 409}, "every": 4}), PATCH) == [4, 8]
    assert faults(draws({"do": {"answer": 409}, "times": 3}), PATCH) == [1, 2, 3]
    by_chance = faults(draws({"do": {"answer": 409}, "probability": 0.5}), PATCH, 100)
    assert 30 < len(by_chance) < 70
    assert by_chance == faults(draws({"do": {"answer": 409}, "probability": 0.5}), PATCH, 100), "the seed says which"
    assert by_chance != faults(draws({"do": {"answer": 409}, "probability": 0.5}, seed=2), PATCH, 100)


@pytest.mark.parametrize(
    ("on", "taken"),
    [
        ({}, True),
        ({"verbs": ["patch"], "kinds": ["pods"], "namespaces": ["n*"], "names": ["a-*"]}, True),
        ({"verbs": ["get"]}, False),
        ({"kinds": ["pods/status"]}, False),
        ({"names": ["b-*"]}, False),
        ({"events": ["ADDED"]}, False),
    ],
)
def test_whom_a_rule_is_about(on: dict[str, object], taken: bool):
    fault = {"drop": True} if "events" in on else {"answer": 500}
    assert bool(faults(draws({"when": on, "do": fault}), PATCH, 1)) is taken


def test_the_first_rule_that_chooses_counts_and_all_is_quiet_when_it_should_be():
    drawn = draws({"do": {"answer": 409}, "nth": [1]}, {"do": {"answer": 500}})
    assert [fault.answer for fault in (drawn.draw(PATCH), drawn.draw(PATCH)) if fault is not None] == [409, 500]
    drawn.active = False
    assert faults(drawn, PATCH) == []
    assert (drawn.counts, drawn.injected) == ({"r0": 1, "r1": 1}, 2)


async def test_the_same_rules_stand_in_front_of_the_cluster_in_memory():
    cluster = FakeCluster()
    wait = {"answer": 429, "retryAfterSeconds": 7}
    on_fake(
        draws(
            {"when": {"verbs": ["create"]}, "do": wait, "nth": [1]},
            {"when": {"verbs": ["create"]}, "do": {"reset": "after"}, "nth": [1]},
            {"when": {"verbs": ["patch"]}, "do": {"answer": 409}},
        ),
        cluster,
    )
    node = {"metadata": {"name": "n"}}
    with pytest.raises(TooManyRequests) as refused:
        await cluster.create(resources.NODES, node, field_manager="x")
    assert refused.value.retry_after_seconds == 7
    assert cluster.all(resources.NODES) == []
    with pytest.raises(Unreachable):
        await cluster.create(resources.NODES, node, field_manager="x")
    assert len(cluster.all(resources.NODES)) == 1, "it was carried out"
    with pytest.raises(Conflict):
        await cluster.patch(resources.NODES, "n", {}, field_manager="x")

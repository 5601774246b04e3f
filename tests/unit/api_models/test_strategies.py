"""Strategies of windows: what can be said, and what is refused with the field's name."""

import pytest

from aios_api.agent import InvalidSpec
from aios_api.context import parse_strategy


@pytest.mark.parametrize(
    "strategy",
    [
        {"type": "sliding"},
        {"type": "fixed", "trigger": {"percent": 50}},
        {"type": "importance", "trigger": {"tokens": 4000}, "keep": {"items": 50}, "retrieve": 30},
        {"type": "hierarchical", "preset": "CoreWorkingArchive"},
        {
            "type": "hierarchical",
            "tiers": [{"name": "core", "share": 10, "min": {"tokens": 100}, "max": {"tokens": 900}}, {"name": "rest"}],
        },
    ],
)
def test_what_the_strategies_of_the_field_need_can_be_said(strategy: dict):
    assert parse_strategy(strategy).model_dump(exclude_unset=True, mode="json") == strategy


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ({"type": "newest"}, "strategy.type"),
        ({"type": "sliding", "keep": {}}, "strategy.keep: .*exactly one of tokens, items and percent"),
        ({"type": "sliding", "keep": {"tokens": 1, "items": 1}}, "exactly one of tokens, items and percent"),
        ({"type": "sliding", "tiers": [{"name": "a"}]}, "hierarchical"),
        ({"type": "hierarchical"}, "exactly one of them"),
        ({"type": "hierarchical", "preset": "CoreWorkingArchive", "tiers": [{"name": "a"}]}, "exactly one of them"),
        ({"type": "hierarchical", "tiers": [{"name": "a", "share": 60}, {"name": "b", "share": 50}]}, "at most 100 together"),
        ({"type": "hierarchical", "tiers": [{"name": "a"}, {"name": "a"}]}, "different names"),
        (
            {"type": "hierarchical", "tiers": [{"name": "a", "min": {"items": 1}}]},
            r"strategy.tiers\[0\]: .*min must be in tokens or percent",
        ),
        ({"type": "hierarchical", "tiers": [{"name": "a", "min": {"tokens": 9}, "max": {"tokens": 8}}]}, "must not be above max"),
        ({"type": "fixed", "keep": {"percent": 50}}, "keep must not be set for the type fixed"),
        ({"type": "sliding", "retrieve": 0}, "strategy.retrieve"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_field(strategy: dict, says: str):
    with pytest.raises(InvalidSpec, match=says):
        parse_strategy(strategy)

"""What the emitter makes of a model, and what it refuses to guess."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from aios_api.schema import NotStructural, list_type, rule, rules, structural


class Inner(BaseModel):
    """The inner part."""

    model_config = ConfigDict(extra="forbid")
    size: Annotated[int, Field(ge=1, le=9)]


class Node(BaseModel):
    child: "Node | None" = None


def emitted(annotation: object, **field: object) -> dict[str, object]:
    """The schema of one field."""
    model = type("Outer", (BaseModel,), {"__annotations__": {"value": annotation}, "value": Field(**field)})  # type: ignore[call-overload]
    schema: dict[str, object] = structural(model)["properties"]["value"]
    return schema


def test_an_optional_field_is_absent_never_null() -> None:
    assert emitted(Annotated[str, Field(max_length=5)] | None, default=None) == {"type": "string", "maxLength": 5}


def test_a_literal_of_one_word_is_an_enum_of_one() -> None:
    assert emitted(Literal["on"]) == {"type": "string", "enum": ["on"]}


def test_a_default_is_kept() -> None:
    assert emitted(Literal["a", "b"], default="a") == {"type": "string", "enum": ["a", "b"], "default": "a"}


def test_a_nested_model_is_inlined_and_open_to_pruning() -> None:
    inner = {"description": "The inner part.", "type": "object", "required": ["size"]}
    assert emitted(Inner) == {**inner, "properties": {"size": {"type": "integer", "maximum": 9, "minimum": 1}}}


def test_what_the_field_says_wins_over_what_the_model_says() -> None:
    assert emitted(Inner | None, default=None, description="This one.")["description"] == "This one."


def test_lists_and_rules_keep_what_the_field_adds() -> None:
    kind = list_type(keys=["size"])
    schema = emitted(list[Inner], max_length=3, json_schema_extra={**kind, **rules(rule("size(self) > 1", "must have two"))})
    assert (schema["maxItems"], schema["x-kubernetes-list-type"], schema["x-kubernetes-list-map-keys"]) == (3, "map", ["size"])
    assert schema["x-kubernetes-validations"] == [{"rule": "size(self) > 1", "message": "must have two", "reason": "FieldValueForbidden"}]


def test_a_map_keeps_the_schema_of_its_values() -> None:
    assert emitted(dict[str, Annotated[str, Field(max_length=5)]], max_length=2) == {
        "type": "object",
        "maxProperties": 2,
        "additionalProperties": {"type": "string", "maxLength": 5},
    }


@pytest.mark.parametrize("annotation", [int | str, Annotated[int, Field(gt=0)], tuple[int, str], set[str]])
def test_what_no_structural_schema_can_say_is_refused(annotation: object) -> None:
    with pytest.raises(NotStructural, match=r"Outer\.value"):
        emitted(annotation)


def test_a_model_that_contains_itself_is_refused() -> None:
    with pytest.raises(NotStructural, match="must not contain itself"):
        structural(Node)

"""Values that our own schemas allow, for Hypothesis: what may be written is drawn from the models that make the CRDs."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

Json = Any
LARGEST = 1 << 20
"""Numbers without a bound of their own, and those that would be larger, are drawn up to here."""


def specs(
    model: type[BaseModel], given: Mapping[str, st.SearchStrategy[Json]], optional: float = 0.3
) -> st.SearchStrategy[dict[str, Json]]:
    """Objects as a user writes them that `model` accepts. `given`: what fields of a name are drawn from wherever they stand, for what a
    schema says in rules only, such as quantities. Of the fields that may be absent about `optional` are there."""
    schema = model.model_json_schema(by_alias=True)
    return _value(schema, schema.get("$defs", {}), given, optional).filter(lambda drawn: _accepts(model, drawn))


def _accepts(model: type[BaseModel], drawn: Json) -> bool:
    try:
        model.model_validate(drawn)
    except ValidationError:
        return False
    return True


def _value(
    schema: Json, defs: Mapping[str, Json], given: Mapping[str, st.SearchStrategy[Json]], optional: float
) -> st.SearchStrategy[Json]:
    def inner(part: Json) -> st.SearchStrategy[Json]:
        return _value(part, defs, given, optional)

    if "$ref" in schema:
        return inner(defs[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return st.one_of(*(inner(each) for each in schema["anyOf"] if each.get("type") != "null"))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "integer":
            low = schema.get("minimum", 0)
            return st.integers(low, max(low, min(schema.get("maximum", LARGEST), LARGEST)))
        case "boolean":
            return st.booleans()
        case "string":
            if "pattern" in schema:
                return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: len(text) <= schema.get("maxLength", 63))
            return st.text("abcdefgh", min_size=max(1, schema.get("minLength", 0)), max_size=min(schema.get("maxLength", 8), 8))
        case "array":
            keys, sizes = schema.get("x-kubernetes-list-map-keys"), (schema.get("minItems", 0), min(schema.get("maxItems", 3), 3))
            once = None if keys is None else lambda each: tuple(each.get(key) for key in keys)
            return st.lists(inner(schema["items"]), min_size=sizes[0], max_size=sizes[1], unique_by=once)
        case "object" if "properties" in schema:
            fields = {name: given[name] if name in given else inner(part) for name, part in schema["properties"].items()}
            required = {name: fields[name] for name in schema.get("required", ())}
            others = {name: _sometimes(each, optional) for name, each in fields.items() if name not in required}
            return st.fixed_dictionaries({**required, **others}).map(_without_absent)
        case "object":
            return st.dictionaries(
                st.sampled_from(["app", "team"]), inner(schema.get("additionalProperties") or {"type": "string"}), max_size=2
            )
    raise AssertionError(f"a schema of our own that nothing is drawn from yet: {schema}")


_ABSENT = object()


def _sometimes(strategy: st.SearchStrategy[Json], chance: float) -> st.SearchStrategy[Json]:
    return st.sampled_from(range(10)).flatmap(lambda n: strategy if n < chance * 10 else st.just(_ABSENT))


def _without_absent(drawn: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in drawn.items() if value is not _ABSENT}

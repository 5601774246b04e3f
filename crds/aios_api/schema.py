"""From pydantic models to structural schemas: what the API server accepts in a CustomResourceDefinition.

`structural` translates a model; the small builders below it write the parts that no model describes (`template`). Both give plain dicts.
The rules of translation: an absent field is absent, never null; nested models are inlined; a literal is an enum; unions and open bounds are
refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

Schema = dict[str, Any]

_DROPPED = {"title", "$defs"}
INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True}
RULES = "x-kubernetes-validations"
_RULE_ORDER = ("rule", "message", "messageExpression", "fieldPath", "reason")
_KEY_ORDER = ("description", "type", "format", "enum", "default")


class NotStructural(TypeError):
    """The model says something that a structural schema cannot; the message names the field."""


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of `model`, with the names that its fields have on the wire."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _translate(raw, raw.get("$defs", {}), model.__name__, ())


def _translate(node: Schema, definitions: Mapping[str, Schema], path: str, trail: tuple[str, ...]) -> Schema:
    node = _resolve(node, definitions, path)
    name, node = node.pop("$name", None), node
    if name in trail:
        raise NotStructural(f"{path}: a model must not contain itself")
    trail = (*trail, name) if name else trail
    for word in ("anyOf", "oneOf", "allOf", "exclusiveMinimum", "exclusiveMaximum", "prefixItems", "uniqueItems"):
        if word in node:
            raise NotStructural(f"{path}: must not use {word}; a structural schema has one type and closed bounds")
    translated = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in translated:
        translated["enum"] = [translated.pop("const")]
    if translated.get("additionalProperties") is False:
        del translated["additionalProperties"]  # the API server prunes what a schema does not name, or refuses it when asked to be strict
    if translated.get("default", ...) is None:
        del translated["default"]
    for key in ("items", "additionalProperties"):
        if isinstance(translated.get(key), dict):
            translated[key] = _translate(translated[key], definitions, f"{path}[]", trail)
    if "properties" in translated:
        translated["properties"] = {
            field: _translate(value, definitions, f"{path}.{field}", trail) for field, value in translated["properties"].items()
        }
    return _ordered(translated)


def _resolve(node: Schema, definitions: Mapping[str, Schema], path: str) -> Schema:
    """`node` without references and without the null of an optional field; what stands beside a reference wins over what it refers to."""
    if "anyOf" in node:
        branches = [branch for branch in node["anyOf"] if branch != {"type": "null"}]
        if len(branches) != 1:
            raise NotStructural(f"{path}: must have one type, not a union")
        return _resolve({**branches[0], **{key: value for key, value in node.items() if key != "anyOf"}}, definitions, path)
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        return {**definitions[name], **{key: value for key, value in node.items() if key != "$ref"}, "$name": name}
    return dict(node)


def _ordered(node: Schema) -> Schema:
    """What a reader wants first comes first; the long parts come last."""
    last = ("required", "properties", "items", "additionalProperties", RULES)
    if RULES in node:
        node = {**node, RULES: [{key: one[key] for key in _RULE_ORDER if key in one} for one in node[RULES]]}
    first = {key: node[key] for key in _KEY_ORDER if key in node}
    middle = {key: value for key, value in node.items() if key not in first and key not in last}
    return first | middle | {key: node[key] for key in last if key in node}


# Builders. Every one takes `description` and, at the end, the rules that hold for the value itself.


def rule(
    expression: str,
    message: str,
    *,
    path: str | None = None,
    message_expression: str | None = None,
    reason: Literal["FieldValueForbidden", "FieldValueInvalid"] = "FieldValueForbidden",
) -> Schema:
    """A CEL rule: what must be true of `self`, and the sentence that the user reads when it is not. `path` names the field below `self`."""
    parts = {"rule": expression, "message": message, "messageExpression": message_expression, "fieldPath": path, "reason": reason}
    return {key: value for key, value in parts.items() if value is not None}


def node(kind: str | None, description: str = "", rules: Sequence[Schema] = (), **more: Any) -> Schema:
    """One node of a schema; empty parts are left out."""
    parts = {"description": description, "type": kind, **more, RULES: list(rules)}
    return _ordered({key: value for key, value in parts.items() if value not in (None, "", [], {})})


def text(max_length: int, *rules: Schema, description: str = "", min_length: int = 0) -> Schema:
    return node("string", description, rules, maxLength=max_length, minLength=min_length or None)


def choice(*words: str, description: str = "") -> Schema:
    return node("string", description, enum=list(words))


def integer(minimum: int, maximum: int, *rules: Schema, description: str = "") -> Schema:
    return node("integer", description, rules, format="int64", minimum=minimum, maximum=maximum)


def boolean(*rules: Schema, description: str = "") -> Schema:
    return node("boolean", description, rules)


def struct(properties: Mapping[str, Schema], *rules: Schema, required: Sequence[str] = (), description: str = "") -> Schema:
    return node("object", description, rules, required=list(required), properties=dict(properties))


def free(*rules: Schema, description: str = "") -> Schema:
    """An object that is kept as it is and not looked into."""
    return node("object", description, rules, **{"x-kubernetes-preserve-unknown-fields": True})


def mapping(values: Schema, max_properties: int, *rules: Schema, description: str = "") -> Schema:
    return node("object", description, rules, maxProperties=max_properties, additionalProperties=values)


def listing(
    items: Schema,
    max_items: int,
    *rules: Schema,
    keys: Sequence[str] = (),
    unique: bool = False,
    min_items: int = 0,
    description: str = "",
) -> Schema:
    """A list: a map by `keys`, a set when `unique`, otherwise replaced as a whole."""
    bounds = {"minItems": min_items or None, "maxItems": max_items}
    return node("array", description, rules, **bounds, **list_type(keys=keys, unique=unique), items=items)


def list_type(*, keys: Sequence[str] = (), unique: bool = False) -> Schema:
    """How the API server merges a list, as `json_schema_extra` of a model's field."""
    if keys:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
    return {"x-kubernetes-list-type": "set" if unique else "atomic"}


def rules(*several: Schema) -> Schema:
    """CEL rules as `json_schema_extra` of a model or a field."""
    return {RULES: list(several)}

"""Our linters over the generated definitions: structural, bounded, described; each linter is first shown to find what it is for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
Schema = dict[str, Any]
FREE = "x-kubernetes-preserve-unknown-fields"
LIST_TYPE, KEYS = "x-kubernetes-list-type", "x-kubernetes-list-map-keys"
RULES = "x-kubernetes-validations"
NOT_STRUCTURAL = {
    "$ref",
    "$defs",
    "definitions",
    "const",
    "title",
    "uniqueItems",
    "patternProperties",
    "prefixItems",
    "nullable",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
}
DEFINITIONS = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("aios.dev_*.yaml"))]
VERSIONS = [(definition["spec"]["names"]["kind"], version) for definition in DEFINITIONS for version in definition["spec"]["versions"]]
SCHEMAS = [pytest.param(version["schema"]["openAPIV3Schema"], id=kind) for kind, version in VERSIONS]


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every node of a schema with its path."""
    yield path or ".", schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from walk(schema[key], f"{path}[]")


def structural_faults(schema: Schema) -> list[str]:
    """What makes a schema not structural, or not ours."""
    faults = []
    for path, node in walk(schema):
        faults += [f"{path}: {word} is not structural" for word in sorted(NOT_STRUCTURAL & node.keys())]
        if "type" not in node and not node.get("x-kubernetes-int-or-string"):
            faults.append(f"{path}: has no type")
        if isinstance(node.get("additionalProperties"), bool):
            faults.append(f"{path}: additionalProperties is a switch")
        if "properties" in node and "additionalProperties" in node:
            faults.append(f"{path}: has properties and additionalProperties")
        faults += [
            f"{path}: requires {name}, which it does not have"
            for name in node.get("required", ())
            if name not in node.get("properties", {})
        ]
        faults += [
            f"{path}: requires {name}, which has a default"
            for name in node.get("required", ())
            if "default" in node["properties"].get(name, {})
        ]
        if node.get("type") == "object" and not {"properties", "additionalProperties", FREE} & node.keys() and path != ".metadata":
            faults.append(f"{path}: is an object without fields")
        if FREE in node and not path.startswith(".spec.template.spec."):
            faults.append(f"{path}: keeps unknown fields outside the template")
    return faults


def bound_faults(schema: Schema) -> list[str]:
    """What may be of any size."""
    faults = []
    for path, node in walk(schema):
        match node.get("type"):
            case "string" if not {"maxLength", "enum", "format"} & node.keys():
                faults.append(f"{path}: a string of any length")
            case "integer" | "number" if not {"minimum", "maximum"} <= node.keys():
                faults.append(f"{path}: a number without bounds")
            case "array" if "maxItems" not in node:
                faults.append(f"{path}: a list of any length")
            case "object" if "additionalProperties" in node and "maxProperties" not in node:
                faults.append(f"{path}: a map of any size")
            case None if "maxLength" not in node:
                faults.append(f"{path}: a text of any length")
    return faults


def list_faults(schema: Schema) -> list[str]:
    """Lists that the API server could not merge."""
    faults = []
    for path, node in walk(schema):
        if node.get("type") != "array":
            continue
        items = node["items"]
        if node.get(LIST_TYPE) not in ("atomic", "set", "map"):
            faults.append(f"{path}: a list without its type")
        if node.get(LIST_TYPE) == "map" and not set(node.get(KEYS, ["?"])) <= set(items.get("required", ())):
            faults.append(f"{path}: the keys of a list must be required in its items")
        if node.get(LIST_TYPE) == "set" and items.get("type") == "object":
            faults.append(f"{path}: a set must have scalars")
    return faults


def rule_faults(schema: Schema) -> list[str]:
    """Rules that do not say what must be true, of which field, or that speak of a field that is not there."""
    faults = []
    known = {path for path, _ in walk(schema)}
    for path, node in walk(schema):
        for rule in node.get(RULES, ()):
            message = rule.get("message", "")
            target = path.rstrip(".") + rule.get("fieldPath", "")
            field = re.sub(r"\[\]", "", target).rsplit(".", 1)[-1]
            parents = set(re.sub(r"\[\]", "", target).split("."))
            if "must" not in message:
                faults.append(f"{path}: {message!r} does not say what must be true")
            if not any(re.search(rf"\b{re.escape(name)}\b", message) for name in parents - {"", "spec", "name", "template"}):
                faults.append(f"{path}: {message!r} does not name {field}")
            if "fieldPath" in rule and target not in known:
                faults.append(f"{path}: there is no field {rule['fieldPath']}")
    return faults


LINTERS = [structural_faults, bound_faults, list_faults, rule_faults]


@pytest.mark.parametrize("linter", LINTERS, ids=lambda linter: str(linter.__name__))
@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_definitions_have_no_faults(schema: Schema, linter: Any) -> None:
    assert linter(schema) == []


@pytest.mark.parametrize(
    ("linter", "node", "fault"),
    [
        (structural_faults, {"type": "string", "title": "x"}, "title is not structural"),
        (structural_faults, {"description": "x"}, "has no type"),
        (structural_faults, {"type": "object", "additionalProperties": False}, "is a switch"),
        (structural_faults, {"type": "object"}, "without fields"),
        (structural_faults, {"type": "object", FREE: True}, "outside the template"),
        (structural_faults, {"type": "object", "required": ["a"], "properties": {"b": {"type": "boolean"}}}, "requires a"),
        (
            structural_faults,
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "boolean", "default": True}}},
            "has a default",
        ),
        (bound_faults, {"type": "string"}, "any length"),
        (bound_faults, {"type": "integer", "minimum": 0}, "without bounds"),
        (bound_faults, {"type": "array", "items": {"type": "boolean"}}, "any length"),
        (bound_faults, {"type": "object", "additionalProperties": {"type": "boolean"}}, "any size"),
        (bound_faults, {"x-kubernetes-int-or-string": True}, "any length"),
        (list_faults, {"type": "array", "items": {"type": "boolean"}}, "without its type"),
        (list_faults, {"type": "array", LIST_TYPE: "map", KEYS: ["a"], "items": {"type": "object"}}, "must be required"),
        (list_faults, {"type": "array", LIST_TYPE: "set", "items": {"type": "object"}}, "scalars"),
        (rule_faults, {"type": "boolean", RULES: [{"rule": "self", "message": "x is wrong"}]}, "what must be true"),
        (rule_faults, {"type": "boolean", RULES: [{"rule": "self", "message": "it must be so"}]}, "does not name x"),
        (rule_faults, {"type": "boolean", RULES: [{"rule": "self", "message": "x must be so", "fieldPath": ".y"}]}, "no field .y"),
    ],
)
def test_the_linters_find_what_they_are_for(linter: Any, node: Schema, fault: str) -> None:
    assert any(fault in found for found in linter({"type": "object", "properties": {"x": node}}))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_field_outside_the_template_is_described(schema: Schema) -> None:
    plain = [path for path, node in walk(schema) if not path.endswith("[]") and not path.startswith((".metadata", ".spec.template."))]
    assert [path for path in plain if not dict(walk(schema))[path].get("description")] == []


@pytest.mark.parametrize(("kind", "version"), VERSIONS, ids=[kind for kind, _ in VERSIONS])
def test_columns_and_selectable_fields_exist(kind: str, version: Schema) -> None:
    known = {path for path, _ in walk(version["schema"]["openAPIV3Schema"])} | {".metadata.creationTimestamp"}
    columns = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    selectable = [field["jsonPath"] for field in version.get("selectableFields", ())]
    assert [path for path in [*columns, *selectable] if re.sub(r"\[\?[^]]*\]", "[]", path) not in known] == []
    assert [column["name"] for column in version["additionalPrinterColumns"]][-1] == "Age"


@pytest.mark.parametrize("definition", DEFINITIONS, ids=[kind for kind, _ in VERSIONS])
def test_all_kinds_are_listed_together_and_have_a_status(definition: Schema) -> None:
    assert definition["spec"]["names"]["categories"] == ["aios"]
    assert all(version["subresources"] == {"status": {}} for version in definition["spec"]["versions"])

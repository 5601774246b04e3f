"""Objects against the generated schemas, without a cluster: types, bounds, unknown and missing fields, and the CEL rules beside them.

CEL rules that need what only an API server has are left to it: functions of Kubernetes' own (the models judge the same), the object as it
was before, and the runtime classes that a cluster allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import cel
from jsonschema import Draft202012Validator

from aios_api import crd
from aios_api.agent import parse_spec
from aios_api.binding import parse_binding
from aios_api.meta import GENERATION_MAX, InvalidSpec
from aios_api.names import API_VERSION
from aios_api.quantity import InvalidQuantity, mebibytes
from aios_api.quota import parse_quota
from aios_api.schema import RULES
from aios_api.template import ALLOWED_RUNTIME_CLASSES

Schema = dict[str, Any]

INTERNAL_KINDS = ("AgentRuntime",)
"""Written by the operator alone."""
_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_METADATA: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 253, "pattern": f"^{_LABEL}(\\.{_LABEL})*$"},
        "namespace": {"type": "string", "maxLength": 63, "pattern": f"^{_LABEL}$"},
        "generation": {"type": "integer", "minimum": 0, "maximum": GENERATION_MAX},
    },
}
"""The API server's own. Looked at is what we compile with."""
_SERVERS_OWN: Final = re.compile(r"\b(isQuantity|quantity|isIP|ip|isCIDR|cidr)\(|\boldSelf\b")


def _parse_agent(spec: object) -> None:
    parsed = parse_spec(spec)
    if parsed.gpu is not None:
        try:
            mebibytes(parsed.gpu.memory)
        except InvalidQuantity as wrong:
            raise InvalidSpec(f"spec.gpu.memory: {wrong}") from None


_MODELS: Mapping[str, Callable[[object], object]] = {"Agent": _parse_agent, "ToolBinding": parse_binding, "GPUQuota": parse_quota}


def faults(raw: Mapping[str, Any]) -> list[str]:
    """What is wrong with the object, each naming its field; none when the API would take it, as far as can be told here."""
    kind, version = str(raw.get("kind")), raw.get("apiVersion")
    if kind in INTERNAL_KINDS:
        return [f"kind {kind} is written by the operator and must not be in Git"]
    schema = _schemas().get(kind)
    if schema is None:
        return [f"kind must be one of {', '.join(sorted(set(_schemas()) - set(INTERNAL_KINDS)))}, not {kind}"]
    if version != API_VERSION:
        return [f"apiVersion must be {API_VERSION}, not {version}"]
    found = [f"{_path(error.absolute_path)}: {_brief(error.message)}" for error in _validators()[kind].iter_errors(raw)]
    if found:
        return sorted(set(found))
    broken = [f"{_path(path)}: {message}" for path, message in _broken_rules(schema, _defaulted(schema, raw), ())]
    if broken:
        return broken
    try:
        if (parse := _MODELS.get(kind)) is not None:
            parse(raw.get("spec"))
    except InvalidSpec as wrong:
        return [str(wrong)]
    return []


@cache
def _schemas() -> dict[str, Schema]:
    return {each["spec"]["names"]["kind"]: each["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for each in crd.definitions()}


@cache
def _validators() -> dict[str, Draft202012Validator]:
    return {kind: Draft202012Validator(_closed(schema, root=True)) for kind, schema in _schemas().items()}


def _closed(schema: Schema, *, root: bool = False) -> Schema:
    """The schema as JSON Schema, with unknown fields refused, as kubectl and the API server refuse them in strict validation."""
    closed = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    if "properties" in schema:
        closed["properties"] = {name: _closed(each) for name, each in schema["properties"].items()}
        if root:
            closed["properties"]["metadata"] = _METADATA
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            closed[part] = _closed(schema[part])
    return closed


def _defaulted(schema: Schema, value: Any) -> Any:
    """The value with the schema's defaults, which the API server sets before it looks at rules."""
    if isinstance(value, Mapping):
        known = schema.get("properties") or {}
        defaults = {name: each["default"] for name, each in known.items() if "default" in each}
        parts = {**defaults, **value}
        return {name: _defaulted(_part(schema, name), part) for name, part in parts.items()}
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_defaulted(schema["items"], part) for part in value]
    return value


def _part(schema: Schema, name: str) -> Schema:
    """The schema of a field, or of a value of a map; empty where anything may stand."""
    found = (schema.get("properties") or {}).get(name, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else {}


def _broken_rules(schema: Schema, value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where a CEL rule of the schema does not hold, and what it says."""
    for rule in schema.get(RULES, ()):
        text = rule["rule"]
        if _SERVERS_OWN.search(text) or text == f"self in {ALLOWED_RUNTIME_CLASSES}":
            continue
        if _program(text).execute({"self": value}) is not True:
            yield path, rule["message"]
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _broken_rules(_part(schema, name), part, (*path, name))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, part in enumerate(value):
            yield from _broken_rules(schema["items"], part, (*path, number))


@cache
def _program(text: str) -> Any:
    return cel.compile(text)


def _path(parts: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".") or "the object"


def _brief(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:297]}…"

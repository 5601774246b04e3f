"""Label and field selectors, read and matched as the API server does. Used where a list is filtered on our side."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

_Test = Callable[[Mapping[str, str]], bool]
_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s+\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")


@lru_cache(maxsize=256)
def _tests(selector: str) -> tuple[_Test, ...]:
    return tuple(_test(part.strip()) for part in re.split(r",(?![^()]*\))", selector))


def _test(part: str) -> _Test:
    if found := _SET.match(part):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        return (lambda labels: labels.get(key) in values) if found["op"] == "in" else (lambda labels: labels.get(key) not in values)
    if found := _EQUAL.match(part):
        key, value = found["key"], found["value"]
        return (lambda labels: labels.get(key) != value) if found["op"] == "!=" else (lambda labels: labels.get(key) == value)
    if re.fullmatch(r"!?[^\s!=,()]+", part):
        return (lambda labels: part[1:] not in labels) if part[0] == "!" else (lambda labels: part in labels)
    raise ValueError(f"selector part {part!r} must be KEY, !KEY, KEY=VALUE, KEY!=VALUE, KEY in (A,B) or KEY notin (A,B)")


def matches_labels(selector: str | None, obj: Mapping[str, Any]) -> bool:
    """True when the object's labels satisfy `selector`; no selector is satisfied by all."""
    labels = obj["metadata"].get("labels") or {}
    return not selector or all(test(labels) for test in _tests(selector))


def matches_fields(selector: str | None, obj: Mapping[str, Any]) -> bool:
    """True when `selector` (`path=value` or `path!=value`, comma-separated) holds; an absent field is the empty string."""
    if not selector:
        return True
    for part in selector.split(","):
        found = _EQUAL.match(part.strip())
        if not found:
            raise ValueError(f"field selector {part!r} must be PATH=VALUE or PATH!=VALUE")
        value: Any = obj
        for step in found["key"].split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if (str("" if value is None else value) == found["value"]) == (found["op"] == "!="):
            return False
    return True

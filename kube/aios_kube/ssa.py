"""Server-side apply and merge patches as far as the in-memory cluster needs them.

Maps merge by key. Of lists, `conditions` merge by `type`, `ownerReferences` by `uid` and `finalizers` as a set; every other list is atomic
(the real server merges many lists of pods by their own keys). Ownership is per leaf; there are no `managedFields` in objects.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from aios_kube.errors import Conflict

Path = tuple[str | tuple[str, str], ...]
"""Keys from the root; a list element is (key field, its value)."""

_LIST_KEYS = {"conditions": "type", "ownerReferences": "uid", "finalizers": ""}
_IDENTITY = {"apiVersion", "kind"}
_METADATA_IDENTITY = {
    ("metadata", key) for key in ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
}


def leaves(obj: dict[str, Any]) -> dict[Path, Any]:
    """Every leaf of `obj` that a manager can own, by its path. An empty map is a leaf."""
    found = {path: value for path, value in _walk((), obj) if path[:2] not in _METADATA_IDENTITY}
    return {path: value for path, value in found.items() if path[0] not in _IDENTITY and path != ("metadata",)}


def _walk(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and (value or not path):
        for key, part in value.items():
            yield from _walk((*path, key), part)
    elif isinstance(value, list) and path and path[-1] in _LIST_KEYS:
        key = _LIST_KEYS[str(path[-1])]
        for item in value:
            element = (*path, (key, str(item[key] if key else item)))
            yield from (_walk(element, item) if key else [(element, item)])
    elif value is not None:
        yield path, value


def identity(obj: dict[str, Any]) -> dict[str, Any]:
    """What no manager owns: kind, name and what the server keeps in `metadata`."""
    kept = {key: value for key, value in obj.items() if key in _IDENTITY}
    return {**kept, "metadata": {key: value for key, value in obj["metadata"].items() if ("metadata", key) in _METADATA_IDENTITY}}


def build(found: dict[Path, Any], onto: dict[str, Any]) -> dict[str, Any]:
    """`onto` with each leaf of `found` set."""
    result = copy.deepcopy(onto)
    for path, value in found.items():
        _set(result, path, copy.deepcopy(value))
    return result


def _set(target: Any, path: Path, value: Any) -> None:
    for step, following in pairwise(path):
        target = _child(target, step, [] if isinstance(following, tuple) else {})
    last = path[-1]
    if isinstance(last, tuple):
        if value not in target:
            target.append(value)
    elif value != {} or not isinstance(target.get(last), dict):
        target[last] = value


def _child(target: Any, step: str | tuple[str, str], empty: Any) -> Any:
    if isinstance(step, tuple):
        key, wanted = step
        for item in target:
            if item.get(key) == wanted:
                return item
        target.append({key: wanted})
        return target[-1]
    if not isinstance(target.get(step), type(empty)):
        target[step] = empty
    return target[step]


class Owners:
    """Who owns which leaves of one object."""

    def __init__(self) -> None:
        self._applied: dict[str, set[Path]] = {}
        self._updated: dict[str, set[Path]] = {}

    def updated(self, manager: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        """A plain write took over what it changed."""
        old, new = leaves(before), leaves(after)
        changed = {path for path, value in new.items() if old.get(path) != value}
        for owned in (*self._applied.values(), *self._updated.values()):
            owned -= changed
            owned &= set(new)
        self._updated.setdefault(manager, set()).update(changed)

    def apply(self, manager: str, current: dict[str, Any], wanted: dict[str, Any], force: bool) -> dict[str, Any]:
        """`current` after `manager` applied `wanted`; `Conflict` when it differs from another manager's value, unless forced."""
        new, old = leaves(wanted), leaves(current)
        others = [
            (name, owned)
            for kind, owners in (("apply", self._applied), ("update", self._updated))
            for name, owned in owners.items()
            if (kind, name) != ("apply", manager)
        ]
        for name, owned in others:
            clash = {path for path in owned & set(new) if old.get(path) != new[path]}
            if clash and not force:
                fields = ", ".join(sorted(".".join(str(step) for step in path) for path in clash))
                raise Conflict(f'conflict with "{name}": {fields}', code=409, reason="Conflict")
            owned -= clash
        given_up = self._applied.get(manager, set()) - set(new)
        for _, owned in others:
            given_up -= owned
        self._applied[manager] = set(new)
        return build({**{path: value for path, value in old.items() if path not in given_up}, **new}, identity(current))


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result

"""`FakeCluster`: a `ClusterClient` whose cluster is in memory, for unit tests.

It has what controllers trip over: resourceVersions, uids, generations, status as a subresource, finalizers, preconditions, writes that
change nothing, server-side apply with conflicts, watches with history and 410, pages. It has no schemas, defaults, admission, garbage
collection, scheduler or kubelet: a test plays these with `put`, `alter` and `remove`, or runs against a real API server.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from aios_kube.errors import AlreadyExists, ApiError, Conflict, Gone, NotFound
from aios_kube.protocol import ALL, EventType, JsonPatch, Object, Page, Propagation, Selection, WatchEvent
from aios_kube.resources import Resource
from aios_kube.selectors import matches_fields, matches_labels
from aios_kube.ssa import Owners, merge_patch

Verb = Literal["get", "list", "create", "apply", "patch", "delete", "watch"]
_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Call:
    """One request, as the cluster saw it."""

    verb: Verb
    resource: Resource
    namespace: str
    name: str
    subresource: str | None = None
    body: Any = None

    @property
    def writes(self) -> bool:
        return self.verb not in ("get", "list", "watch")


Hook = Callable[[Call], ApiError | None]
"""A fault: the error that the call ends with, or None."""


@dataclass(frozen=True)
class _Change:
    version: int
    type: EventType
    before: Object | None
    after: Object


@dataclass
class FakeCluster:
    """One cluster. `refuse` hooks act before a call is carried out, `lose` hooks after it (the write happened, the answer got lost)."""

    clock: Callable[[], datetime] = lambda: datetime(2026, 1, 1, tzinfo=UTC)
    page_size: int = 500
    calls: list[Call] = field(default_factory=list)
    refuse: list[Hook] = field(default_factory=list)
    lose: list[Hook] = field(default_factory=list)
    lingering: set[str] = field(default_factory=set)
    """Plurals (such as pods) of which a deleted object stays, marked, until `remove`: the test is the kubelet."""

    def __post_init__(self) -> None:
        self._version = 1000  # as on a server that has lived: a small number is an old version
        self._uids = 0
        self._oldest = 0
        self._objects: dict[_Key, Object] = {}
        self._owners: dict[_Key, Owners] = {}
        self._history: dict[tuple[str, str], list[_Change]] = {}
        self._news = asyncio.Event()
        self._epoch = 0

    # What a test does as somebody else: nothing here is recorded in `calls`.

    def put(self, resource: Resource, obj: Object) -> Object:
        """`obj`, status included, exists as given; what the server fills in is filled in."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **copy.deepcopy(obj)}
        key = _key(resource, body["metadata"].get("namespace") or "", body["metadata"]["name"])
        before = self._objects.get(key)
        metadata = body["metadata"]
        if before is not None:
            metadata = body["metadata"] = {**{k: before["metadata"][k] for k in ("uid", "creationTimestamp", "generation")}, **metadata}
        self._fill(body)
        self._owners.setdefault(key, Owners()).updated("test", before or {"metadata": {}}, body)
        return self._store(key, before, body)

    def alter(self, resource: Resource, name: str, patch: Object, namespace: str = "") -> Object:
        """Merges `patch` into the object, status and all; the generation follows the spec."""
        key = _key(resource, namespace, name)
        before = self._find(key)
        return self._write(key, before, merge_patch(before, patch), "test")

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """The object is gone at once, whatever its finalizers."""
        key = _key(resource, namespace, name)
        self._drop(key, self._find(key))

    def peek(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """A copy of the object, or None."""
        return copy.deepcopy(self._objects.get(_key(resource, namespace, name)))

    def all(self, resource: Resource) -> list[Object]:
        """Copies of all objects of a resource."""
        return [copy.deepcopy(obj) for key, obj in sorted(self._objects.items()) if key[:2] == (resource.group, resource.plural)]

    def writes(self) -> list[Call]:
        """The calls so far that could have changed something."""
        return [call for call in self.calls if call.writes]

    def compact(self) -> None:
        """The history is gone: a watch from any version before now ends with 410."""
        self._oldest = self._version
        self._history.clear()

    def end_watches(self) -> None:
        """Every open watch ends, as when the server's time limit is reached."""
        self._epoch += 1
        self._wake()

    # ClusterClient

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        self._enter(Call("get", resource, namespace or "", name))
        return copy.deepcopy(self._find(_key(resource, namespace or "", name)))

    async def pages(
        self, resource: Resource, selection: Selection = ALL, *, metadata_only: bool = False, page_size: int | None = None
    ) -> AsyncIterator[Page]:
        self._enter(Call("list", resource, selection.namespace or "", ""))
        version = str(self._version)
        items = [obj for obj in self.all(resource) if _matches(selection, obj)]
        shown = [_metadata(obj) if metadata_only else obj for obj in items]
        size = page_size or self.page_size
        for start in range(0, max(len(shown), 1), size):
            yield Page(shown[start : start + size], version)

    async def list(self, resource: Resource, selection: Selection = ALL, *, metadata_only: bool = False) -> Page:
        items: list[Object] = []
        version = ""
        async for page in self.pages(resource, selection, metadata_only=metadata_only):
            items += page.items
            version = page.resource_version
        return Page(items, version)

    async def create(self, resource: Resource, body: Object, *, field_manager: str) -> Object:
        new = {"apiVersion": resource.api_version, "kind": resource.kind, **copy.deepcopy(body)}
        namespace, name = new["metadata"].get("namespace") or "", new["metadata"]["name"]
        call = self._enter(Call("create", resource, namespace, name, body=body))
        key = _key(resource, namespace, name)
        if key in self._objects:
            raise AlreadyExists(f'{resource.plural} "{name}" already exists', code=409, reason="AlreadyExists")
        new.pop("status", None)
        self._fill(new)
        self._owners[key] = Owners()
        self._owners[key].updated(field_manager, {"metadata": {}}, new)
        return self._leave(call, self._store(key, None, new))

    async def apply(
        self, resource: Resource, body: Object, *, field_manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        metadata = body["metadata"]
        namespace, name = metadata.get("namespace") or "", metadata["name"]
        call = self._enter(Call("apply", resource, namespace, name, subresource, body))
        key = _key(resource, namespace, name)
        before = self._objects.get(key)
        if before is None:
            if metadata.get("uid") or subresource:
                problem = Conflict if metadata.get("uid") else NotFound
                raise problem(f'{resource.plural} "{name}" not found', code=409 if metadata.get("uid") else 404)
            new: Object = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}}
            if namespace:
                new["metadata"]["namespace"] = namespace
            self._owners[key] = Owners()
            new = self._owners[key].apply(field_manager, new, _part(body, None), force)
            self._fill(new)
            return self._leave(call, self._store(key, None, new))
        _expect(before, metadata.get("uid"), metadata.get("resourceVersion"))
        manager = f"{field_manager}/{subresource}" if subresource else field_manager
        after = self._owners[key].apply(manager, before, _part(body, subresource), force)
        return self._leave(call, self._write(key, before, after, None))

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object | JsonPatch,
        *,
        namespace: str | None = None,
        field_manager: str,
        subresource: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> Object:
        call = self._enter(Call("patch", resource, namespace or "", name, subresource, patch))
        key = _key(resource, namespace or "", name)
        before = self._find(key)
        if isinstance(patch, list):
            _expect(before, uid, resource_version)
            patched = _json_patch(before, patch)
        else:
            metadata = patch.get("metadata", {})
            _expect(before, uid or metadata.get("uid"), resource_version or metadata.get("resourceVersion"))
            patched = merge_patch(before, patch)
        return self._leave(call, self._write(key, before, _only(before, patched, subresource), field_manager))

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
        propagation: Propagation | None = None,
    ) -> None:
        body = {"uid": uid, "grace_seconds": grace_seconds, "propagation": propagation}
        call = self._enter(Call("delete", resource, namespace or "", name, body=body))
        key = _key(resource, namespace or "", name)
        obj = self._find(key)
        _expect(obj, uid, None)
        stays = resource.plural in self.lingering and grace_seconds != 0
        if not stays and not obj["metadata"].get("finalizers"):
            self._drop(key, obj)
        elif "deletionTimestamp" not in obj["metadata"]:
            marked = copy.deepcopy(obj)
            marked["metadata"]["deletionTimestamp"] = _time(self.clock())
            self._store(key, obj, marked)
        self._leave(call, {})

    async def watch(
        self,
        resource: Resource,
        selection: Selection = ALL,
        *,
        resource_version: str,
        metadata_only: bool = False,
        seconds: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        self._enter(Call("watch", resource, selection.namespace or "", ""))
        ends = None if seconds is None else asyncio.get_running_loop().time() + seconds
        seen = int(resource_version)
        if seen < self._oldest:
            raise Gone(f"too old resource version: {seen} ({self._oldest})", code=410, reason="Expired")
        epoch = self._epoch
        while epoch == self._epoch:
            news = self._news
            for change in list(self._history.get((resource.group, resource.plural), ())):
                if change.version <= seen:
                    continue
                seen = change.version
                kind = _seen_as(change, selection)
                if kind is not None:
                    yield WatchEvent(kind, copy.deepcopy(_metadata(change.after) if metadata_only else change.after))
            try:
                async with asyncio.timeout_at(ends):
                    await news.wait()
            except TimeoutError:
                yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}})
                return

    async def close(self) -> None:
        """Nothing is open."""

    # How objects change.

    def _enter(self, call: Call) -> Call:
        self.calls.append(call)
        for hook in self.refuse:
            if error := hook(call):
                raise error
        return call

    def _leave(self, call: Call, result: Object) -> Object:
        for hook in self.lose:
            if error := hook(call):
                raise error
        return copy.deepcopy(result)

    def _find(self, key: _Key) -> Object:
        if key not in self._objects:
            raise NotFound(f'{key[1]} "{key[3]}" not found', code=404, reason="NotFound")
        return self._objects[key]

    def _fill(self, new: Object) -> None:
        metadata = new["metadata"]
        if not metadata.get("uid"):
            self._uids += 1
            metadata["uid"] = f"00000000-0000-4000-8000-{self._uids:012d}"
        metadata.setdefault("creationTimestamp", _time(self.clock()))
        metadata.setdefault("generation", 1)

    def _write(self, key: _Key, before: Object, after: Object, manager: str | None) -> Object:
        for kept in ("uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp"):
            if kept in before["metadata"]:
                after["metadata"][kept] = before["metadata"][kept]
            else:
                after["metadata"].pop(kept, None)
        if after == before:
            return before
        if manager is not None:
            self._owners[key].updated(manager, before, after)
        if _desired(before) != _desired(after):
            after["metadata"]["generation"] += 1
        if "deletionTimestamp" in after["metadata"] and not after["metadata"].get("finalizers") and before["metadata"].get("finalizers"):
            self._drop(key, after)
            return after
        return self._store(key, before, after)

    def _store(self, key: _Key, before: Object | None, after: Object) -> Object:
        self._version += 1
        after["metadata"]["resourceVersion"] = str(self._version)
        self._objects[key] = after
        self._tell(key, _Change(self._version, "ADDED" if before is None else "MODIFIED", before, after))
        return after

    def _drop(self, key: _Key, last: Object) -> None:
        self._version += 1
        gone = copy.deepcopy(last)
        gone["metadata"]["resourceVersion"] = str(self._version)
        del self._objects[key]
        self._owners.pop(key, None)
        self._tell(key, _Change(self._version, "DELETED", last, gone))

    def _tell(self, key: _Key, change: _Change) -> None:
        self._history.setdefault(key[:2], []).append(change)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _key(resource: Resource, namespace: str, name: str) -> _Key:
    if resource.namespaced and not namespace:
        raise ValueError(f"{resource.kind} {name!r} must be addressed with its namespace")
    return (resource.group, resource.plural, namespace if resource.namespaced else "", name)


def _desired(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _metadata(obj: Object) -> Object:
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": obj["metadata"]}


def _matches(selection: Selection, obj: Object) -> bool:
    if selection.namespace and obj["metadata"].get("namespace") != selection.namespace:
        return False
    return matches_labels(selection.labels, obj) and matches_fields(selection.fields, obj)


def _seen_as(change: _Change, selection: Selection) -> EventType | None:
    """How a watch with `selection` sees a change: an object that stops matching is DELETED to it, one that starts is ADDED."""
    was = change.before is not None and _matches(selection, change.before)
    now = change.type != "DELETED" and _matches(selection, change.after)
    if now:
        return "MODIFIED" if was else "ADDED"
    return "DELETED" if was else None


def _expect(obj: Object, uid: str | None, version: str | None) -> None:
    metadata = obj["metadata"]
    if uid is not None and uid != metadata["uid"]:
        raise Conflict(f"the uid must be {metadata['uid']}, not {uid}", code=409, reason="Conflict")
    if version is not None and version != metadata["resourceVersion"]:
        raise Conflict("the object has been modified", code=409, reason="Conflict")


def _part(body: Object, subresource: str | None) -> Object:
    """What a write to a subresource, or to the main resource, may touch of an applied configuration."""
    if subresource:
        return {"metadata": {}, subresource: body.get(subresource, {})}
    return {key: value for key, value in body.items() if key != "status"}


def _only(before: Object, after: Object, subresource: str | None) -> Object:
    """`after`, with the part that this endpoint does not write as it was."""
    if subresource:
        result = copy.deepcopy(before)
        result[subresource] = after.get(subresource, {})
        return result
    kept = {"status": before["status"]} if "status" in before else {}
    return {**{key: value for key, value in after.items() if key != "status"}, **kept}


def _json_patch(obj: Object, operations: JsonPatch) -> Object:
    """RFC 6902 as far as our programs use it: test, add, replace, remove."""
    result = copy.deepcopy(obj)
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        target: Any = result
        for step in steps[:-1]:
            target = target[int(step)] if isinstance(target, list) else target[step]
        _operate(target, steps[-1], operation)
    return result


def _operate(target: Any, last: str, operation: Object) -> None:
    place: Any = len(target) if last == "-" else int(last) if isinstance(target, list) else last
    if operation["op"] == "test":
        there = target[place] if isinstance(target, list) else target.get(place)
        if there != operation["value"]:
            raise Conflict(f"test failed at {operation['path']}", code=409, reason="Conflict")
    elif operation["op"] == "remove":
        del target[place]
    elif isinstance(target, list) and operation["op"] == "add":
        target.insert(place, copy.deepcopy(operation["value"]))
    else:
        target[place] = copy.deepcopy(operation["value"])

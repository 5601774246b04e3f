"""The objects of one resource as views: of one object the newest version wins, whoever brings it, and what was deleted stays so."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from aios_kube import Resource, Selection

BURIED = 20_000
"""Uids of deleted objects that are remembered. An event that is under way is seconds old, and no cluster deletes so many in that time."""

Name = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""
Raw = Mapping[str, Any]


class View(Protocol):
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


V = TypeVar("V", bound=View)


@dataclass
class Table(Generic[V]):
    """The views of one resource. `changed` is told of a view that came, went or became another (old, new)."""

    resource: Resource
    parse: Callable[[Raw], V | None]
    changed: Callable[[V | None, V | None], None]
    selection: Selection = field(default_factory=Selection)
    """What is watched of the resource."""
    views: dict[Name, V] = field(default_factory=dict)
    _buried: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _unshown: dict[str, int] = field(default_factory=dict)
    """Versions, by uid, of objects that arrived and have no view: they are not ours, or can't be read."""

    def upsert(self, raw: Raw) -> None:
        """The picture shows `raw`, unless it knows better already. Raises what `parse` raises; the picture is then as before."""
        metadata = raw["metadata"]
        name = _name(metadata)
        old = self.views.get(name)
        if metadata["uid"] in self._buried or (old is not None and int(metadata["resourceVersion"]) <= int(old.resource_version)):
            return
        self._unshown[metadata["uid"]] = int(metadata["resourceVersion"])
        new = self.parse(raw)
        if new is not None:
            del self._unshown[metadata["uid"]]
            self.views[name] = new
        elif old is not None:
            del self.views[name]
        if old is None or new is None or _differ(old, new):
            self.changed(old, new)

    def remove(self, namespace: str, name: str, uid: str) -> None:
        """The object of this uid is gone for good; another of its name stays."""
        self._bury(uid)
        self._unshown.pop(uid, None)
        old = self.views.get((namespace, name))
        if old is not None and old.uid == uid:
            del self.views[(namespace, name)]
            self.changed(old, None)

    def is_being_deleted(self, namespace: str, name: str, uid: str, **more: bool) -> None:
        """We know so of the object of that uid though no event has said it yet. Views that don't tell it apart wait for the event."""
        old = self.views.get((namespace, name))
        known = {"deleting": True, **more}
        if old is None or old.uid != uid or all(getattr(old, field, True) == value for field, value in known.items()):
            return
        new = dataclasses.replace(old, **known)  # type: ignore[type-var]
        self.views[(namespace, name)] = new
        self.changed(old, new)

    def retain(self, alive: Collection[str], version: str) -> int:
        """What is not among the uids of a list of `version`, though it is not newer than that, is removed. Returns how many."""
        newest = int(version)
        self._unshown = {uid: seen for uid, seen in self._unshown.items() if uid in alive or seen > newest}
        gone = [(name, view) for name, view in self.views.items() if view.uid not in alive and int(view.resource_version) <= newest]
        for (namespace, name), view in gone:
            self.remove(namespace, name, view.uid)
        return len(gone)

    def versions(self) -> dict[str, int]:
        """By uid, the newest version of every object that has arrived, whether it has a view or not."""
        return self._unshown | {view.uid: int(view.resource_version) for view in self.views.values()}

    def _bury(self, uid: str) -> None:
        self._buried[uid] = None
        while len(self._buried) > BURIED:
            self._buried.popitem(last=False)


def _name(metadata: Raw) -> Name:
    return metadata.get("namespace") or "", metadata["name"]


def _differ(old: Any, new: Any) -> bool:
    """False when only the version moved, as by a node's heartbeat."""
    return bool(dataclasses.replace(old, resource_version=new.resource_version) != new)

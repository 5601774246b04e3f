"""`ClusterClient`: all that our programs may ask of a cluster. Objects are plain dicts, as they are on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from aios_kube.resources import Resource

Object = dict[str, Any]
JsonPatch = list[Object]
EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
Propagation = Literal["Background", "Foreground", "Orphan"]


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list. `resource_version` is that of the whole list; a watch starts there."""

    items: list[Object]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    type: EventType
    object: Object


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource: one namespace or all, by labels and by fields."""

    namespace: str | None = None
    labels: str | None = None
    fields: str | None = None


ALL = Selection()


class ClusterClient(Protocol):
    """Every call raises an `aios_kube.errors.ApiError`, and has retried what may pass (network, 429, 5xx) before it does."""

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """The object, or `NotFound`."""
        ...

    def pages(
        self, resource: Resource, selection: Selection = ALL, *, metadata_only: bool = False, page_size: int | None = None
    ) -> AsyncIterator[Page]:
        """The list in pages of at most `page_size` objects, so that no more than one page need be in memory. None: as many as do well
        for lists that are kept. `Gone` when the continuation expired in between."""
        ...

    async def list(self, resource: Resource, selection: Selection = ALL, *, metadata_only: bool = False) -> Page:
        """The whole list, as one page. Starts over when its continuation expired."""
        ...

    async def create(self, resource: Resource, body: Object, *, field_manager: str) -> Object:
        """The object as stored. `AlreadyExists` when the name is taken; after a lost answer that object may be our own."""
        ...

    async def apply(
        self, resource: Resource, body: Object, *, field_manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        """Server-side apply of `body`, addressed by its metadata. With `metadata.uid` only to the object of that uid, else `Conflict`."""
        ...

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
        """A merge patch (a dict) or a JSON patch (a list). `Conflict` when the object is not of that uid and version."""
        ...

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
        """The object is gone or on its way. `NotFound` when there is none, `Conflict` when the one there has another uid."""
        ...

    def watch(
        self,
        resource: Resource,
        selection: Selection = ALL,
        *,
        resource_version: str,
        metadata_only: bool = False,
        seconds: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Events after `resource_version`, until the server ends the stream; watch again from the last version seen. `Gone`: list again.

        `seconds`: the server is asked to end it after so long, with a bookmark before its end; None leaves that to the client.
        """
        ...

    async def close(self) -> None:
        """No connection is left open."""
        ...

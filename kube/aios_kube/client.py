"""`KubeClient`: the `ClusterClient` that speaks to a real API server."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from aios_kube.errors import Conflict, Gone, Invalid, Unreachable, from_status
from aios_kube.protocol import ALL, JsonPatch, Object, Page, Propagation, Selection, WatchEvent
from aios_kube.resources import Resource
from aios_kube.transport import Credentials, Speaker, Transport, TransportSettings, Watcher

PAGE_SIZE = 500
"""Objects per page of a list: what kubectl uses; a page of pods is then a few MB."""

_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class KubeClient:
    """Implements `ClusterClient`. Open one per process with `connect` and close it."""

    def __init__(self, transport: Transport, page_size: int = PAGE_SIZE) -> None:
        self._transport = transport
        self._page_size = page_size

    def speaking_for(self, speaker: Speaker) -> KubeClient:
        """A client with the same connections that speaks in the name of somebody else; only who may impersonate can have one."""
        return KubeClient(self._transport.speaking_for(speaker), self._page_size)

    def writing_while(self, confirm: Callable[[], None]) -> KubeClient:
        """A client with the same connections that calls `confirm` before each try of a request that writes; what that raises ends it."""
        return KubeClient(self._transport.writing_while(confirm), self._page_size)

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        return _object(await self._transport.call("GET", resource.path(namespace, name), verb="get"))

    async def pages(
        self, resource: Resource, selection: Selection = ALL, *, metadata_only: bool = False, page_size: int | None = None
    ) -> AsyncIterator[Page]:
        accept = _METADATA.format("List") if metadata_only else "application/json"
        query = {**_selectors(selection), "limit": str(page_size or self._page_size)}
        while True:
            answer = await self._transport.call("GET", resource.path(selection.namespace), verb="list", query=query, accept=accept)
            items: list[Object] = answer.get("items") or []
            if not metadata_only:
                for item in items:
                    item.setdefault("apiVersion", resource.api_version)
                    item.setdefault("kind", resource.kind)
            yield Page(items, answer["metadata"].get("resourceVersion", ""))
            rest = answer["metadata"].get("continue")
            if not rest:
                return
            query["continue"] = rest

    async def list(self, resource: Resource, selection: Selection = ALL, *, metadata_only: bool = False) -> Page:
        for last_try in (False, False, True):
            items: list[Object] = []
            version = ""
            try:
                async for page in self.pages(resource, selection, metadata_only=metadata_only):
                    items += page.items
                    version = page.resource_version
            except Gone:
                if last_try:
                    raise
                continue
            return Page(items, version)
        raise AssertionError("the last try returns or raises")

    async def create(self, resource: Resource, body: Object, *, field_manager: str) -> Object:
        path = resource.path(body["metadata"].get("namespace"))
        named = "name" in body["metadata"]
        return _object(
            await self._transport.call("POST", path, verb="create", query={"fieldManager": field_manager}, body=body, repeatable=named)
        )

    async def apply(
        self, resource: Resource, body: Object, *, field_manager: str, force: bool = False, subresource: str | None = None
    ) -> Object:
        metadata = body["metadata"]
        try:
            return _object(
                await self._transport.call(
                    "PATCH",
                    resource.path(metadata.get("namespace"), metadata["name"], subresource),
                    verb="apply",
                    query={"fieldManager": field_manager, "force": "true" if force else "false"},
                    body={"apiVersion": resource.api_version, "kind": resource.kind, **body},
                    content_type="application/apply-patch+yaml",
                )
            )
        except Invalid as error:
            if _is_about_another_object(error):
                raise Conflict(error.message, code=409, reason="Conflict") from error
            raise

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
        expected = {key: value for key, value in (("uid", uid), ("resourceVersion", resource_version)) if value is not None}
        body: Any
        if isinstance(patch, list):
            body = [*({"op": "test", "path": f"/metadata/{key}", "value": value} for key, value in expected.items()), *patch]
        else:
            body = {**patch, "metadata": {**patch.get("metadata", {}), **expected}} if expected else patch
        try:
            return _object(
                await self._transport.call(
                    "PATCH",
                    resource.path(namespace, name, subresource),
                    verb="patch",
                    query={"fieldManager": field_manager},
                    body=body,
                    content_type="application/json-patch+json" if isinstance(patch, list) else "application/merge-patch+json",
                    repeatable=resource_version is not None or _is_idempotent(patch),
                )
            )
        except Invalid as error:
            # A failed `test` of a JSON patch comes back as a 422 that names nothing.
            if _is_about_another_object(error) or (isinstance(patch, list) and expected and not error.causes):
                raise Conflict(error.message, code=409, reason="Conflict") from error
            raise

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
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        await self._transport.call("DELETE", resource.path(namespace, name), verb="delete", body=options)

    async def watch(
        self,
        resource: Resource,
        selection: Selection = ALL,
        *,
        resource_version: str,
        metadata_only: bool = False,
        seconds: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        spread = self._transport.settings.watch_seconds * (0.5 + self._transport.chance())
        query = {
            **_selectors(selection),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(spread) if seconds is None else math.ceil(seconds)),
        }
        accept = _METADATA.format("") if metadata_only else "application/json"
        path = resource.path(selection.namespace)
        response = await self._transport.stream(path, query, accept, seconds)
        try:
            async for line in response.content:
                yield _event(line)
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, ValueError, OSError) as error:
            raise Unreachable(f"WATCH {path}: {type(error).__name__}: {error}") from error
        finally:
            response.close()

    async def close(self) -> None:
        await self._transport.close()


async def connect(
    kubeconfig: Path | None = None,
    *,
    user_agent: str,
    context: str | None = None,
    settings: TransportSettings | None = None,
    observe: Watcher | None = None,
) -> KubeClient:
    """A client for the cluster of `kubeconfig`, or for the cluster that our pod runs in when it is None. Asks nothing of the server yet."""
    credentials = Credentials(kubeconfig, context)
    return KubeClient(await Transport.open(credentials, settings or TransportSettings(), user_agent, observe))


def _selectors(selection: Selection) -> dict[str, str]:
    chosen = {"labelSelector": selection.labels, "fieldSelector": selection.fields}
    return {key: value for key, value in chosen.items() if value}


def _is_idempotent(patch: Object | JsonPatch) -> bool:
    """Carried out twice, it does the same: no element of a list is added, and nothing removed."""
    if isinstance(patch, dict):
        return True
    return all(step["op"] in ("test", "replace") or (step["op"] == "add" and not re.search(r"/(-|\d+)$", step["path"])) for step in patch)


def _is_about_another_object(error: Invalid) -> bool:
    """The server answers a wrong uid with 422 and "metadata.uid: field is immutable", not with 409."""
    return any(cause.field == "metadata.uid" for cause in error.causes)


def _event(line: bytes) -> WatchEvent:
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise ValueError(f"an event must be an object, not {line[:64]!r}")
    if event["type"] == "ERROR":
        raise from_status(int(event["object"].get("code") or 500), event["object"])
    return WatchEvent(event["type"], event["object"])


def _object(answer: Any) -> Object:
    if not isinstance(answer, dict):
        raise Unreachable(f"the API server must answer with an object, not with {type(answer).__name__}")
    return answer

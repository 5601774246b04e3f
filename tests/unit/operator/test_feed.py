"""Real kopf against a stub of the API server: what it asks for, what reaches the store, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from aios_kube import connect, resources
from aios_kube.transport import Credentials
from aios_operator.decide.views import Key
from aios_operator.observe import foreign
from aios_operator.observe.feed import Feed
from aios_operator.observe.store import Store
from aios_operator.settings import OperatorSettings

Object = dict[str, Any]
WATCHED = [table.resource for table in Store().tables]
SERVED = [*WATCHED, resources.NAMESPACES, resources.CUSTOM_RESOURCE_DEFINITIONS]
"""kopf waits until it has found namespaces and definitions, though it is told to watch neither."""


@dataclass
class Stub:
    """Lists `items` and streams what is put into the queue of each resource."""

    items: dict[str, list[Object]] = field(default_factory=dict)
    queues: dict[str, asyncio.Queue[Object]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    version: int = 100

    def queue(self, resource: resources.Resource) -> asyncio.Queue[Object]:
        return self.queues.setdefault(resource.plural, asyncio.Queue())

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            self.writes.append(f"{request.method} {request.path}")
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "37"})
        for resource in WATCHED:
            if request.path == resource.path():
                self.asked.append((resource.plural, dict(request.query)))
                return await (self._watch(request, resource) if "watch" in request.query else self._list(resource))
        return web.json_response(self._discovery(request.path))

    def _discovery(self, path: str) -> Object:
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            versions = {(r.group, r.version) for r in SERVED if r.group}
            groups = [{"name": g, "preferredVersion": {"version": v}, "versions": [{"version": v}]} for g, v in sorted(versions)]
            return {"groups": groups}
        found = [r for r in SERVED if path == ("/api/v1" if not r.group else f"/apis/{r.group}/{r.version}")]
        verbs = ["get", "list", "watch", "patch"]
        return {
            "resources": [
                {"name": r.plural, "singularName": r.kind.lower(), "kind": r.kind, "namespaced": r.namespaced, "verbs": verbs}
                for r in found
            ]
        }

    async def _list(self, resource: resources.Resource) -> web.Response:
        version = {"resourceVersion": str(self.version)}
        items = self.items.get(resource.plural, [])
        return web.json_response({"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": version, "items": items})

    async def _watch(self, request: web.Request, resource: resources.Resource) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            event = await self.queue(resource).get()
            await response.write(json.dumps(event).encode() + b"\n")


def an_agent(name: str, version: int, uid: str = "u1") -> Object:
    metadata = {
        "namespace": "ns",
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {
        "apiVersion": "aios.dev/v1alpha1",
        "kind": "Agent",
        "metadata": metadata,
        "spec": {"template": {"spec": {"containers": [{"name": "main", "image": "localhost/x:1"}]}}},
    }


@dataclass
class Fed:
    store: Store
    relisted: list[str]
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def served(stub: Stub, tmp_path: Path) -> AsyncIterator[Path]:
    """A kubeconfig of the stub."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "d", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "d",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        yield tmp_path / "kubeconfig"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def feeding(stub: Stub, tmp_path: Path) -> AsyncIterator[Fed]:
    """Not a fixture: kopf cancels every task that began after it, and pytest gives a test a task of its own."""
    async with served(stub, tmp_path) as kubeconfig:
        store, relisted, stop = Store(), list[str](), asyncio.Event()
        settings = OperatorSettings(exit_seconds=60)
        feed = Feed(store, Credentials(kubeconfig), settings, lambda t: relisted.append(t.resource.plural), lambda r: None)
        task = asyncio.create_task(feed.run(stop))
        try:
            yield Fed(store, relisted, stop, task)
        finally:
            stop.set()
            async with asyncio.timeout(60):
                await asyncio.wait([task])


async def watching(stub: Stub, fed: Fed) -> None:
    await fed.until(lambda: {plural for plural, query in stub.asked if "watch" in query} == {r.plural for r in WATCHED})


async def test_lists_and_watches_are_filtered_at_the_server(tmp_path: Path):
    stub = Stub()
    async with feeding(stub, tmp_path) as fed:
        await watching(stub, fed)
        for plural, query in stub.asked:
            assert query.get("labelSelector") == {
                "pods": "aios.dev/agent",
                "networkpolicies": "app.kubernetes.io/managed-by=aios-operator",
                "services": "app.kubernetes.io/managed-by=aios-operator",
            }.get(plural)
            assert query.get("fieldSelector") == {"resourceslices": "spec.driver=gpu.aios.dev"}.get(plural)
            if "watch" in query:
                assert "sendInitialEvents" not in query
            else:
                assert query["limit"] == "500"


async def test_foreign_pods_are_chosen_at_the_server_and_come_in_small_pages(tmp_path: Path):
    stub = Stub()
    async with served(stub, tmp_path) as kubeconfig:
        client = await connect(kubeconfig, user_agent="test")
        try:
            await foreign.count(client)
        finally:
            await client.close()
    ((plural, query),) = stub.asked
    assert plural == "pods"
    assert query == {
        "labelSelector": "!aios.dev/agent",
        "fieldSelector": "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed",
        "limit": "50",
    }


async def test_what_is_listed_and_what_changes_reaches_the_store(tmp_path: Path):
    stub = Stub()
    async with feeding(stub, tmp_path) as fed:
        stub.items["agents"] = [an_agent("a", 5)]
        await fed.until(lambda: ("ns", "a") in fed.store.agents.views)
        await fed.until(lambda: "agents" in fed.relisted)
        await watching(stub, fed)
        changed = an_agent("a", 101)
        changed["spec"]["operatingMode"] = "Stopped"
        stub.queue(resources.AGENTS).put_nowait({"type": "MODIFIED", "object": changed})
        await fed.until(lambda: not fed.store.agents.views["ns", "a"].running)
        stub.queue(resources.AGENTS).put_nowait({"type": "DELETED", "object": an_agent("a", 102)})
        await fed.until(lambda: not fed.store.agents.views)
        assert Key("ns", "a") in fed.store.dirty
        assert stub.writes == []


async def test_after_a_410_the_list_is_told_again(tmp_path: Path):
    stub = Stub()
    async with feeding(stub, tmp_path) as fed:
        stub.items["agents"] = [an_agent("a", 5)]
        await watching(stub, fed)
        await fed.until(lambda: "agents" in fed.relisted)
        fed.relisted.clear()
        expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        stub.items["agents"] = [an_agent("b", 201, uid="u2")]
        stub.queue(resources.AGENTS).put_nowait({"type": "ERROR", "object": expired})
        await fed.until(lambda: ("ns", "b") in fed.store.agents.views)
        await fed.until(lambda: fed.relisted)
        assert fed.relisted == ["agents"]
        assert ("ns", "a") in fed.store.agents.views  # what kopf does not tell, the audit finds


@pytest.mark.usefixtures("errors_expected")
async def test_an_error_that_kopf_can_not_take_ends_it(tmp_path: Path):
    stub = Stub()
    async with feeding(stub, tmp_path) as fed:
        await watching(stub, fed)
        broken = {"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd is gone"}
        stub.queue(resources.AGENTS).put_nowait({"type": "ERROR", "object": broken})
        async with asyncio.timeout(60):
            await asyncio.wait([fed.task])
        assert fed.task.exception() is not None


async def test_it_stops_when_told(tmp_path: Path):
    stub = Stub()
    async with feeding(stub, tmp_path) as fed:
        await watching(stub, fed)
        fed.stop.set()
        async with asyncio.timeout(60):
            await fed.task

"""The proxy in front of a small server: what passes is unchanged, what is befallen is as its rule says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from aios_bench.faults.api.proxy import Proxy, understand
from aios_bench.faults.api.rules import Asked, Draws, parse
from aios_kube import KubeClient, Selection, connect
from aios_kube.backoff import Backoff
from aios_kube.errors import Conflict, Gone, Invalid, TooManyRequests, Unreachable
from aios_kube.resources import PODS
from aios_kube.transport import TransportSettings

ONCE = TransportSettings(backoff=Backoff(0.001, 0.002), request_seconds=1, watch_silence_seconds=0.5, tries=1)
IN_NS = Selection("ns")


@pytest.mark.parametrize(
    ("method", "path", "query", "content", "asked"),
    [
        ("GET", "/api/v1/pods", {}, "", Asked("list", "pods")),
        ("GET", "/api/v1/pods", {"watch": "true"}, "", Asked("watch", "pods")),
        ("GET", "/api/v1/namespaces/ns/pods/a%2D1", {}, "", Asked("get", "pods", "ns", "a-1")),
        ("GET", "/api/v1/namespaces/ns", {}, "", Asked("get", "namespaces", "", "ns")),
        ("POST", "/api/v1/namespaces", {}, "", Asked("create", "namespaces")),
        ("PUT", "/api/v1/namespaces/ns/finalize", {}, "", Asked("update", "namespaces", "", "ns", "finalize")),
        ("PATCH", "/apis/aios.dev/v1alpha1/namespaces/ns/agents/a/status", {}, "x", Asked("patch", "agents", "ns", "a", "status")),
        ("PATCH", "/apis/g/v1/namespaces/ns/things/a", {}, "application/apply-patch+yaml", Asked("apply", "things", "ns", "a")),
        ("DELETE", "/apis/g/v1/things/a", {}, "", Asked("delete", "things", "", "a")),
        ("GET", "/apis/g/v1", {}, "", None),
        ("GET", "/version", {}, "", None),
    ],
)
def test_what_is_asked(method: str, path: str, query: dict[str, str], content: str, asked: Asked | None):
    assert understand(method, path, query, content) == asked


def pod(number: int) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": f"a-{number}", "uid": "u", "resourceVersion": str(number)}}


class Server:
    """Its pods have a version that grows with each read; a watch tells of five."""

    def __init__(self) -> None:
        self.reads = 0
        self.written: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            response = web.StreamResponse()
            await response.prepare(request)
            for number in range(1, 6):
                await response.write(json.dumps({"type": "ADDED", "object": pod(number)}).encode() + b"\n")
            return response
        if request.method != "GET":
            self.written.append(f"{request.method} {request.path} {await request.text()}")
            return web.json_response(pod(1))
        self.reads += 1
        return web.json_response({"metadata": {"resourceVersion": str(self.reads)}, "items": []})


@asynccontextmanager
async def behind(tmp_path: Path, *rules: dict[str, Any]) -> AsyncIterator[tuple[Server, KubeClient, Proxy]]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    draws = Draws(parse({"rules": [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]}))
    proxy = Proxy(kubeconfig(tmp_path / "server", f"http://127.0.0.1:{runner.addresses[0][1]}"), draws)
    async with proxy.serving():
        client = await connect(kubeconfig(tmp_path / "proxy", proxy.url), user_agent="test/1", settings=ONCE)
        yield server, client, proxy
        await client.close()
    await runner.cleanup()


def kubeconfig(path: Path, url: str) -> Path:
    named = {"clusters": [{"name": "c", "cluster": {"server": url}}], "users": [{"name": "u", "user": {"token": "secret"}}]}
    contexts = {"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "current-context": "c"}
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **named, **contexts}))
    return path


NOBODY = {"when": {"names": ["nobody"]}, "do": {"answer": 500}}


async def seen(client: KubeClient) -> list[int]:
    return [int(event.object["metadata"]["resourceVersion"]) async for event in client.watch(PODS, IN_NS, resource_version="0")]


async def test_what_nothing_befalls_passes_unchanged_and_is_kept(tmp_path: Path):
    async with behind(tmp_path, NOBODY) as (server, client, proxy):
        await client.patch(PODS, "a-1", {"spec": {}}, namespace="ns", field_manager="test")
        assert await seen(client) == [1, 2, 3, 4, 5]
    assert server.written == ['PATCH /api/v1/namespaces/ns/pods/a-1 {"spec": {}}']
    assert [(each.asked.verb, each.code, each.agent, each.writes) for each in proxy.passed] == [
        ("patch", 200, "test/1", True),
        ("watch", 200, "test/1", False),
    ]


@pytest.mark.parametrize(
    ("fault", "error", "carried_out"),
    [
        ({"answer": 409}, Conflict, False),
        ({"answer": 410}, Gone, False),
        ({"answer": 422}, Invalid, False),
        ({"answer": 429, "retryAfterSeconds": 3}, TooManyRequests, False),
        ({"answer": 500}, Unreachable, False),
        ({"answer": 503}, Unreachable, False),
        ({"reset": "before"}, Unreachable, False),
        ({"reset": "after"}, Unreachable, True),
    ],
)
async def test_a_write_that_is_refused_or_cut(tmp_path: Path, fault: dict[str, Any], error: type[Exception], carried_out: bool):
    async with behind(tmp_path, {"when": {"verbs": ["patch"]}, "do": fault, "nth": [1]}) as (server, client, _):
        with pytest.raises(error) as said:
            await client.patch(PODS, "a-1", {}, namespace="ns", field_manager="test")
        assert bool(server.written) is carried_out
        assert getattr(said.value, "retry_after_seconds", None) == fault.get("retryAfterSeconds")
        await client.patch(PODS, "a-1", {}, namespace="ns", field_manager="test")


async def test_a_stale_read_is_the_one_before(tmp_path: Path):
    async with behind(tmp_path, {"when": {"verbs": ["list"]}, "do": {"stale": True}, "nth": [1, 3]}) as (_, client, _):
        versions = [(await client.list(PODS, IN_NS)).resource_version for _ in range(4)]
    assert versions == ["1", "2", "2", "3"], "before the first there is none"


@pytest.mark.parametrize(
    ("fault", "arrives"),
    [
        ({"drop": True}, [1, 3, 4, 5]),
        ({"duplicate": True}, [1, 2, 2, 3, 4, 5]),
        ({"hold": 2}, [1, 3, 4, 2, 5]),
        ({"hold": 50}, [1, 3, 4, 5, 2]),
        ({"delaySeconds": 0.05}, [1, 2, 3, 4, 5]),
    ],
)
async def test_events_that_are_dropped_doubled_or_late(tmp_path: Path, fault: dict[str, Any], arrives: list[int]):
    rule = {"when": {"events": ["ADDED"], "kinds": ["pods"], "names": ["a-2"]}, "do": fault}
    async with behind(tmp_path, rule) as (_, client, proxy):
        assert await seen(client) == arrives
    assert proxy.draws.counts == {"r0": 1}


async def test_a_watch_that_stalls_says_nothing_and_does_not_end(tmp_path: Path):
    async with behind(tmp_path, {"when": {"verbs": ["watch"]}, "do": {"stall": True}}) as (_, client, _):
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable):
            await seen(client)
        assert asyncio.get_running_loop().time() - began >= ONCE.watch_silence_seconds


async def test_a_request_that_stalls_is_not_heard_and_given_up_by_who_asked(tmp_path: Path):
    async with behind(tmp_path, {"when": {"verbs": ["get"]}, "do": {"stall": True}}) as (server, client, proxy):
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable):
            await client.get(PODS, "a-1", "ns")
        assert asyncio.get_running_loop().time() - began >= ONCE.request_seconds
        assert server.reads == 0
        assert proxy.draws.counts == {"r0": 1}

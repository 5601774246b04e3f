"""Over real HTTP: what may pass is tried again, what the server says becomes an error of ours, streams end as they should."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from aios_kube import KubeClient, Selection, connect
from aios_kube.backoff import Backoff
from aios_kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    NotHeld,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from aios_kube.resources import AGENTS, NODES, PODS
from aios_kube.transport import TransportSettings

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
QUICK = TransportSettings(backoff=Backoff(0.001, 0.002), request_seconds=0.3, watch_silence_seconds=0.3, tries=3)


class Server:
    """Answers from a list, in turn; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer | tuple[int, Any]] = []
        self.asked: list[web.Request] = []
        self.told: list[tuple[str, int]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, tuple):
            code, body = answer
            return web.json_response(body, status=code, headers={"Retry-After": "1"} if code == 429 and body.get("wait") else {})
        return await answer(request)


def refusal(code: int, reason: str, **details: Any) -> tuple[int, Any]:
    return code, {"kind": "Status", "code": code, "reason": reason, "message": f"{reason}!", "details": details}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Server, KubeClient]]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
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
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    client = await connect(
        path, user_agent="test/1", settings=QUICK, observe=lambda verb, path, code, seconds: server.told.append((verb, code))
    )
    yield server, client
    await client.close()
    await runner.cleanup()


async def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def test_a_request_says_who_asks(server: tuple[Server, KubeClient]):
    api, client = server
    api.answers = [(200, {"metadata": {"name": "n1"}})]
    await client.get(NODES, "n1")
    assert (api.asked[0].headers["Authorization"], api.asked[0].headers["User-Agent"]) == ("Bearer secret", "test/1")


@pytest.mark.parametrize(
    "failure", [refusal(500, "InternalError"), refusal(503, "ServiceUnavailable"), refusal(429, "TooManyRequests"), cut]
)
async def test_what_may_pass_is_tried_again(server: tuple[Server, KubeClient], failure: Any):
    api, client = server
    api.answers = [failure, (200, {"metadata": {"name": "n1"}})]
    assert (await client.get(NODES, "n1"))["metadata"]["name"] == "n1"
    assert len(api.asked) == 2
    assert api.told[-1] == ("get", 200)


async def test_the_server_may_say_how_long_to_wait(server: tuple[Server, KubeClient], monkeypatch: pytest.MonkeyPatch):
    api, client = server
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("aios_kube.transport.asyncio.sleep", sleep)
    api.answers = [(429, {"wait": True}), refusal(429, "TooManyRequests", retryAfterSeconds=2), (200, {"metadata": {}})]
    await client.get(NODES, "n1")
    assert 1 <= waits[0] <= 1.25
    assert 2 <= waits[1] <= 2.5


class Right:
    """To write; ends with the look after so many."""

    def __init__(self, looks: int = 1_000_000) -> None:
        self.looks = looks

    def __call__(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise NotHeld("gone")


async def test_who_may_write_no_more_sends_nothing_not_even_a_second_try(server: tuple[Server, KubeClient]):
    """The Lease runs out between two tries, as in a process that was stopped meanwhile."""
    its, client = server
    right = Right()

    async def runs_out(_: web.Request) -> web.StreamResponse:
        right.looks = 0
        return web.json_response({}, status=503)

    its.answers = [runs_out, (200, {"metadata": {}})]
    with pytest.raises(NotHeld):
        await client.writing_while(right).patch(NODES, "n", {"spec": {}}, field_manager="test")
    assert [request.method for request in its.asked] == ["PATCH"]
    assert await client.writing_while(right).get(NODES, "n"), "reading does no harm"


@pytest.mark.parametrize("looks", [0, 1])
async def test_a_right_that_ends_before_the_first_byte_went_ends_the_request(server: tuple[Server, KubeClient], looks: int):
    """The body follows the head a turn of the loop later, and both go together."""
    its, client = server
    its.answers = [(200, {"metadata": {}})]
    with pytest.raises(NotHeld):
        await client.writing_while(Right(looks)).patch(NODES, "n", {"spec": {}}, field_manager="test")
    assert its.asked == []
    assert await client.get(NODES, "n"), "nothing of it is left on the connection"


async def test_a_right_that_ends_while_a_connection_is_waited_for_ends_the_request(server: tuple[Server, KubeClient], tmp_path: Path):
    its, _ = server
    right, answered = Right(), asyncio.Event()

    async def late(_: web.Request) -> web.StreamResponse:
        await answered.wait()
        return web.json_response({"metadata": {}})

    its.answers = [late]
    client = await connect(tmp_path / "kubeconfig", user_agent="test/1", settings=replace(QUICK, connections=1, request_seconds=10))
    reads = asyncio.create_task(client.get(NODES, "n"))
    await asyncio.sleep(0.05)
    writes = asyncio.create_task(client.writing_while(right).patch(NODES, "n", {"spec": {}}, field_manager="test"))
    await asyncio.sleep(0.05)
    right.looks = 0
    answered.set()
    await reads
    with pytest.raises(NotHeld):
        await writes
    assert [request.method for request in its.asked] == ["GET"]
    await client.close()


async def test_in_the_end_it_gives_up(server: tuple[Server, KubeClient]):
    api, client = server
    api.answers = [refusal(429, "TooManyRequests")] * 3
    with pytest.raises(TooManyRequests):
        await client.get(NODES, "n1")


async def test_a_write_that_would_happen_twice_is_not_repeated(server: tuple[Server, KubeClient]):
    api, client = server
    api.answers = [cut]
    with pytest.raises(Unreachable):
        await client.create(PODS, {"metadata": {"namespace": "ns", "generateName": "x-"}}, field_manager="m")
    api.answers = [cut]
    with pytest.raises(Unreachable):
        await client.patch(PODS, "x", [{"op": "add", "path": "/spec/tolerations/-", "value": {}}], namespace="ns", field_manager="m")
    assert len(api.asked) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(404, "NotFound"), NotFound),
        (refusal(403, "Forbidden"), Forbidden),
        (refusal(409, "Conflict"), Conflict),
        (refusal(409, "AlreadyExists"), AlreadyExists),
        (refusal(410, "Expired"), Gone),
        (refusal(422, "Invalid", causes=[{"field": "spec.gpu", "message": "must be"}]), Invalid),
    ],
)
async def test_what_will_not_pass_is_told_at_once(server: tuple[Server, KubeClient], answer: Any, error: type[Exception]):
    api, client = server
    api.answers = [answer]
    with pytest.raises(error) as raised:
        await client.create(PODS, {"metadata": {"namespace": "ns", "name": "x"}}, field_manager="m")
    assert type(raised.value) is error
    assert len(api.asked) == 1
    if isinstance(raised.value, Invalid):
        assert raised.value.causes[0].field == "spec.gpu"


async def test_credentials_are_read_again_once(server: tuple[Server, KubeClient]):
    api, client = server
    api.answers = [refusal(401, "Unauthorized"), (200, {"metadata": {}})]
    await client.get(NODES, "n1")
    api.answers = [refusal(401, "Unauthorized")] * 2
    with pytest.raises(Unauthorized):
        await client.get(NODES, "n1")


@pytest.mark.parametrize(
    ("patch", "answer"),
    [
        ({"data": {}}, refusal(422, "Invalid", causes=[{"field": "metadata.uid", "message": "field is immutable"}])),
        ([{"op": "replace", "path": "/spec", "value": {}}], refusal(422, "Invalid")),
    ],
)
async def test_another_uid_is_a_conflict(server: tuple[Server, KubeClient], patch: Any, answer: Any):
    api, client = server
    api.answers = [answer]
    with pytest.raises(Conflict):
        await client.patch(PODS, "x", patch, namespace="ns", field_manager="m", uid="u1")


async def test_lists_come_in_pages_with_kind_and_selectors(server: tuple[Server, KubeClient]):
    api, client = server
    first = {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    api.answers = [(200, first), (200, {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]})]
    page = await client.list(AGENTS, Selection("ns", labels="a=b", fields="metadata.name=x"))
    assert [(item["kind"], item["metadata"]["name"]) for item in page.items] == [("Agent", "a"), ("Agent", "b")]
    assert dict(api.asked[1].query) == {"labelSelector": "a=b", "fieldSelector": "metadata.name=x", "limit": "500", "continue": "more"}


async def test_a_list_whose_pages_expired_starts_over(server: tuple[Server, KubeClient]):
    api, client = server
    first = {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    last = {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "b"}}]}
    api.answers = [(200, first), refusal(410, "Expired"), (200, last)]
    page = await client.list(AGENTS)
    assert ([item["metadata"]["name"] for item in page.items], page.resource_version) == (["b"], "9")


def streaming(*events: Any, then: str = "end") -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(json.dumps(event).encode() + b"\n")
        if then == "silence":
            await asyncio.sleep(5)
        return response

    return answer


def event(kind: str, version: str) -> Any:
    return {"type": kind, "object": {"metadata": {"name": "x", "resourceVersion": version}}}


async def watched(client: KubeClient, **named: Any) -> list[tuple[str, str]]:
    return [(e.type, e.object["metadata"]["resourceVersion"]) async for e in client.watch(PODS, resource_version="5", **named)]


async def test_a_watch_yields_until_the_server_ends_it(server: tuple[Server, KubeClient]):
    api, client = server
    api.answers = [streaming(event("ADDED", "6"), event("BOOKMARK", "9"))]
    assert await watched(client) == [("ADDED", "6"), ("BOOKMARK", "9")]
    assert api.asked[0].query["resourceVersion"] == "5"
    assert 150 <= int(api.asked[0].query["timeoutSeconds"]) <= 450


async def test_a_watch_may_be_asked_to_be_short_and_is_taken_for_dead_soon_after_its_end(server: tuple[Server, KubeClient]):
    api, client = server
    api.answers = [streaming(event("ADDED", "6"))]
    assert await watched(client, seconds=14.2) == [("ADDED", "6")]
    assert api.asked[0].query["timeoutSeconds"] == "15"
    patient = replace(client._transport.settings, watch_silence_seconds=100, connect_seconds=0.2)
    client._transport.settings = patient
    api.answers = [streaming(event("ADDED", "6"), then="silence")]
    with pytest.raises(Unreachable):
        await watched(client, seconds=0.1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(410, "Expired"), Gone),
        (streaming({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}), Gone),
        (streaming(event("ADDED", "6"), then="silence"), Unreachable),
        (streaming("nonsense"), Unreachable),
    ],
)
async def test_a_watch_that_can_not_go_on_says_why(server: tuple[Server, KubeClient], answer: Any, error: type[Exception]):
    api, client = server
    api.answers = [answer]
    with pytest.raises(error):
        await watched(client)


async def test_credentials_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(Unreachable, match="nowhere"):
        await connect(tmp_path / "nowhere", user_agent="test")
    with pytest.raises(Unreachable, match="service account"):
        await connect(None, user_agent="test")


async def test_what_a_burst_needed_is_given_back_though_requests_go_on(server: tuple[Server, KubeClient], tmp_path: Path):
    at_once, together, used = 20, asyncio.Event(), list[int]()
    api = server[0]

    async def noted(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        used.append(request.transport.get_extra_info("peername")[1])
        if len(used) == at_once:
            together.set()
        await together.wait()
        return web.json_response({"metadata": {"name": "n1"}})

    patient = replace(QUICK, request_seconds=30, idle_seconds=0.1)
    client = await connect(tmp_path / "kubeconfig", user_agent="test/2", settings=patient)
    try:
        api.answers = [noted] * (4 * at_once)
        await asyncio.gather(*(client.get(NODES, "n1") for _ in range(at_once)))
        assert len(set(used)) == at_once
        for _ in range(3 * at_once):
            await client.get(NODES, "n1")
            await asyncio.sleep(0.02)
        assert len(set(used[-at_once:])) < at_once / 2
    finally:
        await client.close()

"""A proxy between our programs and an API server that injects the faults of a file of rules.

Plain HTTP on a loopback port for who asks, TLS with the credentials of a kubeconfig for the server. Everything that passed is kept, so that
a test can see what was written, when, and by whom.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import yaml
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration
from yarl import URL

from aios_bench.faults.api.rules import Asked, Draws, Fault, Verb, status
from aios_kube.transport import Credentials

_NOT_PASSED = {"host", "connection", "transfer-encoding", "content-length", "accept-encoding", "content-encoding", "keep-alive"}
_VERBS: dict[str, Verb] = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
LONGEST_LINE_BYTES = 1 << 21
"""Of a watch: one object of etcd's limit, and what JSON adds."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that has ended, or a watch that has begun."""

    at: float
    """By the monotonic clock, when the proxy had it whole."""
    asked: Asked
    code: int
    """0: no answer."""
    agent: str
    """The User-Agent."""

    @property
    def writes(self) -> bool:
        return self.asked.verb not in ("get", "list", "watch")


def understand(method: str, path: str, query: Any, content_type: str) -> Asked | None:
    """What is asked of which object; None for what is no resource, such as discovery."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        rest = parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        rest = parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    kind, name, subresource = (*rest, "", "")[:3]
    if method == "GET":
        verb: Verb = "watch" if query.get("watch") in ("true", "1") else "get" if name else "list"
    else:
        verb = "apply" if "apply-patch" in content_type else _VERBS[method]
    return Asked(verb, kind, namespace, name, subresource)


@dataclass
class Proxy:
    """`serving` runs it. `url` is where it listens then."""

    kubeconfig: Path
    draws: Draws
    url: str = ""
    passed: list[Passed] = field(default_factory=list)
    _answers: dict[str, tuple[int, bytes, str]] = field(default_factory=dict)
    """What was answered last to each get and list, for stale reads."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = Configuration()
        await Credentials(self.kubeconfig).load(server)
        self._upstream = server.host
        context = ssl.create_default_context(cafile=server.ssl_ca_cert)
        if server.cert_file:
            context.load_cert_chain(server.cert_file, server.key_file)
        token = server.api_key.get("BearerToken")
        self._credentials = {"Authorization": token} if token else {}
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=LONGEST_LINE_BYTES) as self._session:
            app = web.Application(client_max_size=1 << 24)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                yield
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = understand(request.method, request.rel_url.raw_path, request.query, request.content_type)
        fault = self.draws.draw(asked) if asked is not None else None
        agent = request.headers.get("User-Agent", "")
        if fault is not None and fault.delay_seconds is not None:
            await asyncio.sleep(fault.delay_seconds)
        if fault is not None and fault.reset == "before":
            return self._cut(request)
        if fault is not None and fault.stall and asked is not None and asked.verb != "watch":
            await asyncio.Event().wait()  # until who asked gives up
        if fault is not None and fault.answer is not None:
            self._keep(asked, fault.answer, agent)
            return self._refuse(fault)
        same = f"{request.raw_path} {request.headers.get('Accept')}"
        if fault is not None and fault.stale and (known := self._answers.get(same)) is not None:
            return web.Response(status=known[0], body=known[1], headers={"Content-Type": known[2]})
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_PASSED} | self._credentials
        try:
            async with self._session.request(
                request.method,
                URL(self._upstream + request.raw_path, encoded=True),
                headers={**headers, "Accept-Encoding": "identity"},
                data=body or None,
            ) as answer:
                self._keep(asked, answer.status, agent)
                if asked is not None and asked.verb == "watch" and answer.status == 200:
                    return await self._watch(request, answer, asked, fault)
                raw = await answer.read()
        except aiohttp.ClientError:
            return self._cut(request)
        if fault is not None and fault.reset == "after":
            return self._cut(request)
        content = answer.headers.get("Content-Type", "application/json")
        if asked is not None and asked.verb in ("get", "list"):
            self._answers[same] = (answer.status, raw, content)
        said = {"Content-Type": content}
        if "Retry-After" in answer.headers:
            said["Retry-After"] = answer.headers["Retry-After"]
        return web.Response(status=answer.status, body=raw, headers=said)

    def _keep(self, asked: Asked | None, code: int, agent: str) -> None:
        if asked is not None:
            self.passed.append(Passed(time.monotonic(), asked, code, agent))

    @staticmethod
    def _cut(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)

    @staticmethod
    def _refuse(fault: Fault) -> web.Response:
        assert fault.answer is not None
        headers = {"Retry-After": str(fault.retry_after_seconds)} if fault.retry_after_seconds else {}
        return web.json_response(status(fault), status=fault.answer, headers=headers)

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse, asked: Asked, fault: Fault | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": answer.headers.get("Content-Type", "application/json")})
        await response.prepare(request)
        held: list[list[Any]] = []
        with suppress(ConnectionError, aiohttp.ClientError):
            async for line in answer.content:
                if fault is not None and fault.stall:
                    continue  # the server's end of it is read, so that only this side is silent
                for said in await self._befallen(line, asked, held):
                    await response.write(said)
            for _, late in held:
                await response.write(late)
            if fault is not None and fault.stall:
                await asyncio.Event().wait()
            await response.write_eof()
        return response

    async def _befallen(self, line: bytes, asked: Asked, held: list[list[Any]]) -> list[bytes]:
        """What arrives in the place of one event."""
        event = json.loads(line)
        metadata = event["object"].get("metadata") or {}
        about = Asked("watch", asked.kind, metadata.get("namespace", ""), metadata.get("name", ""), event=event["type"])
        fault = self.draws.draw(about)
        for each in held:
            each[0] -= 1
        due = [late for left, late in held if left <= 0]
        held[:] = [each for each in held if each[0] > 0]
        if fault is None:
            return [line, *due]
        if fault.delay_seconds is not None:
            await asyncio.sleep(fault.delay_seconds)
        if fault.hold is not None:
            held.append([fault.hold, line])
        if fault.drop or fault.hold is not None:
            return due
        return [line, line, *due] if fault.duplicate else [line, *due]


@contextmanager
def proxied(kubeconfig: Path, draws: Draws, write_to: Path) -> Iterator[Proxy]:
    """A proxy in a thread of its own; `write_to` is a kubeconfig that leads to it."""
    proxy, started, loop = Proxy(kubeconfig, draws), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    failed: list[BaseException] = []

    async def serve() -> None:
        try:
            async with proxy.serving():
                started.set()
                await stop.wait()
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            started.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="fault-proxy", daemon=True)
    thread.start()
    started.wait()
    if failed:
        raise failed[0]
    named = {"clusters": [{"name": "c", "cluster": {"server": proxy.url}}], "users": [{"name": "u", "user": {}}]}
    context = {"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "current-context": "c"}
    write_to.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **named, **context}))
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()

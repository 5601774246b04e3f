"""HTTP to one API server: credentials, time limits, retries, and errors of ours. Knows nothing of objects."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from aios_kube.backoff import Backoff
from aios_kube.confirmed import CONFIRM, ConfirmedRequest
from aios_kube.errors import TooManyRequests, Unauthorized, Unreachable, from_status

Watcher = Callable[[str, str, int, float], None]
"""Told of every answer: verb, path, HTTP code (0: no answer), seconds."""


@dataclass(frozen=True)
class TransportSettings:
    """How requests are made."""

    connect_seconds: float = 5.0
    """To reach the server. A server that takes longer to accept a connection is not there."""
    request_seconds: float = 30.0
    """One try of a request, whole. The server's own limit is 60 s; a caller that waits longer than 30 s is better off trying again."""
    watch_silence_seconds: float = 100.0
    """A watch that says nothing for so long is taken for dead: the server sends a bookmark every minute."""
    watch_seconds: int = 300
    """The server ends a watch after this, give or take a half: connections spread over replicas again, and a stuck one ends."""
    tries: int = 6
    """Of one request, when what failed may pass: with the waits below about ten seconds, which a restart of the API server takes."""
    backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=0.2, longest_seconds=5.0))
    connections: int = 100
    """Open connections at once. Watches hold one each."""
    idle_seconds: float = 1.0
    """A connection that served nobody for so long is closed. The pool hands them out in turn: with the library's 15 s, all that a burst
    needed would stay for as long as there is a request now and then for each."""


@dataclass(frozen=True)
class Credentials:
    """Where the server is and who we are: a kubeconfig file, or the service account of our pod when `kubeconfig` is None."""

    kubeconfig: Path | None = None
    context: str | None = None

    async def load(self, into: Configuration) -> None:
        """`into` names the server and carries fresh credentials. Service-account tokens are read again every minute by the client."""
        try:
            if self.kubeconfig is None:
                load_incluster_config(client_configuration=into)  # type: ignore[no-untyped-call]
            else:
                await load_kube_config(str(self.kubeconfig), self.context, client_configuration=into, persist_config=False)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            source = "the pod's service account" if self.kubeconfig is None else str(self.kubeconfig)
            raise Unreachable(f"credentials must be readable from {source}: {error}") from error


@dataclass(frozen=True)
class Speaker:
    """Somebody in whose name an administrator may speak (impersonation)."""

    user: str
    group: str
    extra: Mapping[str, str] = field(default_factory=dict)
    """What a token of this user would say beside its name, such as the node of its pod."""

    @property
    def headers(self) -> dict[str, str]:
        said = {f"Impersonate-Extra-{quote(key, safe='')}": value for key, value in self.extra.items()}
        return {"Impersonate-User": self.user, "Impersonate-Group": self.group, **said}


class _Rest(RESTClientObject):
    """The client's connections, given back when they are idle."""

    def __init__(self, configuration: Configuration, idle_seconds: float) -> None:
        super().__init__(configuration)
        self._idle_seconds = idle_seconds

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, keepalive_timeout=self._idle_seconds)


class Transport:
    """One pool of connections. Made by `Transport.open`, given back by `close`."""

    def __init__(self, api: ApiClient, credentials: Credentials, settings: TransportSettings, observe: Watcher | None = None) -> None:
        self._speaker: Speaker | None = None
        self._confirm: Callable[[], None] | None = None
        self._api = api
        self._credentials = credentials
        self.settings = settings
        self.chance: Callable[[], float] = random.random
        self._observe = observe

    @classmethod
    async def open(
        cls, credentials: Credentials, settings: TransportSettings, user_agent: str, observe: Watcher | None = None
    ) -> Transport:
        configuration = Configuration()
        configuration.connection_pool_maxsize = settings.connections
        configuration.client_session_kwargs = {"request_class": ConfirmedRequest}
        await credentials.load(configuration)
        api = ApiClient(configuration)
        api.rest_client = _Rest(configuration, settings.idle_seconds)
        api.user_agent = user_agent
        return cls(api, credentials, settings, observe)

    def speaking_for(self, speaker: Speaker) -> Transport:
        """The same connections, in the name of somebody else. It is not closed by itself."""
        other = self._another()
        other._speaker = speaker
        return other

    def writing_while(self, confirm: Callable[[], None]) -> Transport:
        """The same connections; `confirm` is called when the first byte of a request that writes is about to go, for each try of it; what
        it raises ends the call."""
        other = self._another()
        other._confirm = confirm
        return other

    def _another(self) -> Transport:
        other = Transport(self._api, self._credentials, self.settings, self._observe)
        other._speaker, other._confirm = self._speaker, self._confirm
        return other

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    async def call(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        repeatable: bool = True,
    ) -> Any:
        """The answer's JSON. What may pass is tried again; what isn't `repeatable` only when the server surely did not carry it out."""
        renewed = False
        for attempt in range(1, self.settings.tries + 1):
            try:
                return await self._once(method, path, verb, query, body, content_type, accept)
            except Unauthorized:
                if renewed:
                    raise
                renewed = True
                await self._credentials.load(self._api.configuration)
            except (TooManyRequests, Unreachable) as error:
                if attempt == self.settings.tries or (isinstance(error, Unreachable) and not repeatable):
                    raise
                await asyncio.sleep(self.settings.backoff.wait(attempt, self.chance, error.retry_after_seconds))
        raise AssertionError("the last try returns or raises")

    async def _once(
        self, method: str, path: str, verb: str, query: dict[str, str] | None, body: Any, content_type: str, accept: str
    ) -> Any:
        limit = aiohttp.ClientTimeout(total=self.settings.request_seconds, connect=self.settings.connect_seconds)
        began, code = time.monotonic(), 0
        try:
            response = await self._send(method, path, query, body, content_type, accept, limit)
            async with response:
                code = response.status
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from error
        finally:
            if self._observe:
                self._observe(verb, path, code, time.monotonic() - began)
        if code >= 400:
            raise from_status(code, _status(raw), response.headers.get("Retry-After"))
        return json.loads(raw)

    async def stream(self, path: str, query: dict[str, str], accept: str, seconds: float | None = None) -> aiohttp.ClientResponse:
        """An open answer of 200, to be read line by line and closed by the caller; `seconds`: the server will end it after so long."""
        silence = self.settings.watch_silence_seconds
        if seconds is not None:
            silence = min(silence, seconds + self.settings.connect_seconds)
        limit = aiohttp.ClientTimeout(total=None, connect=self.settings.connect_seconds, sock_read=silence)
        began, code = time.monotonic(), 0
        try:
            response = await self._send("GET", path, query, None, "application/json", accept, limit)
            code = response.status
            if code >= 400:
                async with response:
                    raise from_status(code, _status(await response.read()), response.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"WATCH {path}: {type(error).__name__}: {error}") from error
        finally:
            if self._observe:
                self._observe("watch", path, code, time.monotonic() - began)
        return response

    async def _send(
        self, method: str, path: str, query: dict[str, str] | None, body: Any, content_type: str, accept: str, limit: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": self._api.user_agent}
        if self._speaker is not None:
            headers |= self._speaker.headers
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._api.configuration.host + path + ("?" + urlencode(query) if query else "")
        asked = CONFIRM.set(self._confirm if method != "GET" else None)
        try:
            answer = await self._api.call_api(method, url, headers, body, _request_timeout=limit)
        finally:
            CONFIRM.reset(asked)
        response: aiohttp.ClientResponse = answer.response
        return response


def _status(raw: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        status = json.loads(raw)
        if isinstance(status, dict) and status.get("kind") == "Status":
            return status
    return {"message": raw[:512].decode("utf-8", "replace").strip()}

"""Asks the agent's endpoint, over its Unix socket or its loopback address."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from aios_sdk.agent import Agent
from aios_sdk.errors import NotAnAgentError, RefusedError, UnexpectedAnswerError, UnreachableError

TIMEOUT_SECONDS: Final = 30.0
"""A gateway that restarts leaves requests waiting for a second or two; they are answered, not lost."""


def whoami(environment: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS) -> Agent:
    """This agent, as the platform sees it now. Raises an AiosError."""
    endpoint = _Endpoint.of(environment)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=endpoint.socket), **endpoint.options(timeout_seconds)) as client:
            return _read(client.get("/v1/agent"))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise endpoint.unreachable(error) from error


async def whoami_async(environment: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS) -> Agent:
    """As `whoami`, without blocking the event loop."""
    endpoint = _Endpoint.of(environment)
    try:
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=endpoint.socket), **endpoint.options(timeout_seconds)
        ) as client:
            return _read(await client.get("/v1/agent"))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise endpoint.unreachable(error) from error


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Where the agent's endpoint is: the socket when there is one, else the URL."""

    socket: str | None
    url: str
    variable: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "_Endpoint":
        if path := environment.get("AIOS_SOCKET"):
            return cls(path, "http://aios", "AIOS_SOCKET")
        if url := environment.get("AIOS_URL"):
            return cls(None, url, "AIOS_URL")
        raise NotAnAgentError("neither AIOS_SOCKET nor AIOS_URL is set: this code must run in a container of an Agent")

    def options(self, timeout_seconds: float) -> dict[str, Any]:
        """A given transport also keeps httpx from the proxy variables: the way to the endpoint never leads through a proxy."""
        return {"base_url": self.url, "timeout": timeout_seconds, "trust_env": False}

    def unreachable(self, error: Exception) -> UnreachableError:
        where = self.socket or self.url
        return UnreachableError(f"nothing answers at {where} ({self.variable}): {str(error) or type(error).__name__}")


def _read(response: httpx.Response) -> Agent:
    try:
        body = response.json()
    except ValueError:
        raise UnexpectedAnswerError(f"the endpoint answered {response.status_code} with something that is not JSON") from None
    if response.status_code == httpx.codes.OK:
        return Agent.from_answer(body)
    if not isinstance(body, dict) or "reason" not in body:
        raise UnexpectedAnswerError(f"the endpoint answered {response.status_code} without a reason")
    raise RefusedError(response.status_code, str(body["reason"]), str(body.get("detail", "")), str(body.get("nextStep", "")))

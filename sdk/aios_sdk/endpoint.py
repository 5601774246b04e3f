"""Where the agent's endpoint is, and what its answers mean: common to all clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from aios_sdk.errors import NotAnAgentError, RefusedError, UnexpectedAnswerError, UnreachableError

TIMEOUT_SECONDS: Final = 30.0
"""A gateway that restarts leaves requests waiting for a second or two; they are answered, not lost."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the agent's endpoint is: the socket when there is one, else the URL."""

    socket: str | None
    url: str
    variable: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Endpoint":
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

    def client(self, timeout_seconds: float) -> httpx.Client:
        return httpx.Client(transport=httpx.HTTPTransport(uds=self.socket), **self.options(timeout_seconds))

    def async_client(self, timeout_seconds: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=self.socket), **self.options(timeout_seconds))


def answer_of(response: httpx.Response) -> Any:
    """What was answered. Raises RefusedError, with the endpoint's own reason, and UnexpectedAnswerError."""
    try:
        body = response.json()
    except ValueError:
        raise UnexpectedAnswerError(f"the endpoint answered {response.status_code} with something that is not JSON") from None
    if response.is_success:
        return body
    if not isinstance(body, dict) or "reason" not in body:
        raise UnexpectedAnswerError(f"the endpoint answered {response.status_code} without a reason")
    raise RefusedError(response.status_code, str(body["reason"]), str(body.get("detail", "")), str(body.get("nextStep", "")))

"""Asks the agent's endpoint who this is, over its Unix socket or its loopback address."""

import os
from collections.abc import Mapping

import httpx

from aios_sdk.agent import Agent
from aios_sdk.endpoint import TIMEOUT_SECONDS, Endpoint, answer_of


def whoami(environment: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS) -> Agent:
    """This agent, as the platform sees it now. Raises an AiosError."""
    endpoint = Endpoint.of(environment)
    try:
        with endpoint.client(timeout_seconds) as client:
            return Agent.from_answer(answer_of(client.get("/v1/agent")))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise endpoint.unreachable(error) from error


async def whoami_async(environment: Mapping[str, str] = os.environ, timeout_seconds: float = TIMEOUT_SECONDS) -> Agent:
    """As `whoami`, without blocking the event loop."""
    endpoint = Endpoint.of(environment)
    try:
        async with endpoint.async_client(timeout_seconds) as client:
            return Agent.from_answer(answer_of(await client.get("/v1/agent")))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise endpoint.unreachable(error) from error

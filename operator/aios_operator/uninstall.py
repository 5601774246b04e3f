"""Removal of everything that needs us to go away, while we are still there to do it: the chart's pre-delete hook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from aios_kube import ClusterClient, Object, resources
from aios_kube.errors import Conflict, NotFound

POLL_SECONDS = 1.0
SAID_EVERY_SECONDS = 10.0


async def remove_agents(client: ClusterClient, limit_seconds: float, say: Callable[[str], None]) -> bool:
    """True when no Agent is left. Every Agent is deleted; the running operator releases what they hold. False after the limit."""
    until = time.monotonic() + limit_seconds
    said = float("-inf")
    while True:
        try:
            agents = (await client.list(resources.AGENTS, metadata_only=True)).items
        except NotFound:
            say("there are no Agents: their definition is not installed")
            return True
        if not agents:
            say("no Agent is left")
            return True
        now = time.monotonic()
        if now >= until:
            say(f"after {limit_seconds:.0f} s {len(agents)} Agents are left: {_some(agents)}")
            say("their operator must run to release them; see its log, and kubectl describe agent NAME -n NAMESPACE")
            return False
        for agent in agents:
            if not agent["metadata"].get("deletionTimestamp"):
                await _delete(client, agent["metadata"])
        if now - said >= SAID_EVERY_SECONDS:
            said = now
            say(f"waiting for {len(agents)} Agents to be gone: {_some(agents)}")
        await asyncio.sleep(min(POLL_SECONDS, max(until - now, 0.01)))


async def _delete(client: ClusterClient, metadata: Object) -> None:
    with suppress(NotFound, Conflict):  # gone, or another one by now: the next list says
        await client.delete(resources.AGENTS, metadata["name"], metadata["namespace"], uid=metadata["uid"])


def _some(agents: list[Object]) -> str:
    named = [f"{a['metadata']['namespace']}/{a['metadata']['name']}" for a in agents[:5]]
    return ", ".join(named) + (f" and {len(agents) - 5} more" if len(agents) > 5 else "")

"""`aiosctl explain AGENT`: its life in steps, why it is where it is, and what comes next."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from aios_cli import cluster
from aios_cli.cluster import Target

if TYPE_CHECKING:
    from aios_cli.story import Evidence
    from aios_kube.protocol import ClusterClient, Object


@click.command()
@click.argument("agent")
@cluster.connection_options
@click.option("--json", "as_json", is_flag=True, help="Print the story as JSON.")
def explain(agent: str, kubeconfig: str | None, context: str | None, namespace: str | None, as_json: bool) -> None:
    """The life of AGENT: each step with its time, where it stands and why, what comes next.

    \b
    Exit code:
      0  it is as its spec says: ready, completed, stopped
      1  it needs you: failed, refused, in back-off, a container that can't start; or it could not be read
      3  it is on its way, or waits and goes on by itself
    """
    to = cluster.target(kubeconfig, context, namespace)
    evidence = cluster.run(_evidence(to, agent), to)
    from rich.console import Console

    from aios_cli import telling
    from aios_cli.story import story

    told = story(evidence, datetime.now(UTC))
    if as_json:
        click.echo(json.dumps(telling.as_json(told), indent=2))
    else:
        console = Console(highlight=False)
        console.print(telling.tell(told, console.width))
    sys.exit(told.standing.state.exit_code)


async def _evidence(to: Target, name: str) -> Evidence:
    async with cluster.connected(to) as client:
        return await gather(client, to.context, to.namespace, name)


async def gather(client: ClusterClient, context: str, namespace: str, name: str) -> Evidence:
    """All that the API has of the Agent. `click.ClickException` when there is none of that name."""
    from aios_api import names
    from aios_cli.story import Evidence
    from aios_cli.top import look
    from aios_kube.errors import Forbidden, NotFound
    from aios_kube.protocol import Selection
    from aios_kube.resources import AGENT_RUNTIMES, AGENTS, EVENTS, PODS, RESOURCE_CLAIMS

    try:
        agent = await client.get(AGENTS, name, namespace)
    except NotFound as missing:
        raise click.ClickException(
            f"there is no Agent {name} in namespace {namespace}; `aiosctl top -A --once` lists those of all namespaces"
        ) from missing

    async def order() -> Object | None:
        try:
            return await client.get(AGENT_RUNTIMES, name, namespace)
        except NotFound:
            return None

    ours = Selection(namespace=namespace, labels=f"{names.LABEL_AGENT}={name}")
    runtime, claims, pods, events = await asyncio.gather(
        order(), client.list(RESOURCE_CLAIMS, ours), client.list(PODS, ours), client.list(EVENTS, Selection(namespace=namespace))
    )
    try:
        picture = await look(client, context, None)
    except Forbidden:  # who sees only a namespace of their own is told no more than that
        picture = None
    return Evidence(agent, runtime, claims.items, pods.items, events.items, picture)

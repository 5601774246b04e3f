"""`aiosctl top`: who has which GPU, who waits and why. Live in a terminal, once as text or JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from aios_cli import cluster
from aios_cli.cluster import Target

if TYPE_CHECKING:
    from aios_cli.picture import Picture
    from aios_kube.protocol import ClusterClient

REST = 5
"""Between two looks at least so many times as long as one takes: thousands of Agents are megabytes for the API server."""


@click.command()
@cluster.connection_options
@click.option("--all-namespaces", "-A", is_flag=True, help="The Agents of all namespaces.")
@click.option("--json", "as_json", is_flag=True, help="Print one look as JSON and end.")
@click.option("--once", is_flag=True, help="Print one look as text and end; so it is when the output is no terminal.")
@click.option("--interval", type=click.FloatRange(min=0.5), default=2.0, show_default=True, help="Seconds between two looks.")
def top(
    kubeconfig: str | None, context: str | None, namespace: str | None, all_namespaces: bool, as_json: bool, once: bool, interval: float
) -> None:
    """GPUs with what is booked on them, by whom, and how much of it is used; quotas; Agents with how they are, those who need
    attention first.

    GPUs are shared by all, so their bars show the shares of every namespace that you may read.
    """
    if as_json and once:
        raise click.UsageError("--json prints once by itself: give one of --json and --once")
    to = cluster.target(kubeconfig, context, namespace)
    only = None if all_namespaces else to.namespace
    if as_json or once or not sys.stdout.isatty():
        _print(cluster.run(_one_look(to, only), to), as_json)
        return
    try:
        cluster.run(_live(to, only, interval), to)
    except KeyboardInterrupt:
        return


def _print(shown: Picture, as_json: bool) -> None:
    if as_json:
        from aios_cli.picture import as_json as to_json

        click.echo(json.dumps(to_json(shown), indent=2))
        return
    from rich.console import Console

    from aios_cli.drawing import draw

    console = Console(highlight=False)
    console.print(draw(shown, console.width))


async def _one_look(to: Target, namespace: str | None) -> Picture:
    async with cluster.connected(to) as client:
        return await look(client, to.context, namespace)


async def look(client: ClusterClient, context: str, namespace: str | None) -> Picture:
    """What is there now. Agents must be readable; what else is not is named in the picture."""
    from aios_api import names
    from aios_cli.picture import picture
    from aios_kube.protocol import Selection
    from aios_kube.resources import AGENT_RUNTIMES, AGENTS, GPU_QUOTAS, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES

    unseen: list[str] = []
    here = Selection(namespace=namespace)
    agents, quotas, slices, claims, runtimes, pods = await asyncio.gather(
        client.list(AGENTS, here),
        cluster.allowed(client.list(GPU_QUOTAS, here), "quotas (gpuquotas)", unseen),
        cluster.allowed(client.list(RESOURCE_SLICES), "GPUs (resourceslices)", unseen),
        cluster.allowed(client.list(RESOURCE_CLAIMS), "shares of other namespaces (resourceclaims)", unseen),
        cluster.allowed(client.list(AGENT_RUNTIMES), "use by other namespaces (agentruntimes)", unseen),
        cluster.allowed(client.list(PODS, Selection(namespace=namespace, labels=names.LABEL_AGENT)), "restarts (pods)", unseen),
    )
    if claims is None and namespace is not None:
        claims = await cluster.allowed(client.list(RESOURCE_CLAIMS, here), "shares of this namespace", unseen)
    if runtimes is None and namespace is not None:
        runtimes = await cluster.allowed(client.list(AGENT_RUNTIMES, here), "use by this namespace", unseen)
    return picture(
        at=datetime.now(UTC),
        context=context,
        namespace=namespace,
        agents=agents.items,
        slices=slices.items if slices else (),
        claims=claims.items if claims else (),
        runtimes=runtimes.items if runtimes else (),
        quotas=quotas.items if quotas else (),
        pods=pods.items if pods else (),
        unseen=unseen,
    )


async def _live(to: Target, namespace: str | None, interval_seconds: float) -> None:
    """Until the user ends it. The last picture stays, and says so, while the cluster does not answer."""
    from rich.console import Console
    from rich.live import Live

    from aios_cli.drawing import draw
    from aios_kube.errors import ApiError

    console = Console(highlight=False)
    async with cluster.connected(to) as client:
        shown = await look(client, to.context, namespace)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            problem, took_seconds = None, 0.0
            while True:
                live.update(draw(shown, console.width, console.height, problem), refresh=True)
                await asyncio.sleep(max(interval_seconds, REST * took_seconds))
                began = time.monotonic()
                try:
                    shown, problem = await look(client, to.context, namespace), None
                except ApiError as error:
                    problem = str(error)
                took_seconds = time.monotonic() - began

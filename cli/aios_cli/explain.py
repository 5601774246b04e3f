"""`aiosctl explain AGENT`: its life in steps, why it is where it is, and what comes next; with `--host`, whether it may reach that host."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from aios_cli import cluster
from aios_cli.cluster import Target

if TYPE_CHECKING:
    from aios_api.binding import Scheme
    from aios_cli.story import Evidence
    from aios_cli.way_out import Answer, Asked
    from aios_kube.protocol import ClusterClient, Object


@click.command()
@click.argument("agent")
@cluster.connection_options
@click.option("--host", metavar="HOST[:PORT]", help="Whether it may reach that host, and by which binding and rule.")
@click.option("--scheme", type=click.Choice(["https", "http", "tcp"]), help="With --host. [default: http for port 80, else https]")
@click.option(
    "--internal-cidr",
    "internal_cidrs",
    metavar="CIDR",
    multiple=True,
    help="With --host: a range of the cluster's own, as in the chart's gateway.internalCIDRs. May be given several times.",
)
@click.option(
    "--manifests",
    "-f",
    type=click.Path(path_type=Path, exists=True),
    help="With --host: look at these manifests, as they stand, instead of a cluster.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(
    agent: str,
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    host: str | None,
    scheme: Scheme | None,
    internal_cidrs: tuple[str, ...],
    manifests: Path | None,
    as_json: bool,
) -> None:
    """The life of AGENT: each step with its time, where it stands and why, what comes next.

    \b
    Exit code:
      0  it is as its spec says: ready, completed, stopped
      1  it needs you: failed, refused, in back-off, a container that can't start; or it could not be read
      3  it is on its way, or waits and goes on by itself
    With --host: 0 it may reach the host, 1 it may not.
    """
    if host is None and (manifests is not None or scheme is not None or internal_cidrs):
        raise click.UsageError("--manifests, --scheme and --internal-cidr go with --host")
    if host is not None:
        from aios_cli import way_out

        what = way_out.asked(host, scheme, internal_cidrs)
        if manifests is not None:
            answer = _by_manifests(manifests, namespace, agent, what)
        else:
            to = cluster.target(kubeconfig, context, namespace)
            answer = cluster.run(_by_cluster(to, agent, what), to)
        _tell_answer(answer, as_json)
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


def _tell_answer(answer: Answer, as_json: bool) -> NoReturn:
    from aios_cli import way_out

    allowed = answer.decision.allowed
    if as_json:
        click.echo(json.dumps(way_out.as_json(answer), indent=2))
    else:
        word = "would be denied, is let through" if answer.decision.audited else "allowed" if allowed else "denied"
        click.echo(f"{answer.agent} to {answer.asked}: {click.style(word, fg='green' if allowed else 'red', bold=True)}")
        for line in answer.lines:
            click.echo(f"  {line}")
    sys.exit(0 if allowed else 1)


def _by_manifests(directory: Path, named: str | None, name: str, what: Asked) -> Answer:
    from aios_cli import manifests, reach, way_out

    read, namespace = manifests.read(directory, named), named or "default"
    if read.unreadable:
        first = read.unreadable[0]
        raise click.ClickException(f"{first.path}: {first.why}; `aiosctl lint` names every fault")
    agent = next((each for each in read.of("Agent") if (each.namespace, each.name) == (namespace, name)), None)
    if agent is None:
        raise click.ClickException(f"there is no Agent {name} of namespace {namespace} in {directory}; -n names another namespace")
    bindings = reach.bindings_by_namespace(read).get(namespace, [])
    policy = reach.policies(read)[reach.AgentKey(namespace, name)]
    return way_out.judge(f"{namespace}/{name}", policy, what, bindings, agent.labels)


async def _by_cluster(to: Target, name: str, what: Asked) -> Answer:
    async with cluster.connected(to) as client:
        return await answer_of(client, to.namespace, name, what)


async def answer_of(client: ClusterClient, namespace: str, name: str, what: Asked) -> Answer:
    """By the policy that the operator has ordered; what its bindings say and is not ordered yet is told beside it.

    `click.ClickException` when there is no such Agent.
    """
    from dataclasses import replace

    from aios_api.egress import EgressPolicy, compile_policy, read_binding
    from aios_cli import way_out
    from aios_kube.errors import NotFound
    from aios_kube.protocol import Selection
    from aios_kube.resources import AGENT_RUNTIMES, AGENTS, TOOL_BINDINGS

    try:
        agent = await client.get(AGENTS, name, namespace)
    except NotFound as missing:
        raise click.ClickException(f"there is no Agent {name} in namespace {namespace}") from missing
    labels = agent["metadata"].get("labels") or {}
    bindings = [read_binding(raw) for raw in (await client.list(TOOL_BINDINGS, Selection(namespace=namespace))).items]
    try:
        runtime = await client.get(AGENT_RUNTIMES, name, namespace)
    except NotFound:
        runtime = {}
    ordered = (runtime.get("spec") or {}).get("egress")
    policy = EgressPolicy.model_validate(ordered) if ordered else EgressPolicy.of((), ())
    declared = compile_policy(bindings, labels, policy)
    answer = way_out.judge(f"{namespace}/{name}", policy, what, bindings, labels)
    notes = []
    in_force = ((runtime.get("status") or {}).get("egress") or {}).get("policyDigest")
    if declared.digest != policy.digest:
        notes.append("the bindings have changed since; the operator has not ordered that yet")
    elif in_force != policy.digest:
        notes.append("the gateway has not confirmed this policy yet, or the Agent does not run")
    return replace(answer, lines=(*answer.lines, *notes))


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

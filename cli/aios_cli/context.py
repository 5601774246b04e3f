"""`aiosctl context`: what is in the context of an Agent, a window of it as a person reads it, and erasing with a receipt.

The gateway of the Agent's node is asked, by `kubectl exec` into its pod: whoever may do that may see and erase what agents remember.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import click

from aios_cli import cluster, windows
from aios_cli.cluster import Target

if TYPE_CHECKING:
    from aios_kube.protocol import ClusterClient

Command = TypeVar("Command", bound=Callable[..., Any])
Runner = Callable[[list[str], Mapping[str, str]], "subprocess.CompletedProcess[str]"]
GATEWAYS: Final = "app.kubernetes.io/part-of=kubeaios,app.kubernetes.io/component=gateway"
PAGE: Final = 1000
STRATEGIES: Final = {
    **{name: {"type": name} for name in ("fixed", "sliding", "importance")},
    "hierarchical": {"type": "hierarchical", "preset": "CoreWorkingArchive"},
}


@dataclass(frozen=True)
class Place:
    """Where an Agent's context is."""

    uid: str
    namespace: str
    pod: str


async def locate(client: ClusterClient, namespace: str, agent: str) -> Place:
    """The gateway that has the context. Raises `click.ClickException` when none has."""
    from aios_kube.protocol import Selection
    from aios_kube.resources import AGENTS, PODS

    found = await client.get(AGENTS, agent, namespace)
    status = found.get("status") or {}
    node = (status.get("context") or {}).get("nodeName") or status.get("nodeName")
    if not node:
        raise click.ClickException(f"{namespace}/{agent} has no context yet: it never ran")
    pods = await client.list(PODS, Selection(labels=GATEWAYS, fields=f"spec.nodeName={node}"))
    if not pods.items:
        raise click.ClickException(f"no gateway runs on node {node}, which has the context of {namespace}/{agent}")
    metadata = pods.items[0]["metadata"]
    return Place(found["metadata"]["uid"], metadata["namespace"], metadata["name"])


def _run(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise click.ClickException("kubectl must be installed: the gateway is asked through it")
    return subprocess.run(command, capture_output=True, text=True, env=dict(environment), check=False)


def ask(to: Target, place: Place, method: str, path: str, content: object = None, run: Runner | None = None) -> Any:
    """What the gateway answers. Raises `click.ClickException` with its refusal."""
    command = ["kubectl", "--context", to.context, "exec", "-n", place.namespace, place.pod, "-c", "gateway", "--"]
    command += ["python3", "-m", "aios_sidecar.gateway.contexts.admin", method, f"/contexts/{place.uid}{path}"]
    command += [] if content is None else [json.dumps(content)]
    done = (run or _run)(command, {**os.environ, "KUBECONFIG": str(to.kubeconfig)})
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise click.ClickException(f"the gateway did not answer: {done.stderr.strip() or done.stdout.strip()}") from None
    if done.returncode != 0:
        raise click.ClickException(f"{answer.get('detail')} {answer.get('nextStep', '')}".strip())
    return answer


def items(to: Target, place: Place, run: Runner | None = None) -> Iterator[Any]:
    """All items, page by page."""
    first: int | None = 1
    while first is not None:
        page = ask(to, place, "GET", f"/items?{urlencode({'first': first, 'limit': PAGE})}", run=run)
        yield from page["items"]
        first = page["next"]


@click.group()
def context() -> None:
    """What an Agent remembers: see it, search it, erase it. Needs kubectl, and the right to exec into the gateway's pod."""


def _of_agent(command: Command) -> Command:
    return click.argument("agent")(cluster.connection_options(command))


def _place(agent: str, kubeconfig: str | None, context: str | None, namespace: str | None) -> tuple[Target, Place]:
    to = cluster.target(kubeconfig, context, namespace)

    async def found() -> Place:
        async with cluster.connected(to) as client:
            return await locate(client, to.namespace, agent)

    return to, cluster.run(found(), to)


@context.command()
@_of_agent
def show(agent: str, **where: str | None) -> None:
    """How much there is, and which sessions."""
    to, place = _place(agent, **where)
    for name, value in ask(to, place, "GET", "").items():
        if name != "limits":
            click.echo(f"{name:<14} {'-' if value is None else value}")
    for session in ask(to, place, "GET", "/sessions")["sessions"]:
        click.echo(f"session        {session['name']}: {session['items']} items, the last at {session['lastAppend']}")


@context.command()
@_of_agent
@click.option("--model", required=True, help="Whose tokens are counted, such as gpt-4o.")
@click.option("--budget", type=click.IntRange(1), help="[default: the Agent's]")
@click.option("--query", help="A question; what it finds comes at the end.")
@click.option("--session", help="[default: all]")
@click.option("--strategy", type=click.Choice(list(STRATEGIES)), help="hierarchical: core, working, archive. [default: the Agent's]")
def window(
    agent: str, model: str, budget: int | None, query: str | None, session: str | None, strategy: str | None, **where: str | None
) -> None:
    """What would be shown to a model now: each item, why it is in, what was left out and why."""
    to, place = _place(agent, **where)
    asked = {"model": model, "budget": budget, "query": query, "session": session, "strategy": STRATEGIES.get(strategy or "")}
    answer = ask(to, place, "POST", "/window", {name: value for name, value in asked.items() if value is not None})
    click.echo("\n".join(windows.view(answer, shutil.get_terminal_size().columns)))


@context.command()
@_of_agent
@click.argument("words")
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True)
def search(agent: str, words: str, limit: int, **where: str | None) -> None:
    """The items that have WORDS, best first."""
    to, place = _place(agent, **where)
    for found in ask(to, place, "POST", "/search", {"query": words, "limit": limit})["found"]:
        item = found["item"]
        click.echo(f"{item['seq']:>7}  {item['time']}  {item['author'] or item['role']}: {_line(item['content'])}")


@context.command()
@_of_agent
@click.option("--output", "-o", type=click.File("w"), default="-", help="[default: standard output]")
def export(agent: str, output: Any, **where: str | None) -> None:
    """All items as JSON, one a line."""
    to, place = _place(agent, **where)
    for item in items(to, place):
        output.write(json.dumps(item, ensure_ascii=False) + "\n")


@context.command()
@_of_agent
@click.option("--item", "numbers", multiple=True, type=click.IntRange(1), help="May be given several times.")
@click.option("--session")
@click.option("--author")
@click.option("--label", metavar="KEY=VALUE")
@click.option("--everything", is_flag=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(
    agent: str,
    numbers: tuple[int, ...],
    session: str | None,
    author: str | None,
    label: str | None,
    everything: bool,
    yes: bool,
    **where: str | None,
) -> None:
    """Erase what is named (exactly one way), and all that was made from it, from every file on its node; print the receipt."""
    key, _, value = (label or "").partition("=")
    given = {"items": list(numbers), "session": session, "author": author, "label": {key: value} if label else None}
    scope = {name: what for name, what in given.items() if what} | ({"everything": True} if everything else {})
    if len(scope) != 1:
        raise click.UsageError("exactly one of --item, --session, --author, --label and --everything must be given")
    to, place = _place(agent, **where)
    if not yes:
        click.confirm(f"Erase {json.dumps(scope)} from the context of {agent}? It can't be undone.", abort=True)
    receipt = ask(to, place, "POST", "/erase", scope)
    click.echo(f"{receipt['items']} items erased: {receipt['seqs'] or 'none'}")
    for name, count in receipt["places"].items():
        click.echo(f"  {name:<12} {count}")


def _line(content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return " ".join(text.split())[:200]

"""`aiosctl diff BASE HEAD`: which agents gain or lose which destination between two directories of manifests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from aios_cli.reach import Change

Form = Literal["text", "json", "markdown"]
MARKDOWN_ROWS = 200
"""A comment on a pull request has a bound; what is beyond it is counted."""


@click.command()
@click.argument("base", type=click.Path(path_type=Path, exists=True))
@click.argument("head", type=click.Path(path_type=Path, exists=True))
@click.option("--namespace", "-n", help="Of objects that name none. Without it each must name its own.")
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
def diff(base: Path, head: Path, namespace: str | None, form: Form) -> None:
    """Compare what agents may reach by the manifests in BASE and in HEAD. It needs no cluster.

    What counts is the effect: all bindings that select an agent, added up. A rule that only moved is no change.

    Files are read as they stand. Where kustomize, Helm, Flux or Argo CD would change them, BASE and HEAD must be what was built:
    directories or files.

    \b
    Exit code:
      0  nobody gains anything
      1  the manifests can't be read, or a binding or an Agent in HEAD has errors: see aiosctl lint
      3  an agent gains a destination
      4  what is gained asks for a second look: an internal or wide range, a wildcard below which anybody can have a name, scheme tcp, Audit
    """
    from aios_cli import manifests, reach
    from aios_cli.lint import findings

    before, after = manifests.read(base, namespace), manifests.read(head, namespace)
    errors = [each for each in findings(after) if each.level == "error"]
    if errors or before.unreadable:
        texts = [" ".join(part for part in (f"{head}/{each.path}:", each.subject, each.text) if part) for each in errors]
        texts += [f"{base}/{each.path}: {each.why}" for each in before.unreadable]
        raise click.ClickException("what is compared must be free of errors:\n  " + "\n  ".join(texts[:20]))
    found = reach.changes(reach.policies(before), reach.policies(after))
    click.echo(_FORMS[form](found))
    sys.exit(reach.severity(found).value)


def as_text(found: list[Change]) -> str:
    """Lines for a terminal, by agent."""
    if not found:
        return "no agent gains or loses a destination"
    lines: list[str] = []
    for agent, changes in _by_agent(found):
        lines.append(str(agent))
        for each in changes:
            lines.append(f"  {'+' if each.gained else '-'} {_where(each)}   ({each.binding}, {each.rule})")
            lines += [f"      ! {each.why_wide}"] if each.why_wide else []
    return "\n".join([*lines, "", _sum(found)])


def as_json(found: list[Change]) -> str:
    """The changes for programs; `severity` is that of the whole."""
    from aios_cli.reach import severity

    rows = [
        {
            "agent": {"namespace": each.agent.namespace, "name": each.agent.name},
            "change": "gains" if each.gained else "loses",
            "destination": {"scheme": each.destination.scheme, "target": each.destination.target, "port": each.destination.port or None},
            "binding": each.binding,
            "rule": each.rule,
            "severity": each.severity.name,
            "why": each.why_wide,
        }
        for each in found
    ]
    return json.dumps({"severity": severity(found).name, "changes": rows}, indent=2)


def as_markdown(found: list[Change]) -> str:
    """A comment for a pull request. What comes from manifests is kept from being markup."""
    if not found:
        return "**Egress:** no agent gains or loses a destination."
    lines = [f"**Egress:** {_sum(found)}", "", "| agent | | destination | by | look |", "| --- | --- | --- | --- | --- |"]
    for each in found[:MARKDOWN_ROWS]:
        word = "gains" if each.gained else "loses"
        cells = (
            _literal(each.agent),
            word,
            _literal(_where(each)),
            f"{_literal(each.binding)} / {_literal(each.rule)}",
            f"⚠ {each.why_wide}" if each.why_wide else "",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    if len(found) > MARKDOWN_ROWS:
        lines.append(f"\n{len(found) - MARKDOWN_ROWS} more changes are not shown; `aiosctl diff` prints all of them.")
    return "\n".join(lines)


def _literal(text: object) -> str:
    return f"`{str(text).replace('`', chr(39))}`"


def _where(change: Change) -> str:
    return str(change.destination) if change.destination.port else change.destination.target


def _by_agent(found: list[Change]) -> Iterator[tuple[object, list[Change]]]:
    for agent in sorted({each.agent for each in found}):
        yield agent, [each for each in found if each.agent == agent]


def _sum(found: list[Change]) -> str:
    gains, losses = sum(each.gained for each in found), sum(not each.gained for each in found)
    wide = sum(bool(each.why_wide) for each in found)
    agents = len({each.agent for each in found})
    noted = f", {wide} of these ask for a second look" if wide else ""
    return f"{agents} agent{'s' if agents != 1 else ''}: {gains} gained{noted}, {losses} lost"


_FORMS: dict[Form, Callable[[list[Change]], str]] = {"text": as_text, "json": as_json, "markdown": as_markdown}

"""`aiosctl lint DIR`: what is wrong with manifests, or looks as if it was not meant, before they reach a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from aios_api.egress import Binding
    from aios_cli.manifests import Manifest, Manifests

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at. An error is refused by a cluster, or not in force in it."""

    level: Level
    path: str
    subject: str
    text: str


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True))
@click.option("--namespace", "-n", help="Of objects that name none. Without it each must name its own.")
@click.option("--strict", is_flag=True, help="Warnings fail, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def lint(directory: Path, namespace: str | None, strict: bool, as_json: bool) -> None:
    """Check the manifests in DIRECTORY: schemas, names given twice, wildcards and ranges that are too wide, bindings that select nothing.

    It needs no cluster. Rules about pod templates that only the API server can judge are left to it. Files are read as they stand: what
    kustomize, Helm, Flux or Argo CD would change in them is an error that names the field; lint what was built then.

    \b
    Exit code:
      0  no errors (with --strict: nothing found)
      1  something must be mended
    """
    from aios_cli import manifests

    found = findings(manifests.read(directory, namespace))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in found:
            click.secho(f"{each.level:<8}", fg="red" if each.level == "error" else "yellow", nl=False)
            click.echo(f"{each.path}: {each.subject}: {each.text}" if each.subject else f"{each.path}: {each.text}")
        errors = sum(each.level == "error" for each in found)
        click.echo(f"{errors} errors, {len(found) - errors} warnings")
    sys.exit(1 if any(strict or each.level == "error" for each in found) else 0)


def findings(manifests: Manifests) -> list[Finding]:
    """Everything found, errors first, in the order of the files."""
    found = [Finding("error", each.path, "", each.why) for each in manifests.unreadable]
    found += _twice(manifests)
    for manifest in manifests.found:
        found += _of_object(manifest)
    found += _of_bindings(manifests)
    return sorted(found, key=lambda each: each.level)


def _subject(manifest: Manifest) -> str:
    return f"{manifest.kind} {manifest.namespace}/{manifest.name}"


def _twice(manifests: Manifests) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for each in manifests.found:
        subject = _subject(each)
        if subject in seen:
            yield Finding("error", each.path, subject, f"stands in {seen[subject]} already; the one applied last would win")
        seen.setdefault(subject, each.path)


def _of_object(manifest: Manifest) -> Iterator[Finding]:
    from aios_cli import schemas

    for fault in schemas.faults(manifest.raw):
        yield Finding("error", manifest.path, _subject(manifest), fault)


def _of_bindings(manifests: Manifests) -> Iterator[Finding]:
    from aios_api.egress import read_binding
    from aios_cli import reach

    by_agent = reach.policies(manifests)
    for manifest in manifests.of("ToolBinding"):
        binding = read_binding(manifest.raw)
        if binding.spec is None:
            continue  # said already
        for text in [*_selection(binding, manifest, manifests), *_width(binding)]:
            yield Finding("warning", manifest.path, _subject(manifest), text)
        left_out = [
            each.name
            for each in manifests.of("Agent")
            if each.namespace == manifest.namespace
            and binding.selects(each.labels)
            and by_agent[reach.AgentKey(each.namespace, each.name)].in_force(binding.name) is None
        ]
        if left_out:
            text = f"finds no room beside the other bindings of Agent {', '.join(sorted(left_out)[:5])}: it would not be in force there"
            yield Finding("error", manifest.path, _subject(manifest), text)


def _selection(binding: Binding, manifest: Manifest, manifests: Manifests) -> Iterator[str]:
    if binding.selector is None or binding.selector.empty:
        yield "spec.agentSelector is absent or empty, which selects nothing"
    elif not any(binding.selects(each.labels) for each in manifests.of("Agent") if each.namespace == manifest.namespace):
        yield f"spec.agentSelector selects no Agent of namespace {manifest.namespace} in these manifests"
    if binding.spec is not None and not binding.spec.egress:
        yield "spec.egress is absent or empty, which allows nothing"


def _width(binding: Binding) -> Iterator[str]:
    from aios_cli import reach

    assert binding.spec is not None, "only what was read is looked at"
    if binding.spec.mode == "Audit":
        yield "spec.mode is Audit: the selected Agents reach every public address"
    for rule in binding.spec.egress or ():
        if why := reach.wide(rule):
            yield f"spec.egress {rule.name}: {why}"

"""`aiosctl local`: a real Kubernetes on this machine. The cluster itself is `aios_localcluster`, which only a source checkout has."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aios_localcluster import ClusterSettings, LocalCluster

FOLLOW_SECONDS = 0.5


@click.group()
@click.option("--name", default="aios", show_default=True, help="Which cluster: several may run side by side.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="Where its files are; its last part is the name. [default: /var/lib/kubeaios-local/NAME]",
)
@click.pass_context
def local(context: click.Context, name: str, state_dir: Path | None) -> None:
    """A real Kubernetes on this machine: control plane and one node, in namespaces of its own."""
    try:
        from aios_localcluster.settings import environment_settings
    except ImportError as problem:
        raise click.ClickException(
            "`aiosctl local` needs a source checkout of KubeAIOS: the local cluster is no part of the package"
        ) from problem
    try:
        context.obj = environment_settings(os.environ, name, state_dir)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem


@contextmanager
def _cluster(settings: "ClusterSettings") -> Iterator["LocalCluster"]:
    """The cluster; its errors become one message instead of a traceback."""
    from aios_localcluster import LocalCluster, LocalClusterError

    try:
        yield LocalCluster(settings)
    except LocalClusterError as problem:
        raise click.ClickException(str(problem)) from problem
    except PermissionError as problem:
        raise click.ClickException(f"the cluster's files are root's: {problem}") from problem


@local.command()
@click.option("--api-only", is_flag=True, help="etcd, API server and controllers, without scheduler and node.")
@click.option(
    "--kwok-nodes", type=click.IntRange(0, 5000), default=0, help="Simulated nodes besides, run by KWOK: nothing really runs there."
)
@click.option("--gpus-per-node", type=click.IntRange(0, 16), default=8, show_default=True, help="GPUs of 80 GiB of each simulated node.")
@click.option("--subnet", help="A /16 for node, pods and services. [default: a free one of 10.128.0.0/10]")
@click.pass_obj
def up(settings: "ClusterSettings", api_only: bool, kwok_nodes: int, gpus_per_node: int, subnet: str | None) -> None:
    """Start the cluster and wait until it is ready; build and install first what is missing."""
    from dataclasses import replace

    from aios_localcluster import API_ONLY, FULL

    try:
        components = API_ONLY if api_only else FULL
        settings = replace(settings, components=components, kwok_nodes=kwok_nodes, gpus_per_node=gpus_per_node, subnet=subnet)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem
    with _cluster(settings) as cluster:
        began = time.monotonic()
        cluster.up(lambda step: click.echo(f"{time.monotonic() - began:6.1f} s  {step}"))
        click.echo(f"\nexport KUBECONFIG={cluster.kubeconfig}\nexport PATH={cluster.kubectl_path.parent}:{cluster.helm_path.parent}:$PATH")


@local.command()
@click.option("--keep-state", is_flag=True, help="Keep the files, so that the next `up` finds its objects and images again.")
@click.pass_obj
def down(settings: "ClusterSettings", keep_state: bool) -> None:
    """Stop the cluster and remove everything of it."""
    with _cluster(settings) as cluster:
        cluster.down(keep_state)
        click.echo(f"the cluster {settings.name} is down")


@local.command()
@click.pass_obj
def status(settings: "ClusterSettings") -> None:
    """What runs. Exits with 1 when the cluster does not."""
    with _cluster(settings) as cluster:
        if not cluster.is_running:
            click.echo(f"the cluster {settings.name} does not run")
            sys.exit(1)
        click.echo(f"cluster {settings.name} at {cluster.network.api_url}, kubeconfig {cluster.kubeconfig}\n")
        click.echo(f"{'COMPONENT':<26}{'STATE':<10}{'SINCE':>8}{'STARTS':>8}  LAST END")
        for each in cluster.status():
            age = "" if each["age_seconds"] is None else f"{each['age_seconds']:.0f} s"
            click.echo(f"{each['name']:<26}{each['state']:<10}{age:>8}{each['starts']:>8}  {each['last_end'] or ''}".rstrip())


@local.command()
@click.argument("component")
@click.option("--follow", "-f", is_flag=True, help="Go on printing what is added.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines.")
@click.pass_obj
def logs(settings: "ClusterSettings", component: str, follow: bool, tail: int | None) -> None:
    """Print the log of COMPONENT (etcd, kube-apiserver, …, or supervisor)."""
    path = settings.layout.log(component)
    with _cluster(settings):
        if not path.exists():
            known = sorted(file.stem for file in settings.layout.logs.glob("*.log")) if settings.layout.logs.exists() else []
            raise click.ClickException(f"no log of {component}; there are: {', '.join(known) or 'none, the cluster was never up'}")
        with path.open(errors="replace") as file:
            lines = file.readlines()
            click.echo("".join(lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]), nl=False)
            while follow:
                if added := file.read():
                    click.echo(added, nl=False)
                else:
                    time.sleep(FOLLOW_SECONDS)


@local.command()
@click.option("--print", "content", is_flag=True, help="Print the file instead of its path.")
@click.pass_obj
def kubeconfig(settings: "ClusterSettings", content: bool) -> None:
    """Print the path of the administrator's kubeconfig."""
    path = settings.layout.kubeconfig
    with _cluster(settings):
        if not path.exists():
            raise click.ClickException(f"the cluster {settings.name} has no kubeconfig: run `aiosctl local up` first")
        click.echo(path.read_text() if content else str(path), nl=not content)

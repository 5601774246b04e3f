"""Which cluster a command speaks with: as kubectl chooses it, with the local cluster as the default on a machine that has one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from aios_kube.protocol import ClusterClient

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

REQUEST_SECONDS = 10.0
"""For one request. A person looks at the terminal meanwhile; a server that takes longer is the news."""
TRIES = 2
"""Of one request: a connection that a restarted API server has dropped is one try."""


@dataclass(frozen=True)
class Target:
    """One cluster, and the namespace that commands mean when they name none."""

    kubeconfig: Path
    """Several files, merged, when it is a list as in KUBECONFIG."""
    context: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.context} ({self.kubeconfig})"


def connection_options(command: Command) -> Command:
    """The options that choose a cluster, as kubectl has them."""
    for option in (
        click.option("--namespace", "-n", help="[default: the context's]"),
        click.option("--context", help="Which context of the kubeconfig. [default: its current one]"),
        click.option("--kubeconfig", help="[default: $KUBECONFIG, else the local cluster's, else ~/.kube/config]"),
    ):
        command = option(command)
    return command


def local_kubeconfig() -> Path | None:
    """Of the cluster that `aiosctl local up` makes; None where there is no such cluster or only the package is installed."""
    try:
        from aios_localcluster.cluster import default_kubeconfig
    except ImportError:
        return None
    path = default_kubeconfig()
    return path if os.access(path, os.R_OK) else None


def chosen_kubeconfig(given: str | None, environment: Mapping[str, str], local: Path | None, home: Path) -> Path:
    """The first that is there. Raises `click.ClickException` when none is."""
    if named := given or environment.get("KUBECONFIG"):
        files = [Path(part) for part in named.split(os.pathsep) if part]
        if not any(file.is_file() for file in files):
            raise click.ClickException(f"{'--kubeconfig' if given else 'KUBECONFIG'} must name a file that exists: {named}")
        return Path(os.pathsep.join(str(file) for file in files if file.is_file()))
    standard = home / ".kube" / "config"
    for path in (local, standard):
        if path is not None and path.is_file():
            return path
    raise click.ClickException(f"no cluster: give --kubeconfig, set KUBECONFIG, write {standard}, or start one with `aiosctl local up`")


def target(kubeconfig: str | None, context: str | None, namespace: str | None) -> Target:
    """What the options and the environment say. Raises `click.ClickException` when they name nothing that exists."""
    from kubernetes.aio.config import ConfigException
    from kubernetes.aio.config.kube_config import list_kube_config_contexts

    path = chosen_kubeconfig(kubeconfig, os.environ, local_kubeconfig(), Path.home())
    try:
        contexts, current = list_kube_config_contexts(str(path))  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as problem:
        raise click.ClickException(f"{path} must be a kubeconfig: {problem}") from problem
    known = {each["name"]: each["context"] for each in contexts}
    name = context or current["name"]
    if name not in known:
        raise click.ClickException(f"--context must be one of {', '.join(sorted(known))}; {name} is not in {path}")
    return Target(path, name, namespace or known[name].get("namespace") or "default")


@asynccontextmanager
async def connected(to: Target) -> AsyncIterator[ClusterClient]:
    """A client of that cluster, closed afterwards."""
    from aios_kube.client import connect
    from aios_kube.transport import TransportSettings

    settings = TransportSettings(request_seconds=REQUEST_SECONDS, tries=TRIES)
    client = await connect(to.kubeconfig, user_agent="aiosctl", context=to.context, settings=settings)
    try:
        yield client
    finally:
        await client.close()


def run(work: Coroutine[Any, Any, T], to: Target) -> T:
    """The result of `work`; what the cluster has against it becomes one message instead of a traceback."""
    from aios_kube.errors import ApiError, Forbidden, Unreachable

    try:
        return asyncio.run(work)
    except Unreachable as problem:
        raise click.ClickException(f"{to} does not answer: {problem}") from problem
    except Forbidden as problem:
        raise click.ClickException(f"{to} does not let you read this: {problem}") from problem
    except ApiError as problem:
        raise click.ClickException(str(problem)) from problem


async def allowed(reading: Awaitable[T], what: str, unseen: list[str]) -> T | None:
    """What `reading` brings, or None when we may not read that: `what` then stands in `unseen`."""
    from aios_kube.errors import Forbidden

    try:
        return await reading
    except Forbidden:
        unseen.append(what)
        return None

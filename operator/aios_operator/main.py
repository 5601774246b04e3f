"""`aios-operator`: `run` is the operator; `uninstall` deletes all Agents and waits until they are gone."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from aios_api import names
from aios_kube import ClusterClient, Resource, connect, resources
from aios_kube.clock import machine_seconds
from aios_kube.errors import ApiError, NotFound
from aios_kube.events import EventRecorder
from aios_kube.lease import Lease, LeaseLost
from aios_kube.transport import Credentials, TransportSettings
from aios_operator import logs
from aios_operator.act.executor import Executor
from aios_operator.act.report import Reporter
from aios_operator.loop import Loop
from aios_operator.metrics import Metrics
from aios_operator.observe import foreign, ranges
from aios_operator.observe.audit import Audit, WatchIsDead
from aios_operator.observe.feed import Feed
from aios_operator.observe.heartbeats import Heard, Heartbeats
from aios_operator.observe.store import Store
from aios_operator.probes import Health, serve
from aios_operator.settings import InvalidSetting, OperatorSettings, from_environment
from aios_operator.uninstall import remove_agents

log = logging.getLogger("aios_operator")

USER_AGENT = "aios-operator"
ONLY_READ = ("audit", "foreign pods", "heartbeats", "ranges")
"""Parts of the operator that may end at any moment."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends the process: 0 when all is well or we were asked to stop, 1 when it failed, 2 when it was called wrongly."""
    parser = argparse.ArgumentParser(prog="aios-operator", description="Decides where Agents run, and explains it.")
    parser.add_argument("--kubeconfig", type=Path, help="default: AIOS_KUBECONFIG, then the service account of our pod")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the operator")
    commands.add_parser("uninstall", help="delete all Agents and wait until they are gone")
    given = parser.parse_args(arguments)
    try:
        settings = from_environment(os.environ)
    except InvalidSetting as error:
        parser.error(str(error))
    if given.kubeconfig is not None:
        settings = dataclasses.replace(settings, kubeconfig=given.kubeconfig)
    logs.set_up(settings.log_format, settings.log_level)
    asyncio.run(to_the_end(run(settings) if given.command == "run" else uninstall(settings)))


async def to_the_end(work: Coroutine[Any, Any, bool]) -> NoReturn:
    """The process ends with what `work` says. Not by sys.exit, nor with the event loop: nothing that still hangs in a task, a thread or a
    destructor may hold up a restart."""
    try:
        fine = await work
    except ApiError as error:
        log.error("%s", error)
        fine = False
    except Exception:
        log.exception("ended by an error")
        fine = False
    _end(fine)


def _end(fine: bool) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0 if fine else 1)


def end_within(seconds: float) -> None:
    """The process ends by then as one that failed, whatever it hangs in."""
    last = threading.Timer(seconds, _end, (False,))
    last.daemon = True
    last.start()


async def uninstall(settings: OperatorSettings) -> bool:
    client = await connect(settings.kubeconfig, user_agent=USER_AGENT)
    try:
        return await remove_agents(client, settings.uninstall_seconds, lambda line: print(line, flush=True))
    finally:
        await client.close()


async def run(settings: OperatorSettings) -> bool:
    """Runs until told to stop (True) or until a part ends that must not (False). The process must then end: kopf leaves nothing tidy."""
    metrics = Metrics()
    client = await connect(
        settings.kubeconfig,
        user_agent=USER_AGENT,
        settings=TransportSettings(request_seconds=settings.request_seconds),
        observe=metrics.request,
    )
    store = Store()
    metrics.watch_store(store, _now)
    lease = a_lease(client, settings)
    writer = client.writing_while(lease.confirm) if lease is not None else client
    events = EventRecorder(writer, f"{names.GROUP}/operator", settings.identity, _now)
    loop = Loop(store, Executor(writer, store), Reporter(events), metrics, settings, _now, _steady)
    health = Health(settings.cycle_age_limit_seconds, settings.audit_seconds, lambda: loop.last_turn)
    audit = Audit(client, store, settings.audit_seconds, settings.audit_after_relist_seconds, on_done=lambda: _audited(health))
    feed = Feed(store, Credentials(settings.kubeconfig), settings, audit.relisted, lambda resource: _seen(health, metrics, resource))
    heartbeats = listen(client, store, settings)
    stop = asyncio.Event()
    async with serve(settings.http_host, settings.http_port, health, metrics):
        for resource in (resources.AGENTS, resources.AGENT_RUNTIMES, resources.GPU_QUOTAS, resources.TOOL_BINDINGS):
            await established(client, resource)
        await audit.fill()
        store.set_foreign(await foreign.count(client))
        if heartbeats is not None:
            await heartbeats.listen()
            store.suspect()
        if settings.lease_namespace is not None:
            await ranges.read(client, store.ranges, settings.lease_namespace)
        _audited(health)
        health.ready = True
        log.info("the cluster is read: %d Agents, %d nodes, %d slices", *(len(t.views) for t in (store.agents, store.nodes, store.slices)))
        parts = {
            "loop": lead(lease, audit, loop, health),
            "audit": audit.run(),
            "foreign pods": foreign.refresh(client, store, settings.foreign_seconds),
            "events": events.run(),
            **({"lease": keep(lease)} if lease else {}),
            **({"heartbeats": heartbeats.run()} if heartbeats else {}),
            **_of_ranges(client, store, settings),
            "kopf": feed.run(stop),  # last: when it ends, it waits for every task that began after it
        }
        try:
            return await _until_one_ends(parts)
        finally:
            end_within(settings.exit_seconds)
            await loop.stop(settings.exit_seconds / 3)
            if lease is not None and lease.held:
                await lease.release()
            await client.close()


def a_lease(client: ClusterClient, settings: OperatorSettings) -> Lease | None:
    """The Lease by which one of several operators decides; None for an operator that is alone."""
    if settings.lease_namespace is None:
        return None
    return Lease(client, settings.lease_namespace, names.MANAGED_BY, settings.identity, names.FIELD_MANAGER_OPERATOR, _now)


def listen(client: ClusterClient, store: Store, settings: OperatorSettings) -> Heartbeats | None:
    """What reads the Leases of node agents; None where there is no namespace for them."""
    if settings.lease_namespace is None:
        return None
    store.heard = Heard(settings.mute_seconds, settings.mute_seconds + settings.lost_margin_seconds)
    return Heartbeats(client, store, settings.lease_namespace, store.heard)


def _of_ranges(client: ClusterClient, store: Store, settings: OperatorSettings) -> dict[str, Coroutine[Any, Any, None]]:
    if settings.lease_namespace is None:
        return {}
    return {"ranges": ranges.refresh(client, store.ranges, settings.lease_namespace, settings.foreign_seconds)}


async def keep(lease: Lease) -> None:
    """Renews the Lease once it is held. Raises `LeaseLost`."""
    await lease.taken.wait()
    await lease.hold()


async def lead(lease: Lease | None, audit: Audit, loop: Loop, health: Health) -> None:
    """Decides, once it is our turn. Until then the picture is kept up to date, so that little is left to be read when it comes."""
    if lease is not None:
        await lease.acquire()
        log.info("it is our turn: the picture is compared with the server before anything is decided")
        await audit.fill()  # what the one before us wrote last may not have reached our watches
    loop.last_turn = time.monotonic()
    health.leading = True
    await loop.run()


async def _until_one_ends(parts: dict[str, Coroutine[Any, Any, None]]) -> bool:
    tasks = [asyncio.create_task(work, name=name) for name, work in parts.items()]
    done, going_on = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in going_on:
        if task.get_name() in ONLY_READ:
            task.cancel()  # what they read serves nobody any more, and the client is about to be closed
    fine = True
    for task in done:
        if task.cancelled():
            continue
        error = task.exception()
        if isinstance(error, WatchIsDead):
            log.error("%s; ending, so that a new process watches anew", error)
        elif isinstance(error, LeaseLost):
            log.error("%s; ending, so that never two decide", error)
        elif error is not None:
            log.error("%s ended by an error; so does the process", task.get_name(), exc_info=error)
        elif task.get_name() == "kopf":
            log.info("asked to stop")
            continue
        fine = False
    return fine


async def established(client: ClusterClient, resource: Resource, poll_seconds: float = 1.0) -> None:
    """Returns when the API serves our kind: kopf would never watch one that comes later."""
    name = f"{resource.plural}.{resource.group}"
    said = False
    while True:
        try:
            definition = await client.get(resources.CUSTOM_RESOURCE_DEFINITIONS, name)
            conditions = definition.get("status", {}).get("conditions") or ()
            if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
                return
        except NotFound:
            pass
        if not said:
            log.warning("waiting for CustomResourceDefinition %s to be established; is it installed?", name)
            said = True
        await asyncio.sleep(poll_seconds * (0.8 + 0.4 * random.random()))  # noqa: S311 - jitter


def _now() -> datetime:
    return datetime.now(UTC)


def _steady() -> datetime:
    """Where it begins means nothing; that nobody sets it does."""
    return datetime.min.replace(tzinfo=UTC) + timedelta(seconds=machine_seconds())


def _audited(health: Health) -> None:
    health.last_audit = time.monotonic()


def _seen(health: Health, metrics: Metrics, resource: str) -> None:
    health.last_event = time.monotonic()
    metrics.event(resource)


if __name__ == "__main__":
    main()

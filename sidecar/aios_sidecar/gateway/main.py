"""`aios-gateway`: puts the rooms together, and ends them in order."""

import asyncio
import logging
import os
import random
import resource
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from aios_sidecar.context.ages import Ages
from aios_sidecar.context.scoring.embeddings import StaticTable
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.tokens.errors import UnknownTokenizer
from aios_sidecar.context.tokens.files import load_all
from aios_sidecar.contracts.clock import machine_seconds
from aios_sidecar.gateway.agents import Agents
from aios_sidecar.gateway.contexts import admin
from aios_sidecar.gateway.contexts.admin import Admin
from aios_sidecar.gateway.contexts.desk import Desk
from aios_sidecar.gateway.contexts.metrics import ContextMetrics
from aios_sidecar.gateway.contexts.reclaim import Reclaimer
from aios_sidecar.gateway.egress.agent import Outside
from aios_sidecar.gateway.egress.audit import Audit, AuditFile, NoAudit
from aios_sidecar.gateway.egress.names import Names, SystemNames
from aios_sidecar.gateway.egress.ranges import Ranges
from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.link import NodeLink
from aios_sidecar.gateway.metrics import Metrics, Operations
from aios_sidecar.gateway.moves.mover import Mover
from aios_sidecar.gateway.server import Server
from aios_sidecar.gateway.settings import InvalidSettingsError, Settings
from aios_sidecar.gateway.turns import Turns

log = logging.getLogger(__name__)

ADMINISTRATION_SECONDS = 5.0
"""Between two tries to open the socket of administration: the node agent may not have made its directory yet."""


async def serve(settings: Settings, stop: asyncio.Event, names: Names | None = None) -> None:
    """Serve agents until `stop` is set, then drain. `names` stands for the system's resolver. Raises OSError when the operations address
    can't be had."""
    metrics = Metrics()
    freshness = Freshness(settings.mute_seconds, machine_seconds, metrics)
    desk = _desk(settings, metrics.contexts)
    audit = _audit(settings, metrics)
    system = SystemNames(settings.egress)
    ranges = Ranges(settings.ranges_file, settings.internal_cidrs, settings.own_addresses)
    outside = Outside(names or system, settings.egress, Turns(), audit, metrics.egress, ranges.internal)
    agents = Agents(settings.limits, outside, metrics, freshness, desk)
    moves = Mover(desk.files, settings.moves, desk.forget) if desk is not None else None
    door = _listener(settings.move_host, settings.move_port) if moves is not None and settings.move_host else None
    chance = random.Random()  # noqa: S311  spreads reconnects, protects nothing
    reclaimer = Reclaimer(desk) if desk is not None else None
    link = NodeLink(settings, agents, freshness, metrics, chance, moves, _address(door) if door is not None else None, reclaimer)
    operations = Server(
        Operations(metrics, lambda: link.up, freshness.require), settings.limits, partial(outside.turns, "operations"), newest_first=True
    )
    listener = _listener(settings.metrics_host, settings.metrics_port)
    log.info("metrics and probes at %s port %d", *listener.getsockname()[:2])
    operations.listen_on([("operations", listener)])
    stopped = asyncio.create_task(stop.wait())
    keeping = [asyncio.create_task(ranges.run(agents.count_as_inside))]
    if desk is not None and settings.context_dir is not None:
        administration = Server(Admin(desk), settings.limits, partial(outside.turns, "administration"))
        keeping += [asyncio.create_task(desk.keep()), asyncio.create_task(_administer(administration, settings.context_dir))]
    if moves is not None and door is not None:
        keeping.append(asyncio.create_task(moves.listen(door)))
    tasks = (asyncio.create_task(link.run()), asyncio.create_task(freshness.run(agents.cut)), stopped, *keeping)
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended - {stopped}:
            task.result()  # none returns; this raises what it failed with
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await agents.drain(settings.drain_seconds)
        operations.end()
        system.close()
        await audit.close()
        if moves is not None:
            moves.close()
        if desk is not None:
            desk.close()


def _audit(settings: Settings, metrics: Metrics) -> Audit:
    if settings.audit_file is None:
        return NoAudit()
    audit = AuditFile(settings.audit_file, file_bytes=settings.audit_file_bytes, files=settings.audit_files)
    metrics.egress.watch_audit(dropped_lines=lambda: audit.dropped, rotated_out_lines=lambda: audit.rotated_out)
    return audit


def _store(directory: Path, metrics: ContextMetrics) -> SqliteStore:
    ages = Ages(directory)
    return SqliteStore(directory, ages=ages.now, expected=ages.expected, observer=metrics)


def _desk(settings: Settings, metrics: ContextMetrics) -> Desk | None:
    if settings.context_dir is None:
        return None
    given = {} if settings.tokenizers_dir is None else load_all(settings.tokenizers_dir)
    metrics.watch_disk(settings.context_dir)
    table = None if settings.embeddings_dir is None else StaticTable.load(settings.embeddings_dir)
    if table is not None:
        log.info("questions to contexts are answered by words and by %s", table.name)
    return Desk(partial(_store, settings.context_dir, metrics), metrics, Models(given), table)


async def _administer(server: Server, directory: Path) -> None:
    """Until cancelled: serve those who run the cluster, as soon as the directory is ours."""
    while True:
        try:
            server.listen_on([("administration", admin.listener(directory))])
            break
        except OSError as error:
            log.info("contexts can't be administered yet: %s", error)
            await asyncio.sleep(ADMINISTRATION_SECONDS)
    try:
        await asyncio.Event().wait()
    finally:
        server.end()


def _listener(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _allow_many_descriptors() -> None:
    """Agents times connections can pass the usual soft limit of 1024; the hard one is the host's to set."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _unraisable(event: "sys.UnraisableHookArgs") -> None:
    """A server name that is not ASCII is refused, and Python tells it here, too: agents could fill the log with it."""
    if not isinstance(event.exc_value, UnicodeDecodeError):
        sys.__unraisablehook__(event)


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(settings, stop)


def main() -> None:
    """The entry point. Exits with 2 for settings that can't be, 1 when it fails while serving."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = Settings.from_environment(os.environ)
    except InvalidSettingsError as error:
        log.error("aios-gateway does not start: %s", error)
        sys.exit(2)
    _allow_many_descriptors()
    sys.unraisablehook = _unraisable
    try:
        asyncio.run(_run(settings))
    except UnknownTokenizer as error:
        log.error("aios-gateway does not start: %s", error)
        sys.exit(2)
    except OSError as error:
        log.error("aios-gateway ends: %s", error)
        sys.exit(1)

"""The node agent as a whole: its parts, started in the order in which others rely on them, and ended without disturbing an agent."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime

from aios_api.names import DRIVER
from aios_kube.events import EventRecorder, Regarding
from aios_kube.protocol import ClusterClient, Selection
from aios_kube.reflector import Reflector
from aios_kube.resources import AGENT_RUNTIMES, NODES, RESOURCE_SLICES
from aios_sidecar.contracts.clock import machine_seconds
from aios_sidecar.contracts.gpus import Inventory
from aios_sidecar.contracts.worker import Workers
from aios_sidecar.node.endpoints import Endpoints
from aios_sidecar.node.files import give, set_mode, write_atomically
from aios_sidecar.node.gate import Gate
from aios_sidecar.node.gpus import GPUs
from aios_sidecar.node.health_keeper import HealthKeeper
from aios_sidecar.node.heartbeat import RENEWALS, Heartbeat
from aios_sidecar.node.hook_server import HookServer
from aios_sidecar.node.inspector import Inspector
from aios_sidecar.node.leftovers import Leftovers
from aios_sidecar.node.link import GatewayLink
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror
from aios_sidecar.node.moves import Moves
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.plugin import DRAService, Plugin
from aios_sidecar.node.preparer import Preparer
from aios_sidecar.node.prober import Prober
from aios_sidecar.node.publisher import Publisher
from aios_sidecar.node.reclaim import Reclaim
from aios_sidecar.node.recovery import Recovery
from aios_sidecar.node.reporter import Reporter
from aios_sidecar.node.sandbox import Processes
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import StateFiles
from aios_sidecar.node.waiting import Turns
from aios_sidecar.node.web import Web

log = logging.getLogger(__name__)


class NodeAgent:
    """One per node. What it keeps for agents (files, listeners, fences) outlives it and is found again by the next one."""

    def __init__(
        self, settings: NodeSettings, client: ClusterClient, inventory: Inventory, workers: Workers, clock: Callable[[], datetime]
    ) -> None:
        self.settings = settings
        self.metrics = Metrics(time.monotonic)
        self.claims = LiveClaims(clock)
        self.nodes, self.slices, runtimes, leaving = Mirror(), Mirror(), Mirror(), Mirror()
        self.orders = Orders(runtimes)
        self.moves = Moves(settings, self.orders, leaving)
        self._files = StateFiles(settings.claims_dir)
        self._turns, processes = Turns(), Processes()
        self._endpoints = Endpoints(settings, self.claims, processes, self.orders, self._files)
        self._events = EventRecorder(client, DRIVER, settings.node_name, clock)
        self._reporter = Reporter(settings, client, self.orders, self.claims, self.moves, clock)
        self._health = HealthKeeper(settings, self.claims, self.nodes, self._events, self.metrics, clock, processes.boot_id)
        self._publisher = Publisher(settings, client, inventory, self._health, self.nodes, self.slices, self._events, self.metrics)
        self._preparer = Preparer(
            settings, client, self.orders, inventory, self._files, self.claims, self._endpoints, self._turns, self.moves
        )
        self._inspector = Inspector(settings, self.claims, self._endpoints, self._turns, self._events, self.metrics)
        self._prober = Prober(settings, self.claims, self.orders, self.nodes, processes, self._turns, self._events, self.metrics, clock)
        self._leftovers = Leftovers(settings, client, self.orders, self.claims, self._events, self.metrics)
        gate = Gate(
            settings, client, self.orders, self._files, self.claims, self._endpoints, processes, self._prober, self._leftovers, self._turns
        )
        self._recovery = Recovery(settings, client, self.orders, self.claims, self._preparer, gate)
        self._hooks = HookServer(settings, gate, self.metrics)
        self._gpus = GPUs(workers, self.claims, self._files, self._turns, self._events, self._health, self.metrics, clock)
        self._plugin = Plugin(settings, DRAService(self._preparer, self._reporter, self.metrics))
        self._web = Web(settings.http_host, settings.http_port, self.metrics, self.unhealthy, self.unready)
        on_node = Selection(fields=f"spec.nodeName={settings.node_name}")
        every = settings.mute_seconds / RENEWALS
        relist = settings.relist_seconds
        ordered = Reflector(
            client, AGENT_RUNTIMES, runtimes, on_node, watch_seconds=every, relist_seconds=relist, clock_seconds=machine_seconds
        )
        self._heartbeat = Heartbeat(settings, client, lambda: ordered.heard_seconds, clock, machine_seconds, self.moves.annotations)
        self._reclaim = Reclaim(settings, client, self.orders, leaving, self.claims, self._events, self.metrics)
        self._link = GatewayLink(settings, self.claims, self.orders, self._heartbeat, self.moves, self._reclaim, clock)
        self._ordered = ordered
        self._reflectors = (
            Reflector(client, RESOURCE_SLICES, self.slices, on_node, relist_seconds=relist),
            Reflector(
                client, AGENT_RUNTIMES, leaving, Selection(fields=f"spec.contextFrom.nodeName={settings.node_name}"), relist_seconds=relist
            ),
            Reflector(client, NODES, self.nodes, Selection(fields=f"metadata.name={settings.node_name}"), relist_seconds=relist),
        )
        self.metrics.claims.set_function(lambda: len(list(self.claims)))
        self.metrics.fresh.set_function(lambda: self._heartbeat.left_seconds)

    async def run(self, stop: asyncio.Event, started: asyncio.Event | None = None) -> None:
        """Works until `stop` is set or a part fails, whose exception is raised then. Agents that run are not disturbed by the end."""
        damaged = self._restore_files()
        self._link.open()
        try:
            await self._hooks.start()
            await self._web.start()
            await self._plugin.start()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(reflector.run()) for reflector in self._reflectors]
                tasks.append(group.create_task(self._hear_orders(self._heartbeat.next_change())))
                tasks += [group.create_task(part.run()) for part in (self._heartbeat, self._link, self._events, self._gpus)]
                tasks.append(group.create_task(self._publish()))
                tasks.append(group.create_task(self._restore_and_go_on(damaged)))
                if started is not None:
                    started.set()
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._plugin.stop()
            await self._hooks.stop()
            await self._web.stop()

    async def _hear_orders(self, tried: asyncio.Event) -> None:
        """Only once the first renewal was tried: what is heard before it is not fresh, and the next word may be a while away."""
        await tried.wait()
        await self._ordered.run()

    async def _publish(self) -> None:
        """Only once the kubelet has taken the driver: a pod bound before that fails to prepare, and the kubelet tries it again a
        minute later."""
        await self._plugin.registration.first_registered.wait()
        await self._publisher.run()

    def unhealthy(self) -> str | None:
        """Why a restart would help: a socket by which we are found, or the hook on the host, was removed."""
        sockets = (self.settings.registration_socket, self.settings.plugin_socket, self.settings.hook_socket, self.settings.gateway_socket)
        missing = [path for path in sockets if not path.is_socket()]
        if not self.settings.hook_path.is_file():
            missing.append(self.settings.hook_path)
        return f"{missing[0]} was removed" if missing else None

    def unready(self) -> str | None:
        """Why no agent could start here now."""
        if not self._plugin.registration.registered:
            return "the kubelet has not registered the driver yet"
        if not self.orders.heard:
            return "the orders for this node were not heard yet"
        return self.unhealthy()

    def _restore_files(self) -> list[str]:
        """Directories, the hook on the host, and what prepared claims need on the disk: containers may be started from here on."""
        for path, mode in ((self.settings.run_dir, 0o755), (self.settings.run_dir / "agents", 0o700), (self.settings.plugin_dir, 0o750)):
            path.mkdir(parents=True, exist_ok=True)
            set_mode(path, mode)
        give(self.settings.context_dir, self.settings.gateway_uid)
        self._files.open()
        self._health.open()
        hook = self.settings.hook_binary.read_bytes()
        if not self.settings.hook_path.is_file() or self.settings.hook_path.read_bytes() != hook:
            write_atomically(self.settings.hook_path, hook, 0o755)
        damaged = self._preparer.restore_files()
        self.metrics.damaged.inc(len(damaged))
        log.info("%d claims are prepared, the state of %d could not be read", len(list(self.claims)), len(damaged))
        return damaged

    async def _restore_and_go_on(self, damaged: list[str]) -> None:
        """Facts are written once they are known again: until then, those that the node agent before wrote stand."""
        await self._restore_listeners()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reporter.run())
            group.create_task(self._inspector.run())
            group.create_task(self._inspector.follow())
            group.create_task(self._prober.run())
            group.create_task(self._leftovers.run())
            group.create_task(self._reclaim.run())
            group.create_task(self._recover(damaged))

    async def _restore_listeners(self) -> None:
        """The gateway's own are taken first: it may be serving on them."""
        restored = list(self.claims)
        if restored:
            try:
                async with asyncio.timeout(self.settings.handback_seconds):
                    await self._link.handed_back.wait()
            except TimeoutError:
                log.info("no gateway handed listeners back within %.0f s", self.settings.handback_seconds)
        for live in restored:
            if await self._inspector.inspect(live):  # no breach need be behind it: the fence of another version of this program differs
                log.warning("the fence of pod %s/%s was not as it must be", live.state.namespace, live.state.pod_name)
        await self._prober.look_at_all(restored)

    async def _recover(self, damaged: list[str]) -> None:
        for reflector in (self._ordered, *self._reflectors):
            await reflector.synced.wait()
        missing = await self._recovery.recover(damaged)
        if damaged:
            self._tell_damaged(damaged, missing)
        await self._recovery.sweep()

    def _tell_damaged(self, damaged: list[str], missing: list[str]) -> None:
        note = f"the state of {len(damaged)} prepared claims could not be read and was set aside in {self.settings.claims_dir}; "
        note += f"{len(damaged) - len(missing)} were prepared anew, no order names {', '.join(missing) or 'none'} of them"
        log.error("%s", note)
        for node in self.nodes.all():
            regarding = Regarding("v1", "Node", "", self.settings.node_name, node["metadata"]["uid"])
            self._events.record(regarding, "Warning", "StateUnreadable", "Restore", note)

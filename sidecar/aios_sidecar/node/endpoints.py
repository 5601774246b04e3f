"""What an agent's pod has of ours: a Unix socket that its containers see; in their network namespace a loopback port, and the fence."""

import asyncio
import logging
import socket
from dataclasses import replace
from pathlib import Path

from aios_api.names import AGENT_PORT
from aios_sidecar.node import fence
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.netns import LISTEN_BACKLOG, NamespaceGone, NetworkNamespace, PortTaken, listen_on_loopback
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.sandbox import Processes
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import Opening, StateFiles

log = logging.getLogger(__name__)


class Endpoints:
    """Opens what a claim lacks. Every call may be repeated."""

    def __init__(self, settings: NodeSettings, claims: LiveClaims, processes: Processes, orders: Orders, files: StateFiles) -> None:
        self._settings = settings
        self._claims = claims
        self._processes = processes
        self._orders = orders
        self._files = files

    def open_socket(self, live: LiveClaim) -> None:
        """The claim has its Unix socket, in place and listening."""
        path = self._settings.agent_socket(live.state.claim_uid)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        if "socket" not in live.listeners or not path.is_socket():
            self._claims.give(live, "socket", listen_on_socket(path))

    async def open_loopback(self, live: LiveClaim, namespace: NetworkNamespace) -> None:
        """The claim has its loopback listener in this namespace, or the condition says what is in the way."""
        if live.listens_in(namespace.identity):
            return
        try:
            listener = await asyncio.to_thread(listen_on_loopback, namespace, AGENT_PORT)
        except PortTaken as error:
            if not live.listens_in(namespace.identity):  # the gateway may have handed it back meanwhile
                self._claims.learn(live, replace(live.facts, port_message=str(error)))
            return
        live.loopback_in = namespace.identity
        self._claims.learn(live, replace(live.facts, port_message=""))
        self._claims.give(live, "loopback", listener)

    async def restore(self, live: LiveClaim) -> bool:
        """The claim has its listeners and its fence was read back, as far as its pod has a process. Whether the fence was missing."""
        self.open_socket(live)
        if live.state.sandbox is None:
            return False
        try:
            namespace = self._processes.open_namespace(live.state.sandbox)
        except NamespaceGone as error:
            log.debug("claim %s: %s; its next container brings it", live.state.claim_name, error)
            return False
        with namespace:
            try:
                missing = await self.raise_fence(live, namespace)
            except fence.FenceFailed as error:
                log.error("claim %s: %s", live.state.claim_name, error)
                missing = True
            await self.open_loopback(live, namespace)
        return missing

    def next_change(self) -> asyncio.Event:
        """Set by the next change of what `openings` says, from now on."""
        return self._orders.next_change()

    def openings(self, live: LiveClaim) -> frozenset[Opening]:
        """The ports on which the claim's pod is to be reached; while no order was heard, those on which it was."""
        state = live.state
        if not self._orders.heard:
            return frozenset(state.openings)
        order = self._orders.get(state.runtime_uid)
        if order is None or order.spec.claim_name != state.claim_name:
            return fence.NO_OPENINGS
        return frozenset(Opening(protocol=port.protocol, port=port.port) for port in order.spec.expose or ())

    async def raise_fence(self, live: LiveClaim, namespace: NetworkNamespace) -> bool:
        """The fence stands in the namespace, open as ordered, and was read back; the facts say so, or why not. Whether it was missing, or
        not as it was left. Raises FenceFailed."""
        wanted, before = self.openings(live), live.facts.openings
        try:
            missing = await asyncio.to_thread(_renew, namespace, wanted if before is None else before, wanted)
        except fence.FenceFailed as error:
            self._claims.learn(live, replace(live.facts, fenced=False, fence_message=str(error)))
            raise
        self._claims.learn(live, replace(live.facts, fenced=True, fence_message="", openings=wanted))
        if wanted != frozenset(live.state.openings):
            state = live.state.model_copy(update={"openings": tuple(sorted(wanted, key=str))})
            await asyncio.to_thread(self._files.write, state)
            self._claims.put(state)
        return missing


def _renew(namespace: NetworkNamespace, before: frozenset[Opening], wanted: frozenset[Opening]) -> bool:
    """The fence stands as `wanted`; whether it did not stand as it was left `before`. Raises FenceFailed."""
    if before == wanted:
        return fence.ensure(namespace, wanted)
    missing = not fence.stands(namespace, before)
    fence.ensure(namespace, wanted)
    return missing


def listen_on_socket(path: Path) -> socket.socket:
    """A listening socket at `path`, to which every user may connect that sees it. Takes the place of what was there, without a gap."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(temporary))
        temporary.chmod(0o666)
        listener.listen(LISTEN_BACKLOG)
        temporary.rename(path)
    except BaseException:
        listener.close()
        raise
    return listener

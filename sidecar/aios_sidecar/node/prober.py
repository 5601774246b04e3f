"""Proof that fences hold: each agent's is tried from inside before its first container starts, and again and again while it runs.

A fence that lets something out stops the agent: no container starts behind it, and those that run are killed. Behind a fence that could
not be tried no container starts either; those that run go on, behind a fence that was tried before.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from aios_api.names import API_VERSION
from aios_api.runtime import Probe
from aios_kube.events import EventRecorder, Regarding
from aios_sidecar.node.live import LiveClaim, LiveClaims
from aios_sidecar.node.metrics import Metrics
from aios_sidecar.node.mirror import Mirror, Object
from aios_sidecar.node.netns import NamespaceGone, NetworkNamespace
from aios_sidecar.node.orders import Orders
from aios_sidecar.node.probe import Found, ProbeFailed, Surroundings, probe, resolvers_in
from aios_sidecar.node.sandbox import Processes
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.shots import kill_pod
from aios_sidecar.node.waiting import Turns, to_the_end

log = logging.getLogger(__name__)

TOLD_AGAIN = timedelta(hours=1)
"""A probe that finds what the last one found is told after this time: nothing is written while nothing changes."""
AT_ONCE = 4
"""Probes at once after a start; each waits for nft most of its time."""
TRIES, PAUSE_SECONDS = 3, 1.0
"""Of a probe that can't run before a container starts; where nft answers they end well within the time of the hook's question."""
_OF_NODE = ("InternalIP", "ExternalIP")


class FenceLeaks(Exception):
    """Something would have left the pod; the message says what."""


class FenceUntried(Exception):
    """Whether something would leave the pod can't be told; the message says why."""


class Prober:
    """One probe at a time for each claim, in its turn."""

    def __init__(
        self,
        settings: NodeSettings,
        claims: LiveClaims,
        orders: Orders,
        nodes: Mirror,
        processes: Processes,
        turns: Turns,
        events: EventRecorder,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._claims = claims
        self._orders = orders
        self._nodes = nodes
        self._processes = processes
        self._turns = turns
        self._events = events
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled: every claim once in `probe_seconds`, spread over that time."""
        while True:
            claims = list(self._claims)
            pause = self._settings.probe_seconds / max(len(claims), 1)
            if not claims:
                await asyncio.sleep(min(pause, 1.0))
            for live in claims:
                await asyncio.sleep(pause)
                await self.look(live)

    async def look_at_all(self, claims: Iterable[LiveClaim]) -> None:
        """Each of these is probed, a few at once."""
        free = asyncio.Semaphore(AT_ONCE)

        async def one(live: LiveClaim) -> None:
            async with free:
                await self.look(live)

        await asyncio.gather(*map(one, claims))

    async def look(self, live: LiveClaim) -> None:
        """The fence of a pod that runs was tried, as far as it has a process; the agent is stopped when it does not hold."""
        async with self._turns.at(live.state.claim_uid):
            state = live.state
            if self._claims.get(state.claim_uid) is not live or state.sandbox is None or state.pod_uid is None:
                return
            try:
                namespace = self._processes.open_namespace(state.sandbox)
            except NamespaceGone:
                return  # its next container brings it
            with namespace:
                known = await to_the_end(self._probe(live, namespace, state.pod_uid))
            if known.leaked:
                await to_the_end(self._stop(live, state.pod_uid, known))

    async def before_start(self, live: LiveClaim, namespace: NetworkNamespace, pod_uid: str) -> None:
        """The fence of this namespace was tried and nothing led out: now, or before an earlier container. Raises FenceLeaks, and
        FenceUntried after TRIES probes that could not run."""
        known = live.facts.probe
        if known is not None and known.pod_uid == pod_uid and live.probed_in == namespace.identity and known.tried and not known.leaked:
            return
        trouble: str | None = None
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            known = await self._probe(live, namespace, pod_uid)
            if known.leaked:
                note = _note(known, "no container is started")
                self._tell(live, note)
                raise FenceLeaks(note)
            if known.tried:
                return
            trouble = known.trouble
        raise FenceUntried(f"no container is started in pod {pod_uid}: {trouble}")

    async def _probe(self, live: LiveClaim, namespace: NetworkNamespace, pod_uid: str) -> Probe:
        trouble = None
        try:
            found = await asyncio.to_thread(probe, namespace, self._surroundings())
        except ProbeFailed as error:
            log.error("pod %s/%s: %s", live.state.namespace, live.state.pod_name, error)
            found, trouble = Found(()), str(error)
        outcome = "leaked" if found.leaked else "unclear" if found.unclear or trouble else "held"
        self._metrics.probes.labels(outcome).inc()
        if found.unclear:
            trouble = f"no answer came from {', '.join(found.unclear)}"
        fresh = Probe(
            time=self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            podUID=pod_uid,
            tried=list(found.tried),
            leaked=list(found.leaked),
            trouble=trouble,
        )
        known = self._told(live) or fresh
        same = known.model_copy(update={"time": fresh.time}) == fresh
        if not same or _time(fresh) - _time(known) >= TOLD_AGAIN:
            known = fresh
        live.probed_in = namespace.identity
        self._claims.learn(live, replace(live.facts, probe=known))
        return known

    def _told(self, live: LiveClaim) -> Probe | None:
        """What was last told of the claim: by us, or by the node agent before us."""
        if live.facts.probe is not None:
            return live.facts.probe
        order = self._orders.get(live.state.runtime_uid)
        if order is None or order.status.get("claimUID") != live.state.claim_uid:
            return None
        try:
            return Probe.model_validate(order.status.get("probe"))
        except ValidationError:
            return None  # none, or one of another version

    def _surroundings(self) -> Surroundings:
        return surroundings(self._settings.resolver_files, self._nodes.all(), os.environ)

    async def _stop(self, live: LiveClaim, pod_uid: str, known: Probe) -> None:
        """First the shot, then the words about it."""
        killed = await asyncio.to_thread(kill_pod, pod_uid)
        log.warning("pod %s/%s: %d processes were killed", live.state.namespace, live.state.pod_name, killed)
        self._tell(live, _note(known, "its containers were killed"))

    def _tell(self, live: LiveClaim, note: str) -> None:
        state = live.state
        log.error("%s/%s: %s", state.namespace, state.agent, note)
        agent = Regarding(API_VERSION, "Agent", state.namespace, state.agent, state.agent_uid)
        self._events.record(agent, "Warning", "FenceLeaks", "Probe", note)


def _note(known: Probe, consequence: str) -> str:
    return f"the fence of pod {known.pod_uid} does not hold: {', '.join(known.leaked)} could be reached; {consequence}"


def _time(known: Probe) -> datetime:
    return datetime.fromisoformat(known.time)


def surroundings(resolver_files: Iterable[Path], nodes: Iterable[Object], environment: Mapping[str, str]) -> Surroundings:
    """What there is around this node's pods: resolvers of the files that can be read, the Node's addresses, the API server."""
    resolvers: list[str] = []
    for path in resolver_files:
        with contextlib.suppress(OSError):
            resolvers += resolvers_in(path.read_text(errors="replace"))
    addresses = [
        each["address"] for node in nodes for each in (node.get("status") or {}).get("addresses") or () if each["type"] in _OF_NODE
    ]
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    return Surroundings(tuple(addresses), tuple(resolvers), ((host, int(port)),) if host else ())

"""The prepared claims of this node as this program holds them: state, listeners, and what is known to be true of each."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from aios_api.agent import PlacedGPU
from aios_api.context import AgentContext, ContextFacts
from aios_api.meta import Condition
from aios_sidecar.contracts.agents import AgentIdentity, AgentRecord, Share
from aios_sidecar.contracts.link import ListenerKind
from aios_sidecar.node import conditions, netns
from aios_sidecar.node.conditions import Facts
from aios_sidecar.node.egress import EgressSeen
from aios_sidecar.node.netns import Identity
from aios_sidecar.node.state import ClaimState

Clock = Callable[[], datetime]
USE_WORDS = 3
"""So many words about an Agent's use may follow each other at once: it starts, loads, and is known to have loaded."""


@dataclass
class LiveClaim:
    """One prepared claim. Changed only through `LiveClaims`, which tells whoever listens."""

    state: ClaimState
    facts: Facts = field(default_factory=Facts)
    listeners: dict[ListenerKind, socket.socket] = field(default_factory=dict)
    loopback_in: Identity | None = None
    """The network namespace in which the loopback listener is."""
    probed_in: Identity | None = None
    """The network namespace from which the fence was last tried."""
    conditions: tuple[Condition, ...] = ()
    context: ContextFacts | None = None
    """What the gateway says of its context; None before its first word."""
    egress: EgressSeen | None = None
    """What the gateway says of its way out; None before its first word."""
    used_mib: int | None = None
    """VRAM that the pod uses, as it was last worth telling; None while it is not known."""
    used_told: deque[float] = field(default_factory=lambda: deque(maxlen=USE_WORDS))
    """When it was told, on the event loop's clock."""

    def listens_in(self, namespace: Identity) -> bool:
        """Whether the loopback listener is open in this network namespace."""
        return "loopback" in self.listeners and self.loopback_in == namespace

    def record(self, node_name: str, context: AgentContext | None = None) -> AgentRecord:
        """What the agent may know of itself."""
        state, gpu = self.state, self.state.gpu
        return AgentRecord(
            identity=AgentIdentity(namespace=state.namespace, name=state.agent, uid=state.agent_uid, attempt=state.attempt),
            node=node_name,
            gpu=PlacedGPU(uuid=gpu.uuid, model=gpu.model, memory=gpu.memory) if gpu else None,
            share=Share(memory_bytes=gpu.memory_bytes, gpu_memory_bytes=gpu.gpu_memory_bytes) if gpu else None,
            conditions=self.conditions,
            context=context,
        )


class LiveClaims:
    """All prepared claims by uid. Every change wakes the waiters of `next_change`: the gateway's link and the reporter."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._claims: dict[str, LiveClaim] = {}
        self._changed = asyncio.Event()

    def __iter__(self) -> Iterator[LiveClaim]:
        return iter(list(self._claims.values()))

    def get(self, claim_uid: str) -> LiveClaim | None:
        return self._claims.get(claim_uid)

    def put(self, state: ClaimState) -> LiveClaim:
        """The claim is known with this state; what was known of it beside the state stays."""
        live = self._claims.get(state.claim_uid)
        if live is None:
            live = self._claims[state.claim_uid] = LiveClaim(state)
        live.state = state
        self._refresh(live)
        return live

    def learn(self, live: LiveClaim, facts: Facts) -> None:
        """These facts hold of the claim now."""
        if facts != live.facts:
            live.facts = facts
            self._refresh(live)

    def tell_use(self, live: LiveClaim, used_mib: int | None, at: float) -> None:
        """So much is used of the claim's share; None: it is not known any more."""
        live.used_told.append(at)
        if used_mib != live.used_mib:
            live.used_mib = used_mib
            self._wake()

    def tell_egress(self, live: LiveClaim, egress: EgressSeen) -> None:
        """So the gateway says."""
        if egress != live.egress:
            live.egress = egress
            self._wake()

    def tell_context(self, live: LiveClaim, context: ContextFacts) -> None:
        """So the gateway says."""
        if context != live.context:
            live.context = context
            self._wake()

    def correct(self, live: LiveClaim, known: tuple[Condition, ...]) -> None:
        """The conditions stand since the times that `known` gives, where they say the same."""
        kept = conditions.keep_times(live.conditions, known)
        if kept != live.conditions:
            live.conditions = kept
            self._wake()

    def give(self, live: LiveClaim, kind: ListenerKind, listener: socket.socket) -> None:
        """The claim has this listener; one that it replaces is closed on our side."""
        replaced = live.listeners.pop(kind, None)
        live.listeners[kind] = listener
        if replaced is not None:
            replaced.close()
        self._wake()

    def adopt(self, claim_uid: str, listeners: Mapping[ListenerKind, socket.socket]) -> None:
        """Listeners that the gateway kept: those that we lack are ours again, the others are closed on our side."""
        live = self._claims.get(claim_uid)
        for kind, listener in listeners.items():
            if live is None or kind in live.listeners:
                listener.close()
            else:
                self.give(live, kind, listener)
                if kind == "loopback":  # it was the gateway that held the port
                    live.loopback_in = netns.of_socket(listener)  # of this sandbox of the pod, or of one before it
                    self.learn(live, replace(live.facts, port_message=""))

    def drop(self, claim_uid: str) -> None:
        """The claim is not known any more; its listeners are closed on our side."""
        live = self._claims.pop(claim_uid, None)
        if live is not None:
            for listener in live.listeners.values():
                listener.close()
            self._wake()

    def next_change(self) -> asyncio.Event:
        """Set by the next change from now on. Take it before looking, wait for it afterwards: then nothing is missed."""
        return self._changed

    def _refresh(self, live: LiveClaim) -> None:
        live.conditions = conditions.of(live.state, live.facts, live.conditions, self._clock())
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

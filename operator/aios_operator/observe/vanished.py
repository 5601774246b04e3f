"""Pods that went from the API without their kubelet's word that they ended: removed by force, they may run on where nobody is in touch.

A kubelet says how a pod ended before it lets it go. Where that was not seen, the node's agent must be heard twice afterwards: before the
second time it has heard the orders that stood at the first. What is remembered here goes with the process; what it led to stands in the
Agent's status, and so does that there was a pod: one that is not there when a process begins went without having been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aios_operator.decide import attempts, lost
from aios_operator.decide.lost import Leaving
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import Key, PodView

RENEWALS = 2
KEPT = 4
"""So many renewals are a minute: by then the Agent has been planned from it."""


@dataclass(slots=True)
class _Trace:
    agent_uid: str
    left: Leaving
    version: str
    """Of its node's Lease, as it was read last."""
    renewals: int = 0


@dataclass
class Vanished:
    """By Agent, what vanished and what is known to have ended since."""

    _traces: dict[Key, dict[int, _Trace]] = field(default_factory=dict)

    def removed(self, pod: PodView, version: Callable[[str], str]) -> None:
        """The pod is gone. `version` tells the Lease of a node, as it was read last."""
        if pod.node_name is not None and not lost.has_ended(pod):
            left = Leaving(pod.node_name, pod.attempt)
            self._traces.setdefault(pod.agent, {})[pod.attempt] = _Trace(pod.agent_uid, left, version(pod.node_name))

    def unseen(self, known: Iterable[AgentState], version: Callable[[str], str]) -> set[Key]:
        """This process begins, and sees no pod where one was: how that went nobody knows. Returns of whom."""
        left = {(state.key, state.agent.uid): left for state in known if state.agent is not None and (left := attempts.went_unseen(state))}
        for (key, agent_uid), each in left.items():
            self._traces.setdefault(key, {})[each.attempt] = _Trace(agent_uid, each, version(each.node))
        return {key for key, _ in left}

    def followed(self, pod: PodView) -> None:
        """A pod of a later attempt is there: those before were waited for, and what may speak still stands in the Agent's status."""
        traces = self._traces.get(pod.agent, {})
        for attempt in [attempt for attempt in traces if attempt < pod.attempt]:
            del traces[attempt]

    def heard(self, version: Callable[[str], str]) -> set[Key]:
        """Leases were read; of whom more is known now. One that is gone, or was not known before, is no renewal."""
        changed = set()
        for key, traces in list(self._traces.items()):
            for attempt, trace in list(traces.items()):
                before, now = trace.version, version(trace.left.node)
                trace.version = now or before
                if before and now and now != before:
                    trace.renewals += 1
                    changed.add(key)
                    if trace.renewals > KEPT:
                        del traces[attempt]
            if not traces:
                del self._traces[key]
        return changed

    def unconfirmed(self, key: Key, agent_uid: str) -> tuple[Leaving, ...]:
        """The attempts that may run on."""
        return tuple(trace.left for trace in self._of(key, agent_uid) if trace.renewals < RENEWALS)

    def confirmed(self, key: Key, agent_uid: str) -> frozenset[int]:
        """The attempts that vanished and of which the node knows that they are over."""
        return frozenset(trace.left.attempt for trace in self._of(key, agent_uid) if trace.renewals >= RENEWALS)

    def nodes(self, key: Key) -> set[str]:
        return {trace.left.node for trace in self._traces.get(key, {}).values()}

    def forget(self, key: Key) -> None:
        self._traces.pop(key, None)

    def _of(self, key: Key, agent_uid: str) -> Iterable[_Trace]:
        return [trace for trace in self._traces.get(key, {}).values() if trace.agent_uid == agent_uid]

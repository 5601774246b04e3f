"""How long an Agent may run: which run is counted, since when, and when it is over.

A run begins when the first pod of a spec is bound to its node, and goes on over crashes, failures and lost places, waits between two
attempts included. It ends when the Agent is stopped, or when an attempt of a changed template, share or restart policy takes over. Its
beginning stands in the Agent's status, so that an operator that is restarted goes on counting where the former one was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aios_operator.decide.views import AgentView, PodView, RuntimeView


@dataclass(frozen=True, slots=True)
class Run:
    """The present run: of the spec with that digest, since `start`."""

    start: datetime
    digest: str


def run(agent: AgentView, standing: RuntimeView | None, pod: PodView | None, now: datetime) -> Run | None:
    """The run that is counted; None before the first pod is bound, and while the Agent is stopped. `standing` is its open order."""
    if not agent.running:
        return None
    digest = standing.digest if standing is not None else agent.digest
    written = agent.status.get("run") or {}
    if written.get("templateDigest") == digest:
        return Run(min(datetime.fromisoformat(written["startTime"]), now), digest)  # one in the future was written by a wrong clock
    if standing is None or pod is None or pod.node_name is None:
        return None
    return Run(min(pod.bound_since or now, now), digest)


def end(agent: AgentView, counted: Run | None) -> datetime | None:
    """When the run is over; None when it may go on for ever, or has not begun."""
    if counted is None or agent.active_deadline_seconds is None:
        return None
    return counted.start + timedelta(seconds=agent.active_deadline_seconds)

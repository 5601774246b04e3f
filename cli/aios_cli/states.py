"""How an Agent is, in one word: what `top` sorts and colours by, and what the exit code of `explain` follows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from aios_api.reasons import ConditionType, Reason
from aios_operator.observe.parse import time

Raw = Mapping[str, Any]

FINE, ATTENTION, ON_ITS_WAY = 0, 1, 3
"""Exit codes; 2 is click's, for a wrong command line."""


class State(Enum):
    """The order is that in which a person on call wants to see them."""

    exit_code: int
    style: str

    def __new__(cls, word: str, exit_code: int, style: str) -> State:
        state = object.__new__(cls)
        state._value_ = word
        state.exit_code, state.style = exit_code, style
        return state

    FAILED = "failed", ATTENTION, "bold red"
    REFUSED = "refused", ATTENTION, "bold red"
    FAILING = "failing", ATTENTION, "bold red"
    BACK_OFF = "back-off", ATTENTION, "red"
    UNSEEN = "unseen", ON_ITS_WAY, "magenta"
    WAITING = "waits", ON_ITS_WAY, "yellow"
    STARTING = "starting", ON_ITS_WAY, "cyan"
    STOPPING = "stopping", ON_ITS_WAY, "cyan"
    DELETING = "deleting", ON_ITS_WAY, "cyan"
    READY = "ready", FINE, "green"
    COMPLETED = "completed", FINE, "bright_black"
    STOPPED = "stopped", FINE, "bright_black"


_FAILING = {
    Reason.ImagePull,
    Reason.ContainerWaiting,
    Reason.PrepareFailed,
    Reason.FenceFailed,
    Reason.FenceLeaks,
    Reason.PortTaken,
    Reason.Forbidden,
    Reason.NodeSilent,
}


@dataclass(frozen=True, slots=True)
class Standing:
    """A state, and why: `reason` and `message` as the operator wrote them."""

    state: State
    reason: str
    message: str
    since: datetime | None
    smallest_change: str = ""


def condition(raw: Raw, kind: str) -> Raw:
    """The condition of that type, or an empty one."""
    return next((c for c in (raw.get("status") or {}).get("conditions") or () if c["type"] == kind), {})


def restarts(pod: Raw) -> int:
    """How often the kubelet has restarted containers in that pod."""
    return sum(each.get("restartCount", 0) for each in (pod.get("status") or {}).get("containerStatuses") or ())


def standing(agent: Raw, restarts: int = 0) -> Standing:
    """How the Agent is, by what its metadata and status say. One that was restarted and is not ready is failing, not starting."""
    metadata, spec, status = agent["metadata"], agent.get("spec") or {}, agent.get("status") or {}
    placed, ready = condition(agent, ConditionType.Placed), condition(agent, ConditionType.Ready)
    completed, stalled = condition(agent, ConditionType.Completed), condition(agent, ConditionType.Stalled)
    pending = status.get("pending")
    if metadata.get("deletionTimestamp"):
        return Standing(State.DELETING, Reason.Deleting, Reason.Deleting.sentence, time(metadata["deletionTimestamp"]))
    if not status.get("conditions"):
        return Standing(State.UNSEEN, "", "the operator has not spoken of it yet", time(metadata["creationTimestamp"]))
    if completed.get("status") == "True":
        return _by(State.FAILED if completed["reason"] == Reason.Failed else State.COMPLETED, completed)
    if stalled.get("status") == "True":
        return _by(State.REFUSED, stalled)
    if (over := condition(agent, ConditionType.DeadlineExceeded)).get("status") == "True":
        return _by(State.STOPPED, over)
    if spec.get("operatingMode") == "Stopped":
        return _by(State.STOPPED if placed.get("reason") == Reason.Stopped else State.STOPPING, placed)
    if ready.get("status") == "True":
        return _by(State.READY, ready)
    if pending:
        return Standing(State.WAITING, pending["reason"], pending["message"], time(pending["since"]), pending["smallestChange"])
    if placed.get("reason") == Reason.BackOff:
        return _by(State.BACK_OFF, placed)
    return _by(State.FAILING if restarts or ready.get("reason") in _FAILING else State.STARTING, ready)


def _by(state: State, said: Raw) -> Standing:
    since = time(said["lastTransitionTime"]) if said.get("lastTransitionTime") else None
    return Standing(state, said.get("reason", ""), said.get("message", ""), since)


def age(since: datetime | None, now: datetime) -> str:
    """`12 s`, `5 min`, `3 h`, `2 d`: as much as one takes in at a glance."""
    if since is None:
        return ""
    seconds = max(0, int((now - since).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"

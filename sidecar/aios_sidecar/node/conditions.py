"""What the node says of a claim: `Prepared`, `Fenced`, `EgressFenced`, `Listening`, with VRAM also `EnforcementVerified` and `WithinShare`.

Pure; each condition is one function.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from aios_api.meta import Condition
from aios_api.reasons import ConditionType, Reason
from aios_api.runtime import Probe
from aios_sidecar.contracts.link import ListenerKind
from aios_sidecar.node.state import ClaimState, Opening

ALL_LISTENERS: frozenset[ListenerKind] = frozenset(("socket", "loopback"))
Word = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Facts:
    """What this program has seen of a claim since it started."""

    fenced: bool | None = None
    """Whether the fence was read back in the pod's network namespace; None before a container asked, or without a namespace."""
    fence_message: str = ""
    openings: frozenset[Opening] | None = None
    """The ports on which the fence is open; None before it was read back."""
    probe: Probe | None = None
    """What trying the fence from inside has last found that is worth telling."""
    port_message: str = ""
    """Why the loopback listener can't be opened; empty when it can."""
    serving: frozenset[ListenerKind] = frozenset()
    """The listeners that the gateway says it serves."""
    watched: bool | None = None
    """Whether the use of the pod's GPU is being read; None before the first word about it."""
    watch_message: str = ""
    """What was read and when, or why nothing can be."""


def of(state: ClaimState, facts: Facts, known: Iterable[Condition], now: datetime) -> tuple[Condition, ...]:
    """The conditions; one that says what `known` says keeps its time."""
    found: tuple[Condition, ...] = (
        prepared(state, now),
        fenced(facts, now),
        listening(state, facts, now),
        egress_fenced(facts, now),
    )
    if state.gpu is not None:
        found += (enforcement_verified(state, facts, now), within_share(state, facts, now))
    return keep_times(found, known)


def failed(message: str, now: datetime) -> tuple[Condition, ...]:
    """The conditions of a claim that could not be prepared."""
    return _unprepared(Reason.PrepareFailed, message, now)


def waiting_for_context(message: str, now: datetime) -> tuple[Condition, ...]:
    """The conditions of a claim that is prepared when the agent's context is here."""
    return _unprepared(Reason.ContextOnItsWay, message, now)


def _unprepared(reason: Reason, message: str, now: datetime) -> tuple[Condition, ...]:
    waiting = "the claim is not prepared"
    return (
        _condition(ConditionType.Prepared, "False", reason, message, now),
        _condition(ConditionType.Fenced, "False", Reason.WaitingForContainer, waiting, now),
        _condition(ConditionType.Listening, "False", Reason.WaitingForContainer, waiting, now),
    )


def prepared(state: ClaimState, now: datetime) -> Condition:
    gpu = state.gpu
    share = f"{gpu.memory} of {'fake ' if gpu.fake else ''}GPU {gpu.uuid}" if gpu else "no GPU"
    return _condition(ConditionType.Prepared, "True", Reason.Prepared, f"claim {state.claim_name} is prepared: a slot, {share}", now)


def fenced(facts: Facts, now: datetime) -> Condition:
    if facts.fenced is None:
        return _condition(ConditionType.Fenced, "Unknown", Reason.WaitingForContainer, Reason.WaitingForContainer.sentence, now)
    if facts.fenced:
        return _condition(ConditionType.Fenced, "True", Reason.Fenced, Reason.Fenced.sentence, now)
    return _condition(ConditionType.Fenced, "False", Reason.FenceFailed, facts.fence_message, now)


def egress_fenced(facts: Facts, now: datetime) -> Condition:
    """Proven from inside, or not: a probe that could not tell is no proof."""
    kind, probe = ConditionType.EgressFenced, facts.probe
    if probe is None:
        return _condition(kind, "Unknown", Reason.WaitingForContainer, Reason.WaitingForContainer.sentence, now)
    tried = f"{len(probe.tried)} ways out of pod {probe.pod_uid} were tried from inside at {probe.time}"
    if probe.leaked:
        return _condition(kind, "False", Reason.FenceLeaks, f"{tried}, and these led out: {', '.join(probe.leaked)}", now)
    if probe.trouble is not None:
        return _condition(kind, "Unknown", Reason.ProbeUnclear, f"{tried}: {probe.trouble}", now)
    to = ", ".join(dict.fromkeys(way.partition(" ")[0] for way in probe.tried))
    return _condition(kind, "True", Reason.Fenced, f"{tried}, and none led out (to {to}); the AgentRuntime's status.probe names each", now)


def listening(state: ClaimState, facts: Facts, now: datetime) -> Condition:
    if state.pod_uid is None:
        return _condition(ConditionType.Listening, "False", Reason.WaitingForContainer, Reason.WaitingForContainer.sentence, now)
    if facts.port_message:
        return _condition(ConditionType.Listening, "False", Reason.PortTaken, facts.port_message, now)
    if facts.serving != ALL_LISTENERS:
        return _condition(ConditionType.Listening, "False", Reason.GatewayAbsent, Reason.GatewayAbsent.sentence, now)
    return _condition(ConditionType.Listening, "True", Reason.Listening, Reason.Listening.sentence, now)


def _enforcement(state: ClaimState, facts: Facts) -> tuple[Word, Reason, str]:
    if state.pod_uid is None:
        return "Unknown", Reason.WaitingForContainer, Reason.WaitingForContainer.sentence
    if facts.watched is None:
        return "Unknown", Reason.WaitingForReading, Reason.WaitingForReading.sentence
    return ("True", Reason.Watched, facts.watch_message) if facts.watched else ("False", Reason.CannotMonitor, facts.watch_message)


def enforcement_verified(state: ClaimState, facts: Facts, now: datetime) -> Condition:
    return _condition(ConditionType.EnforcementVerified, *_enforcement(state, facts), now)


def within_share(state: ClaimState, facts: Facts, now: datetime) -> Condition:
    """Of the attempt as a whole: an excess is not forgotten when a container starts again."""
    if state.excess is not None:
        return _condition(ConditionType.WithinShare, "False", Reason.ShareExceeded, state.excess, now)
    status, reason, message = _enforcement(state, facts)
    if status != "True":
        return _condition(ConditionType.WithinShare, "Unknown", reason, message, now)
    return _condition(ConditionType.WithinShare, "True", Reason.WithinShare, Reason.WithinShare.sentence, now)


def keep_times(found: Iterable[Condition], known: Iterable[Condition]) -> tuple[Condition, ...]:
    """`found`, where a condition whose status is that in `known` has stood since then."""
    since = {(condition.type, condition.status): condition.last_transition_time for condition in known}
    return tuple(
        condition.model_copy(update={"last_transition_time": since.get((condition.type, condition.status), condition.last_transition_time)})
        for condition in found
    )


def _condition(kind: ConditionType, status: Word, reason: Reason, message: str, now: datetime) -> Condition:
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Condition(type=str(kind), status=status, reason=str(reason), message=message, lastTransitionTime=time)

"""What has become of an Agent's current attempt: the facts, sorted once, from which actions and conditions follow.

An order is *open* while its attempt may still run. It is closed by the Agent's status: `attempt` is the order's and `Placed` is not
True. Status is written before anything is made for an order and before anything of it is removed, so a crash between any two
writes leads to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import deadline, health
from aios_operator.decide.objects import order_name
from aios_operator.decide.views import AgentState, AgentView, ClaimView, PodView, RuntimeView

SCHEDULER_PATIENCE = timedelta(seconds=5)
"""How long kube-scheduler may say Unschedulable before the place counts as refused: it may be waiting for another pod to end."""
BACKOFF_FIRST = timedelta(seconds=10)
BACKOFF_MOST = timedelta(minutes=5)
"""As the kubelet's own back-off for containers."""
BACKOFF_UNCHARGED = timedelta(seconds=10)
"""After an attempt that failed through no fault of the Agent's."""
FORGIVEN_AFTER = timedelta(minutes=10)
"""Ready for so long, and former failures no longer count."""

_AT_ONCE = {
    Reason.ClaimVanished,
    Reason.DeadlineExceeded,
    Reason.GPUUnhealthy,
    Reason.NameTaken,
    Reason.Replaced,
    Reason.SchedulerRefused,
    Reason.Stopped,
}
_CHARGED = {Reason.PodFailed, Reason.Evicted}
_AT_ONCE_THE_FIRST_TIME = {Reason.PodVanished, Reason.Displaced}
"""Once it is somebody's hand or a drained node; in a row it is something that does it each time."""
_BY_DEVICE_TAINT = "DeletionByDeviceTaintManager"
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "it was evicted through the API, as a drain of its node does",
    "DeletionByTaintManager": "its node has a taint that it does not tolerate",
    "DeletionByPodGC": "its node is gone or out of service",
    "PreemptionByScheduler": "kube-scheduler made room for a pod of higher priority",
    "TerminationByKubelet": "its node was shut down or needed room for a critical pod",
}
"""Reasons of the pod condition DisruptionTarget."""
_EVICTED = "Evicted"
"""The kubelet's word in the status of a pod that it evicted."""
_START_ERRORS = {"StartError", "RunContainerError", "CreateContainerError", "ContainerCannotRun"}


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an open order ends. `final`: no further attempt of the same spec follows. `charged`: it counts for the back-off."""

    reason: Reason
    message: str
    final: bool = False
    charged: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """One Agent that is not being deleted, its order, and what exists for it."""

    agent: AgentView
    state: AgentState
    order: RuntimeView | None
    pod: PodView | None
    claim: ClaimView | None
    stale_pods: tuple[PodView, ...]
    stale_claims: tuple[ClaimView, ...]
    ending: Ending | None
    open: bool
    """The order may run: not closed in status, not ending now."""
    refused: str | None
    """What the API server said against the template of this generation."""
    final: bool
    """The Agent came to an end of its own, and was neither changed nor stopped since."""
    retry_at: datetime | None
    """While the Agent is in its back-off: when that ends."""
    run: deadline.Run | None
    run_ends: datetime | None
    """By spec.activeDeadlineSeconds; it may have passed."""
    expired: bool
    """The run of the present spec is over by its deadline."""

    @property
    def outdated(self) -> bool:
        """The open order is for a spec that has changed since."""
        return self.order is not None and self.order.digest != self.agent.digest

    @property
    def wanted(self) -> bool:
        """The user wants it to run, and it can be tried."""
        return self.agent.running and self.agent.spec_error is None and self.refused is None and not self.final and not self.expired

    @property
    def needs_place(self) -> bool:
        """A next attempt is due. How the one before ended is written down first."""
        due = (not self.open or self.outdated) and self.ending is None
        return self.wanted and due and self.retry_at is None and not self.blocked

    @property
    def forbidden(self) -> str | None:
        """Why the API server does not let claim or pod of this order be made for now."""
        return _create_refused(self.state, self.order, Reason.Forbidden)

    @property
    def blocked(self) -> bool:
        """An order of an earlier Agent of the same name is still there; garbage collection removes it."""
        return self.state.runtime is not None and self.order is None

    @property
    def reserved(self) -> bool:
        """The Agent keeps its part of the quota: its order is open, or another attempt follows it."""
        return self.order is not None and (self.open or (self.wanted and holds_quota(self.agent.status, self.order)))

    @property
    def recorded(self) -> bool:
        """The order stands in the Agent's status, so that claim and pod may be made."""
        return self.order is not None and _is_recorded(self.agent.status, self.order)


def situation(state: AgentState, agent: AgentView, now: datetime) -> Situation:
    order = state.runtime
    if order is not None and (order.agent_uid != agent.uid or order.deleting):
        order = None
    attempt = order.attempt if order is not None else None
    pods = [pod for pod in state.pods if pod.agent_uid == agent.uid]
    pod = next((p for p in pods if p.attempt == attempt), None)
    claim = next((c for c in state.claims if c.agent_uid == agent.uid and c.attempt == attempt), None)
    refused = _refused(state, agent)
    closed = order is None or _is_closed(agent.status, order)
    run = deadline.run(agent, None if closed else order, pod, now)
    run_ends = deadline.end(agent, run)
    over = run_ends is not None and now >= run_ends
    ending = _ending(state, agent, order, pod, claim, now, over) if order is not None and not closed else None
    final = (
        order is not None
        and agent.running
        and order.digest == agent.digest
        and (_is_final(agent.status, order) if closed else bool(ending and ending.final))
    )
    is_open = not closed and ending is None
    return Situation(
        agent=agent,
        state=state,
        order=order,
        pod=pod,
        claim=claim,
        stale_pods=tuple(p for p in state.pods if p is not pod),
        stale_claims=tuple(c for c in state.claims if c is not claim),
        ending=ending,
        open=is_open,
        refused=refused,
        final=final,
        retry_at=None if is_open or final else _retry_at(agent, order, ending, now),
        run=run,
        run_ends=run_ends,
        expired=over and not final and run is not None and run.digest == agent.digest,
    )


def failed_attempts(s: Situation) -> int:
    """In a row, with the one that ends now. A changed spec begins anew."""
    before = 0 if s.outdated else int(s.agent.status.get("failedAttempts") or 0)
    return before + 1 if s.ending is not None and s.ending.charged else before


def backoff(failed: int) -> timedelta:
    """10 s, doubling with each failure in a row, at most 5 min."""
    doublings = min(max(failed - 1, 0), 10)
    return min(BACKOFF_MOST, BACKOFF_FIRST * (1 << doublings))


def condition(status: Mapping[str, Any], kind: ConditionType) -> Mapping[str, Any]:
    """The condition of that type as last written; empty when there is none."""
    return next((c for c in status.get("conditions") or () if c["type"] == kind), {})


def holds_quota(status: Mapping[str, Any], order: RuntimeView) -> bool:
    """What `order` asks for is reserved: from the moment in which it is given until a status says otherwise. Only what is written counts:
    a spec that is changed there and back within a moment can't take what was given to another meanwhile."""
    return not _is_closed(status, order) or condition(status, ConditionType.QuotaReserved).get("status") == "True"


def _is_recorded(status: Mapping[str, Any], order: RuntimeView) -> bool:
    return status.get("attempt") == order.attempt and condition(status, ConditionType.Placed).get("status") == "True"


def _is_closed(status: Mapping[str, Any], order: RuntimeView) -> bool:
    written = int(status.get("attempt") or 0)
    return written > order.attempt or (written == order.attempt and not _is_recorded(status, order))


def _is_final(status: Mapping[str, Any], order: RuntimeView) -> bool:
    return status.get("attempt") == order.attempt and condition(status, ConditionType.Completed).get("status") == "True"


def _refused(state: AgentState, agent: AgentView) -> str | None:
    """What was said just now, or what the status remembers of this generation, so that a restart does not try it again."""
    if state.template_refused is not None and state.template_refused[0] == agent.digest:
        return state.template_refused[1]
    written = condition(agent.status, ConditionType.Accepted)
    if written.get("reason") == Reason.TemplateRefused and written.get("observedGeneration") == agent.generation:
        return str(written["message"])
    return None


def _create_refused(state: AgentState, order: RuntimeView | None, reason: Reason) -> str | None:
    """What the API server said against creating claim or pod of this order, if it was for that reason."""
    said = state.order_refused
    return said.message if said is not None and order is not None and said.attempt == order.attempt and said.reason == reason else None


def _ending(
    state: AgentState, agent: AgentView, order: RuntimeView, pod: PodView | None, claim: ClaimView | None, now: datetime, over: bool
) -> Ending | None:
    """`over`: by its deadline."""
    if not agent.running:
        return Ending(Reason.Stopped, "spec.operatingMode is Stopped")
    refused = _refused(state, agent)
    if refused is not None and order.digest == agent.digest:
        return Ending(Reason.TemplateRefused, refused)
    if (taken := _create_refused(state, order, Reason.NameTaken)) is not None:
        return Ending(Reason.NameTaken, taken)
    ended = _by_itself(agent, pod) if pod is not None else None
    if over and not (ended is not None and ended.final):
        return Ending(Reason.DeadlineExceeded, f"ran for spec.activeDeadlineSeconds, {agent.active_deadline_seconds} s")
    if (unhealthy := _unhealthy(state, order, pod)) is not None:
        return unhealthy
    if pod is None:
        return _without_pod(agent, order)
    if pod.disruption is not None and (pod.deleting or pod.phase == "Failed") and pod.reason != _EVICTED:
        return _displaced(order, pod, *pod.disruption)
    if pod.deleting:
        return Ending(Reason.PodVanished, f"pod {pod.name} is being deleted, and not by the operator", charged=True)
    if ended is not None:
        return ended
    if claim is None:
        return Ending(Reason.ClaimVanished, f"claim {order_name(order)} was deleted, and not by the operator: nothing is booked any more")
    since = pod.unschedulable_since
    if pod.node_name is None and since is not None and now - since >= SCHEDULER_PATIENCE:
        return Ending(
            Reason.SchedulerRefused, f"kube-scheduler did not bind pod {pod.name} on {order.node_name}: {pod.unschedulable_message}"
        )
    return None


def _without_pod(agent: AgentView, order: RuntimeView) -> Ending | None:
    if agent.status.get("attempt") == order.attempt and agent.status.get("podName") == order_name(order):
        return Ending(Reason.PodVanished, f"pod {order_name(order)} was deleted, and not by the operator", charged=True)
    if order.digest != agent.digest:  # its pod can't be made any more: the template it is for is gone
        return Ending(Reason.Replaced, "the spec changed before the pod was made")
    return None


def _unhealthy(state: AgentState, order: RuntimeView, pod: PodView | None) -> Ending | None:
    """The GPU lets nobody stay, or, before the pod is bound, nobody come."""
    bound = pod is not None and pod.node_name is not None
    taints = health.ending(state.gpu_taints) if bound else health.closing(state.gpu_taints)
    if not taints or order.gpu is None:
        return None
    return Ending(Reason.GPUUnhealthy, f"GPU {order.gpu.uuid} on {order.node_name} {health.why(taints)}")


def _displaced(order: RuntimeView, pod: PodView, reason: str, message: str) -> Ending:
    """Not the Agent's fault; charged all the same, so that what takes its pod each time does not make a loop without a pause."""
    if reason == _BY_DEVICE_TAINT and order.gpu is not None:
        return Ending(Reason.GPUUnhealthy, f"GPU {order.gpu.uuid} on {order.node_name} lets nobody stay: {message}")
    said = _DISRUPTIONS.get(reason) or ": ".join(filter(None, (reason, message)))
    return Ending(Reason.Displaced, f"pod {pod.name} was taken away from {order.node_name}: {said}", charged=True)


def _by_itself(agent: AgentView, pod: PodView) -> Ending | None:
    """How a pod ended that nobody took away."""
    taken = pod.disruption is not None and pod.reason != _EVICTED
    if pod.deleting or pod.phase not in ("Succeeded", "Failed") or (taken and pod.phase == "Failed"):
        return None
    if pod.phase == "Failed":
        return _failure(agent, pod)
    if agent.restart_policy == "Always":
        return Ending(Reason.PodFailed, f"pod {pod.name} ended, though it is to run always", charged=True)
    return Ending(Reason.Completed, "every container ended with exit code 0", final=True)


def _failure(agent: AgentView, pod: PodView) -> Ending:
    """An agent that ended by itself may end for good; what the node or the cluster did to it is followed by another attempt."""
    if pod.reason == _EVICTED:
        return Ending(Reason.Evicted, pod.message or "the pod was evicted", charged=True)
    ended = pod.ended
    if ended is None:
        return Ending(Reason.StartFailed, pod.message or pod.reason or f"pod {pod.name} failed before any of its containers ran")
    said = ended.message or ended.reason
    if ended.reason in _START_ERRORS:
        return Ending(Reason.StartFailed, f"container {ended.container} could not be started: {said}")
    message = f"container {ended.container} ended with exit code {ended.exit_code}" + (f": {said}" if said else "")
    if agent.restart_policy == "Never":
        return Ending(Reason.Failed, message, final=True)
    return Ending(Reason.PodFailed, message, charged=True)


def _retry_at(agent: AgentView, order: RuntimeView | None, ending: Ending | None, now: datetime) -> datetime | None:
    """When the next attempt may begin, if that is not now."""
    if order is None or order.digest != agent.digest:
        return None
    if ending is not None:
        failed = int(agent.status.get("failedAttempts") or 0) + (1 if ending.charged else 0)
        at = now + _delay(ending.reason, failed)
    else:
        last = agent.status.get("lastFailure") or {}
        if last.get("attempt") != order.attempt:
            return None
        at = datetime.fromisoformat(last["time"]) + _delay(last["reason"], int(agent.status.get("failedAttempts") or 0))
    return at if at > now else None


def _delay(reason: str, failed: int) -> timedelta:
    if reason in _CHARGED:
        return backoff(failed)
    if reason in _AT_ONCE_THE_FIRST_TIME:
        return backoff(failed - 1) if failed > 1 else timedelta(0)
    return timedelta(0) if reason in _AT_ONCE else BACKOFF_UNCHARGED

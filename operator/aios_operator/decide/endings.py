"""Why an attempt ends: what became of its pod, its claim, its GPU and its node, and what the user and the API server said.

`find` asks one question after the other; the first that has an answer says why the order is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aios_api.reasons import Reason
from aios_operator.decide import health, lost
from aios_operator.decide.objects import order_name
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import AgentView, ClaimView, PodView, RuntimeView

SCHEDULER_PATIENCE = timedelta(seconds=5)
"""How long kube-scheduler may say Unschedulable before the place counts as refused: it may be waiting for another pod to end. What it said
so far in the future was said by a clock that disagrees with ours, and may be as old."""
_BY_DEVICE_TAINT = "DeletionByDeviceTaintManager"
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "it was evicted through the API, as a drain of its node does",
    "DeletionByTaintManager": "its node has a taint that it does not tolerate",
    lost.BY_POD_GC: "its node is gone or out of service",
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


def find(
    state: AgentState,
    agent: AgentView,
    order: RuntimeView,
    pod: PodView | None,
    claim: ClaimView | None,
    now: datetime,
    *,
    refused: str | None,
    over: bool,
) -> Ending | None:
    """Why the open `order` ends; None while it goes on. `refused`: what the API server said against its template; `over`: by a deadline."""
    if not agent.running:
        return Ending(Reason.Stopped, "spec.operatingMode is Stopped")
    if refused is not None and order.digest == agent.digest:
        return Ending(Reason.TemplateRefused, refused)
    if (taken := order_refusal(state, order, Reason.NameTaken)) is not None:
        return Ending(Reason.NameTaken, taken)
    ended = _by_itself(agent, pod) if pod is not None else None
    if ended is not None and ended.reason == Reason.Completed:
        return ended
    if over and not (ended is not None and ended.final):
        return Ending(Reason.DeadlineExceeded, f"ran for spec.activeDeadlineSeconds, {agent.active_deadline_seconds} s")
    if (unhealthy := _unhealthy(state, order, pod)) is not None:
        return unhealthy
    vanished = pod is None and had_pod(agent, order)
    if (loss := lost.loss(state.nodes.get(order.node_name))) is not None and (vanished or _may_run(pod)):
        return Ending(Reason.NodeLost, loss)
    if pod is None:
        return _without_pod(agent, order, vanished)
    if pod.disruption is not None and (pod.deleting or pod.phase == "Failed") and pod.reason != _EVICTED:
        return _displaced(order, pod, *pod.disruption)
    if pod.deleting:
        return Ending(Reason.PodVanished, f"pod {pod.name} is being deleted, and not by the operator", charged=True)
    if ended is not None:
        return ended
    if claim is None:
        return Ending(Reason.ClaimVanished, f"claim {order_name(order)} was deleted, and not by the operator: nothing is booked any more")
    since = pod.unschedulable_since
    if pod.node_name is None and since is not None and abs(now - since) >= SCHEDULER_PATIENCE:
        return Ending(
            Reason.SchedulerRefused, f"kube-scheduler did not bind pod {pod.name} on {order.node_name}: {pod.unschedulable_message}"
        )
    return None


def had_pod(agent: AgentView, order: RuntimeView) -> bool:
    """The status says so: a pod of this order was there."""
    return bool(agent.status.get("attempt") == order.attempt and agent.status.get("podName") == order_name(order))


def _may_run(pod: PodView | None) -> bool:
    """It is on its node, and nobody said how it ended."""
    return pod is not None and pod.node_name is not None and not lost.has_ended(pod)


def _without_pod(agent: AgentView, order: RuntimeView, vanished: bool) -> Ending | None:
    if vanished:
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


def order_refusal(state: AgentState, order: RuntimeView | None, reason: Reason) -> str | None:
    """What the API server said against creating claim or pod of this order, if it was for that reason."""
    said = state.order_refused
    return said.message if said is not None and order is not None and said.attempt == order.attempt and said.reason == reason else None

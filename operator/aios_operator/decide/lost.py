"""Nodes out of touch: when one is lost, and when no agent of it can speak any more.

A node's gateway answers nobody once its node agent has had no fresh orders for the mute time, and an agent that renews its Lease is given
fresh orders only after it has heard those that stand. From this follows when an identity can't speak from its old place:

- the node's Lease was not renewed for longer than the mute time, as a read shows that began after the next order stood; or
- the next order has stood for longer than the mute time: whoever was heard meanwhile knows it, and who was not is mute; or
- the next order is for the same node, which has spoken of it: who knows the next order knows that the last one is over.

Silence is a length of time by our own clock, up to the last read that succeeded: what can't be read is no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from aios_operator.decide.views import AgentView, NodeSight, NodeView, PodView, RuntimeView

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""The taint by which an administrator says that a node is shut down and will not come back as it was."""
BY_POD_GC = "DeletionByPodGC"
"""Reason of a pod's condition DisruptionTarget: its phase was written without its node."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """An attempt before, which may still speak from its node."""

    node: str
    attempt: int


def out_of_service(node: NodeView) -> bool:
    return any(taint.key == OUT_OF_SERVICE for taint in node.taints)


def trouble(node: NodeView | None) -> str | None:
    """What the API says against a node (None: there is none of that name); None when it is as it should be."""
    if node is None:
        return "was deleted"
    if out_of_service(node):
        return f"is out of service (taint {OUT_OF_SERVICE})"
    return None if node.ready else "is not ready"


def loss(sight: NodeSight | None) -> str | None:
    """Why the node is lost; None while it is not, and while nothing is known of it."""
    if sight is None or (against := trouble(sight.view)) is None:
        return None
    if sight.view is None or out_of_service(sight.view):
        return f"node {sight.name} {against}"
    if sight.silent < sight.lost_after:
        return None
    return f"node {sight.name} {against}, and its node agent was not heard for {sight.lost_after.total_seconds():.0f} s"


def beyond_reach(sight: NodeSight | None) -> bool:
    """The node is lost and must be mute: its kubelet will not end a pod, so that the pod is removed without it."""
    return sight is not None and loss(sight) is not None and sight.silent >= sight.lost_after


def written(agent: AgentView) -> Leaving | None:
    """What the Agent's status remembers."""
    known = agent.status.get("leaving")
    return Leaving(known["nodeName"], known["attempt"]) if known else None


def nodes_of(agent: AgentView | None, order: RuntimeView | None, pods: Iterable[PodView]) -> set[str]:
    """Where an Agent is, was, or is to be."""
    former = written(agent) if agent is not None else None
    ordered = [order.node_name] if order is not None else []
    if order is not None and order.context_from is not None and not order.context_here:
        ordered.append(order.context_from["nodeName"])
    return {*ordered, *([former.node] if former else []), *(pod.node_name for pod in pods if pod.node_name is not None)}


def leaving(
    nodes: Mapping[str, NodeSight], order: RuntimeView | None, stood: timedelta | None, candidates: Iterable[Leaving]
) -> Leaving | None:
    """The first of the attempts before that may still speak. `order` is the open one, and `stood` for how long it was there at the last
    read of the Leases; None when no read began since."""
    return next((each for each in candidates if not _must_be_mute(each, nodes, order, stood)), None)


def _must_be_mute(former: Leaving, nodes: Mapping[str, NodeSight], order: RuntimeView | None, stood: timedelta | None) -> bool:
    if order is None or order.attempt <= former.attempt:
        return False
    if order.node_name == former.node and (order.fact_node, order.fact_attempt) == (former.node, order.attempt):
        return True
    sight = nodes.get(former.node)
    if stood is None or sight is None:
        return False
    return sight.silent >= sight.lost_after or stood >= sight.lost_after


def left_behind(nodes: Mapping[str, NodeSight], pods: Iterable[PodView]) -> Iterable[Leaving]:
    """Attempts whose pods are to go from nodes in trouble: such a pod may vanish from the API and run on."""
    for pod in pods:
        sight = nodes.get(pod.node_name) if pod.node_name is not None else None
        if sight is not None and trouble(sight.view) is not None and not has_ended(pod):
            yield Leaving(sight.name, pod.attempt)


def has_ended(pod: PodView) -> bool:
    """By its kubelet's word: no container of it runs."""
    by_pod_gc = pod.disruption is not None and pod.disruption[0] == BY_POD_GC
    return pod.phase == "Succeeded" or (pod.phase == "Failed" and not by_pod_gc)


def removed_by_force(sight: NodeSight | None) -> bool:
    """Whether a pod that is gone without our having deleted it may run on: its node is in trouble, or was last heard long ago."""
    return sight is not None and (trouble(sight.view) is not None or sight.silent * 2 >= sight.mute_after)

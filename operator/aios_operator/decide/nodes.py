"""Whether a pod can run on a node, as kube-scheduler would see it: readiness, cordon, taints, selectors, CPU, memory, pods, slots.

Affinity between pods and spread constraints are kube-scheduler's alone: where they stand against a place, it refuses, and the
Agent is placed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from aios_operator.decide.lost import OUT_OF_SERVICE, out_of_service
from aios_operator.decide.objects import format_mebibytes
from aios_operator.decide.views import MIB, AgentView, NodeView, Requests, Taint

CORDONED: Final = "node.kubernetes.io/unschedulable"
"""The taint that a cordon stands for: a pod may tolerate it."""
NOTHING_FREE: Final = 3
NO_SLOT: Final = 8


class Obstacle(NamedTuple):
    """What stands against running an Agent on a node, and what would remove it. A smaller `effort` asks less of the user."""

    effort: int
    why: str
    change: str


def node_obstacle(agent: AgentView, node: NodeView, free: Requests, free_slots: int) -> Obstacle | None:
    """The first thing that stands against running `agent` on `node`; None when nothing does."""
    spec = agent.template["spec"]
    if out_of_service(node):
        return Obstacle(9, "the node is out of service", f"take the taint {OUT_OF_SERVICE} off node {node.name} when it is back")
    if not node.ready:
        return Obstacle(9, "the node is not ready", f"bring node {node.name} back to Ready")
    cordon = (Taint(CORDONED, "", "NoSchedule"),) if node.unschedulable else ()
    if untolerated(cordon, spec.get("tolerations") or ()) is not None:
        return Obstacle(6, "the node is cordoned", f"kubectl uncordon {node.name}")
    if (taint := untolerated(node.taints, spec.get("tolerations") or ())) is not None:
        return Obstacle(5, f"taint {taint} is not tolerated", f"tolerate {taint} in spec.template.spec.tolerations")
    if not selected(node, spec):
        change = f"let spec.template.spec.nodeSelector and its node affinity select {node.name}"
        return Obstacle(4, "the template's nodeSelector or node affinity does not select it", change)
    if free_slots < 1:
        return Obstacle(NO_SLOT, "no slot is free", f"stop an Agent on {node.name}, or raise node.slots in the chart")
    return _lacks(agent.requests, free, node.name)


def _lacks(wanted: Requests, free: Requests, node: str) -> Obstacle | None:
    if wanted.pods > free.pods:
        return Obstacle(7, "it runs as many pods as it may", f"remove a pod from {node}")
    if wanted.cpu_milli > free.cpu_milli:
        have = f"{max(0, free.cpu_milli)}m"
        return _short("CPU", f"{wanted.cpu_milli}m", have, 1 if free.cpu_milli > 0 else NOTHING_FREE, node)
    if wanted.memory_bytes > free.memory_bytes:
        free_mib = max(0, free.memory_bytes) // MIB
        wanted_text = format_mebibytes(-(-wanted.memory_bytes // MIB))
        return _short("memory", wanted_text, format_mebibytes(free_mib), 2 if free_mib else NOTHING_FREE, node)
    return None


def _short(what: str, wanted: str, free: str, effort: int, node: str) -> Obstacle:
    lower = f"lower the {what} that the template requests to {free} in all"
    change = lower if effort < NOTHING_FREE else f"free {wanted} of {what} on {node}, or add a node"
    return Obstacle(effort, f"asks for {wanted} {what}, {free} are free", change)


def untolerated(taints: Iterable[Taint], tolerations: Iterable[Mapping[str, Any]]) -> Taint | None:
    """The first taint that keeps a pod with these tolerations away."""
    tolerations = tuple(tolerations)
    hard = (taint for taint in taints if taint.effect in ("NoSchedule", "NoExecute"))
    return next((taint for taint in hard if not any(_tolerates(each, taint) for each in tolerations)), None)


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """As `Toleration.ToleratesTaint` of k8s.io/api."""
    if toleration.get("effect") and toleration["effect"] != taint.effect:
        return False
    if toleration.get("key") and toleration["key"] != taint.key:
        return False
    operator, value = toleration.get("operator") or "Equal", toleration.get("value") or ""
    if operator in ("Gt", "Lt"):
        return _OPERATORS[operator](taint.value, [value])
    return operator == "Exists" or (operator == "Equal" and value == taint.value)


def selected(node: NodeView, spec: Mapping[str, Any]) -> bool:
    """Whether nodeSelector and required node affinity select the node."""
    if any(node.labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    return not affinity or any(_term(node, term) for term in affinity.get("nodeSelectorTerms") or ())


def _term(node: NodeView, term: Mapping[str, Any]) -> bool:
    labels, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not labels and not fields:
        return False
    named = {"metadata.name": node.name}
    return all(_matches(node.labels, each) for each in labels) and all(_matches(named, each) for each in fields)


def _matches(labels: Mapping[str, str], expression: Mapping[str, Any]) -> bool:
    compare = _OPERATORS.get(expression["operator"])
    return compare is not None and compare(labels.get(expression["key"]), expression.get("values") or [])


def _number(value: str | None) -> int | None:
    try:
        return int(value) if value is not None else None
    except ValueError:
        return None


def _ordered(compare: Callable[[int, int], bool]) -> Callable[[str | None, list[str]], bool]:
    def test(value: str | None, values: list[str]) -> bool:
        have, bound = _number(value), _number(values[0] if len(values) == 1 else None)
        return have is not None and bound is not None and compare(have, bound)

    return test


_OPERATORS: Mapping[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, values: value is not None,
    "DoesNotExist": lambda value, values: value is None,
    "Gt": _ordered(lambda have, bound: have > bound),
    "Lt": _ordered(lambda have, bound: have < bound),
}

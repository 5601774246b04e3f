"""Whether a pod can run on a node, as kube-scheduler would see it: readiness, cordon, taints, selectors, CPU, memory, pods, slots.

Affinity between pods and spread constraints are kube-scheduler's alone: where they stand against a place, it refuses, and the
Agent is placed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aios_operator.decide.objects import format_mebibytes
from aios_operator.decide.views import MIB, AgentView, NodeView, Requests, Taint


def node_obstacle(agent: AgentView, node: NodeView, free: Requests, free_slots: int) -> str | None:
    """What stands against running `agent` on `node`, for a person; None when nothing does."""
    spec = agent.template["spec"]
    if not node.ready:
        return "the node is not ready"
    if node.unschedulable:
        return "the node is cordoned"
    if (taint := untolerated(node.taints, spec.get("tolerations") or ())) is not None:
        return f"taint {taint.key}={taint.value}:{taint.effect} is not tolerated"
    if not selected(node, spec):
        return "the template's nodeSelector or node affinity does not select it"
    if free_slots < 1:
        return "no slot is free"
    return _lacks(agent.requests, free)


def _lacks(wanted: Requests, free: Requests) -> str | None:
    if wanted.pods > free.pods:
        return "it runs as many pods as it may"
    if wanted.cpu_milli > free.cpu_milli:
        return f"asks for {wanted.cpu_milli}m CPU, {max(0, free.cpu_milli)}m are free"
    if wanted.memory_bytes > free.memory_bytes:
        wanted_mib, free_mib = -(-wanted.memory_bytes // MIB), max(0, free.memory_bytes) // MIB
        return f"asks for {format_mebibytes(wanted_mib)} memory, {format_mebibytes(free_mib)} are free"
    return None


def untolerated(taints: Iterable[Taint], tolerations: Iterable[Mapping[str, Any]]) -> Taint | None:
    """The first taint that keeps a pod with these tolerations away."""
    tolerations = tuple(tolerations)
    hard = (taint for taint in taints if taint.effect in ("NoSchedule", "NoExecute"))
    return next((taint for taint in hard if not any(_tolerates(each, taint) for each in tolerations)), None)


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.effect:
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint.key:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.value


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

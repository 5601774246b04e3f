"""Which nodes a template may run on: kube-scheduler's own rules, so that what we choose is what it accepts."""

from typing import Any

import pytest

from aios_operator.decide.nodes import node_obstacle, selected, untolerated
from aios_operator.decide.requests import of_pod, of_pod_or_one
from aios_operator.decide.views import NodeView, Requests, Taint
from aios_operator.observe import parse
from unit.decide.world import agent

PLENTY = Requests(64_000, 1 << 40, 100)
LABELS = {"zone": "a", "cores": "16", "odd": "x"}


def node(**changed: Any) -> NodeView:
    known: dict[str, Any] = {"ready": True, "unschedulable": False, "taints": (), "labels": LABELS, "allocatable": PLENTY, **changed}
    return NodeView(name="n1", uid="u", resource_version="1", **known)


def obstacle(spec: dict[str, Any] | None = None, *, on: NodeView | None = None, free: Requests = PLENTY, slots: int = 1) -> str | None:
    raw = agent("a", template=spec or {}, cpu="2", ram="1Gi")
    raw["metadata"] |= {"uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    found = node_obstacle(parse.agent(raw), on or node(), free, slots)
    return found and found.why


def test_a_node_with_room_takes_the_agent():
    assert obstacle() is None


@pytest.mark.parametrize(
    ("on", "free", "slots", "said"),
    [
        (node(ready=False), PLENTY, 1, "not ready"),
        (node(unschedulable=True), PLENTY, 1, "cordoned"),
        (node(taints=(Taint("gpu", "only", "NoSchedule"),)), PLENTY, 1, "taint gpu=only:NoSchedule"),
        (node(taints=(Taint("gpu", "", "NoExecute"),)), PLENTY, 1, "taint gpu:NoExecute"),
        (node(), PLENTY, 0, "no slot"),
        (node(), Requests(1999, 1 << 40, 9), 1, "asks for 2000m CPU, 1999m are free"),
        (node(), Requests(2000, (1 << 30) - 1, 9), 1, "asks for 1Gi memory, 1023Mi are free"),
        (node(), Requests(2000, 1 << 30, 0), 1, "as many pods as it may"),
    ],
)
def test_what_stands_against_a_node_is_said(on: NodeView, free: Requests, slots: int, said: str):
    assert said in str(obstacle(on=on, free=free, slots=slots))


def test_exactly_enough_is_enough():
    assert obstacle(free=Requests(2000, 1 << 30, 1)) is None


def test_a_cordon_may_be_tolerated_as_kube_scheduler_has_it():
    toleration = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}
    assert obstacle({"tolerations": [toleration]}, on=node(unschedulable=True)) is None


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "k", "operator": "Equal", "value": "5"}, True),
        ({"key": "k", "value": "5", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "5", "effect": "NoExecute"}, False),
        ({"key": "k", "value": "6"}, False),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "k", "operator": "Lt", "value": "6"}, True),
        ({"key": "k", "operator": "Lt", "value": "5"}, False),
        ({"key": "k", "operator": "Gt", "value": "4"}, True),
        ({"key": "k", "operator": "Gt", "value": "four"}, False),
        ({"key": "k", "operator": "Near", "value": "5"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], tolerated: bool):
    assert (untolerated([Taint("k", "5", "NoSchedule")], [toleration]) is None) == tolerated


def test_a_taint_that_only_prefers_keeps_nobody_away():
    assert untolerated([Taint("k", "5", "PreferNoSchedule")], []) is None


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({"key": "zone", "operator": "In", "values": ["a", "b"]}, True),
        ({"key": "zone", "operator": "In", "values": ["b"]}, False),
        ({"key": "none", "operator": "In", "values": ["a"]}, False),
        ({"key": "zone", "operator": "NotIn", "values": ["a"]}, False),
        ({"key": "none", "operator": "NotIn", "values": ["a"]}, True),
        ({"key": "zone", "operator": "Exists"}, True),
        ({"key": "none", "operator": "Exists"}, False),
        ({"key": "none", "operator": "DoesNotExist"}, True),
        ({"key": "cores", "operator": "Gt", "values": ["8"]}, True),
        ({"key": "cores", "operator": "Gt", "values": ["16"]}, False),
        ({"key": "cores", "operator": "Lt", "values": ["17"]}, True),
        ({"key": "odd", "operator": "Gt", "values": ["1"]}, False),
        ({"key": "none", "operator": "Lt", "values": ["1"]}, False),
    ],
)
def test_node_affinity(expression: dict[str, Any], matches: bool):
    assert selected(node(), affinity({"matchExpressions": [expression]})) == matches


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}}


def test_terms_are_alternatives_and_an_empty_one_selects_nothing():
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}
    elsewhere = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}
    assert selected(node(), affinity(elsewhere, here))
    assert not selected(node(), affinity(elsewhere))
    assert not selected(node(), affinity({}))
    assert selected(node(), {"nodeSelector": {"zone": "a"}, **affinity(here)})
    assert not selected(node(), {"nodeSelector": {"zone": "b"}, **affinity(here)})


def container(cpu: str | None = None, memory: str | None = None, **more: Any) -> dict[str, Any]:
    return {"resources": {"requests": {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v is not None}}, **more}


@pytest.mark.parametrize(
    ("spec", "cpu", "memory"),
    [
        ({"containers": [container("1", "1Gi"), container("250m")]}, 1250, 1 << 30),
        ({"containers": [container("1")], "initContainers": [container("3"), container("2", "1Mi")]}, 3000, 1 << 20),
        ({"containers": [container("1")], "initContainers": [container("500m", restartPolicy="Always"), container("2")]}, 2500, 0),
        ({"containers": [container("1")], "initContainers": [container("2"), container("500m", restartPolicy="Always")]}, 2000, 0),
        ({"containers": [container("1")], "overhead": {"cpu": "100m", "memory": "64Mi"}}, 1100, 64 << 20),
        ({"containers": [container("1", "1Gi")], "resources": {"requests": {"cpu": "4"}}}, 4000, 1 << 30),
        ({"containers": [{"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}]}, 2000, 1 << 30),
        ({"containers": [{"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}]}, 1000, 0),
        ({"containers": [{}]}, 0, 0),
    ],
)
def test_requests_are_counted_as_kube_scheduler_counts_them(spec: dict[str, Any], cpu: int, memory: int):
    assert of_pod(spec) == Requests(cpu, memory, 1)


def test_a_pod_of_others_that_can_not_be_read_counts_as_a_pod():
    assert of_pod_or_one({"containers": [container("much")]}) == Requests(pods=1)

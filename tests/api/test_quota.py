"""GPUQuota on a real API server: what is refused with which words, and what people see."""

from typing import Any

import pytest

from aios_api import names
from aios_localcluster import LocalCluster
from api.support import Object, Space, agent, kubectl, refusal


def quota(**spec: Any) -> Object:
    return {"apiVersion": names.API_VERSION, "kind": "GPUQuota", "metadata": {"name": "team"}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "memory or agents must be set"),
        ({"memory": {"nominal": "much"}}, "nominal must be a Kubernetes quantity"),
        ({"memory": {"nominal": "-1Gi"}}, "nominal must not be negative"),
        ({"memory": {"nominal": "5Ei"}}, "nominal must be at most 4Ei"),
        ({"agents": -1}, "should be greater than or equal to 0"),
    ],
)
def test_what_is_no_quota_is_refused(shared_space: Space, spec: Object, said: str) -> None:
    assert said in refusal(shared_space.create(quota(**spec)))


@pytest.mark.parametrize(
    "spec", [{"memory": {"nominal": "0"}}, {"memory": {"nominal": "4Ei"}}, {"agents": 0}, {"memory": {"nominal": "1"}, "agents": 5}]
)
def test_what_is_a_quota_is_taken(shared_space: Space, spec: Object) -> None:
    answer = shared_space.create(quota(**spec))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(("priority", "taken"), [(-1000, True), (1000, True), (-1001, False), (1001, False)])
def test_the_priority_has_its_bounds(shared_space: Space, priority: int, taken: bool) -> None:
    answer = shared_space.create(agent(priority=priority))
    assert answer.status_code == (201 if taken else 422), answer.text


def test_kubectl_shows_what_is_held(cluster: LocalCluster, space: Space) -> None:
    assert space.create(quota(memory={"nominal": "40Gi"}, agents=3), dry_run=False).status_code == 201
    condition = {"type": "InForce", "status": "True", "reason": "InForce", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    amounts = {word: {"memory": f"{n}Gi", "agents": n} for word, n in (("reserved", 2), ("used", 1), ("waiting", 7))}
    written = {**quota(), "status": {"conditions": [condition], **amounts}}
    del written["spec"]
    assert space.apply(written, "operator", subresource="status").status_code == 200
    lines = kubectl(cluster, "get", "gpuquotas", "-n", space.namespace).splitlines()
    assert lines[0].split() == ["NAME", "IN", "FORCE", "NOMINAL", "RESERVED", "USED", "AGENTS", "HOLDING", "WAITING", "AGE"]
    assert lines[1].split()[:8] == ["team", "True", "40Gi", "2Gi", "1Gi", "3", "2", "7"]

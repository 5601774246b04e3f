"""What our programs may do in the API is what they do there: rights of the installed roles against the requests of all tests before."""

import json
from collections.abc import Iterator

import pytest

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import kubectl
from aios_localcluster.settings import RELEASE_NAMESPACE
from e2e.rights import Right, granted, recorded

CONFLICT = "read after a conflict, to plan from what is there: tests/unit/operator/test_loop.py, and the scenario api-server-misbehaves"
SERIES = "an event that happens again is counted in the one that is there: tests/unit/kube/test_events.py"
APPLIED = "an apply is recorded as a patch, also where it creates: the API server asks for both"
AGENT_KINDS = ("aios.dev/agents", "aios.dev/gpuquotas", "aios.dev/toolbindings", "aios.dev/agentruntimes")
MADE = ("/pods", "/services", "networking.k8s.io/networkpolicies", "resource.k8s.io/resourceclaims")
RARE: dict[Right, str] = {
    **{("aios-operator", kind, "get"): CONFLICT for kind in (*AGENT_KINDS, *MADE)},
    ("aios-node", "coordination.k8s.io/leases", "create"): APPLIED,
    ("aios-node", "resource.k8s.io/resourceslices", "create"): APPLIED,
    (
        "aios-node",
        "resource.k8s.io/resourceslices",
        "delete",
    ): "slices of ours under another name: tests/unit/node/test_slices.py::test_slices_of_ours_under_another_name_are_removed",
    ("aios-node", "events.k8s.io/events", "patch"): SERIES,
    ("aios-operator", "events.k8s.io/events", "patch"): SERIES,
    (
        "aios-operator",
        "/configmaps",
        "patch",
    ): "where addresses of the cluster are public: tests/api/test_node_lost.py",
    ("aios-operator", "coordination.k8s.io/leases", "create"): "made anew when somebody removed it: tests/api/test_lease.py",
    ("aios-operator", "coordination.k8s.io/leases", "delete"): "of a node that is gone for an hour: tests/unit/operator/test_heartbeats.py",
    ("aios-operator", "aios.dev/agents/finalizers", "update"): "asked for by the API server where an owner blocks its deletion; no request",
    ("aios-operator", "aios.dev/agentruntimes/finalizers", "update"): "the same",
}
"""Rights that a run of these tests may not need, with the reason for each."""


def installed(cluster: LocalCluster) -> Iterator[Right]:
    """What the roles of the programs that run grant. Those of the removal are there while it runs: tests/e2e/test_uninstall.py."""
    for kind in ("clusterroles", "roles"):
        for role in json.loads(kubectl(cluster, "get", kind, "-n", RELEASE_NAMESPACE, "-o", "json"))["items"]:
            if role["metadata"]["name"] in ("aios-operator", "aios-node"):
                yield from granted(role)


def test_nothing_is_granted_that_is_not_used_and_nothing_is_asked_for_that_is_not_granted(
    cluster: LocalCluster, request: pytest.FixtureRequest
):
    if not any(item.path.stem == "test_surroundings" for item in request.session.items):
        pytest.skip("only the whole tier does all that our programs do")
    rights = set(installed(cluster))
    used = {right for right, allowed in recorded(cluster) if allowed}
    refused = {right for right, allowed in recorded(cluster) if not allowed}
    assert refused == set()
    assert RARE.keys() <= rights, "a reason for a right that nobody has"
    unused = sorted(rights - used - RARE.keys())
    assert unused == [], f"granted, and not used: {unused}"
    assert {program for program, _, _ in used} <= {"aios-operator", "aios-node"}, "the gateway has no token"

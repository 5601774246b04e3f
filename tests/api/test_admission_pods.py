"""The chart's admission policies for pods: what webhooks made of an Agent's, others that want what is its own, containers added later."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aios_api import names
from api.admission import Stage, changed
from api.callers import Caller, denied, made
from api.support import Object, eventually


def test_the_pod_that_the_operator_writes_is_accepted_and_runs_its_course(stage: Stage) -> None:
    """Bound by kube-scheduler, reported on by its kubelet, looked at again on the operator's word, evicted and deleted by people."""
    template = {"spec": {"containers": [{"name": "main", "image": "i"}], "initContainers": [{"name": "first", "image": "i"}]}}
    of, order = stage.ordered("a", gpu={"memory": "1Gi"}, template=template)
    made(stage.operator.keeping().create(stage.claim(of, order)))
    pod = made(stage.operator.keeping().create(stage.pod(of, order)))
    made(stage.client.post("/api/v1/nodes", json={"metadata": {"name": "one"}}))
    try:
        target = {"target": {"apiVersion": "v1", "kind": "Node", "name": "one"}}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a-1", "namespace": stage.namespace}, **target}
        made(stage.scheduler.keeping().create(binding, "binding", of="Pod"))
        kubelet = Caller(stage.client, "system:node:one")
        running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        made(kubelet.keeping().patch(pod, running, "status"))
        made(stage.operator.patch(pod, {"metadata": {"annotations": {names.ANNOTATION_NUDGED: "2026-01-01T00:00:00Z"}}}))
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a-1", "namespace": stage.namespace}}
        made(stage.admin.create(eviction, "eviction", of="Pod"))
        made(stage.editor.delete(pod))
    finally:
        stage.client.delete("/api/v1/nodes/one")


def container(**fields: Any) -> Object:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"name": "injected", "image": "i", "resources": {"claims": [{"name": "aios"}]}, "securityContext": security, **fields}


GATEWAY_USER = 64489

WEBHOOKS: list[tuple[str, Any, str]] = [
    ("spec|containers|1", container(resources={}), "container injected has no part in the claim"),
    ("spec|initContainers", [container(resources={})], "container injected has no part in the claim"),
    ("spec|containers|1", container(securityContext={}), "container injected must have no privilege"),
    ("spec|containers|0|securityContext", {"privileged": True, "capabilities": {"drop": ["ALL"]}}, "must have no privilege"),
    ("spec|containers|0|securityContext|allowPrivilegeEscalation", True, "must have no privilege"),
    ("spec|containers|0|securityContext|capabilities", {"drop": ["NET_RAW"]}, "must have no privilege"),
    ("spec|containers|0|securityContext|capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "must have no privilege"),
    ("spec|containers|0|securityContext|runAsUser", 0, "must have no privilege"),
    ("spec|containers|0|securityContext|runAsNonRoot", False, "must have no privilege"),
    ("spec|containers|0|securityContext|seccompProfile", {"type": "Unconfined"}, "must have no privilege"),
    ("spec|containers|0|securityContext|appArmorProfile", {"type": "Unconfined"}, "must have no privilege"),
    ("spec|securityContext|seccompProfile", {"type": "Unconfined"}, "must have a seccompProfile of RuntimeDefault or Localhost"),
    ("spec|securityContext|sysctls", [{"name": "net.ipv4.ip_forward", "value": "1"}], "no sysctls"),
    ("spec|containers|0|securityContext|runAsUser", GATEWAY_USER, "must have no privilege"),
    ("spec|containers|0|securityContext|seLinuxOptions", {"type": "spc_t"}, "must have no privilege"),
    ("spec|securityContext|runAsUser", GATEWAY_USER, "neither root nor the user of the gateway"),
    ("spec|securityContext|seLinuxOptions", {"type": "spc_t"}, "no other domain of SELinux"),
    ("spec|securityContext|seLinuxOptions", {"role": "system_r"}, "no other domain of SELinux"),
    ("spec|priorityClassName", "system-node-critical", "must not be one of the system's"),
    ("spec|containers|0|terminationMessagePath", "/run/aios/agent.sock", "must not be below /run/aios"),
    ("spec|hostNetwork", True, "must not have hostNetwork"),
    ("spec|hostPID", True, "must not have hostNetwork, hostPID"),
    ("spec|containers|0|ports", [{"containerPort": 80, "hostPort": 80}], "or a hostPort"),
    ("spec|containers|0|readinessProbe", {"httpGet": {"port": 80, "host": "169.254.169.254"}}, "must name no host"),
    ("spec|containers|0|livenessProbe", {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}, "must name no host"),
    ("spec|containers|0|lifecycle", {"preStop": {"httpGet": {"port": 80, "host": "10.0.0.1"}}}, "its lifecycle hooks must ask none"),
    ("spec|containers|0|lifecycle", {"postStart": {"httpGet": {"port": 80}}}, "its lifecycle hooks must ask none"),
    ("spec|volumes", [{"name": "host", "hostPath": {"path": "/"}}], "no volume of its node"),
    (
        "spec|volumes",
        [{"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
        "no credential of the Kubernetes API",
    ),
    ("spec|automountServiceAccountToken", True, "no credential of the Kubernetes API"),
    ("spec|resourceClaims|1", {"name": "more", "resourceClaimName": "other"}, "has exactly one claim"),
    ("spec|nodeName", "two", "bound by the default scheduler"),
    ("spec|dnsPolicy", "ClusterFirst", "dnsPolicy None"),
    ("metadata|labels|aios.dev/agent", "another", "must stay as the operator wrote them"),
    ("metadata|labels|aios.dev/attempt", "2", "must stay as the operator wrote them"),
    ("metadata|labels|app.kubernetes.io/managed-by", "mesh", "must stay as the operator wrote them"),
    ("metadata|ownerReferences", [], "must stay as the operator wrote them"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), WEBHOOKS, ids=[f"{path} {str(value)[:40]}" for path, value, _ in WEBHOOKS])
def test_an_agents_pod_is_refused_when_a_webhook_has_opened_it(stage: Stage, path: str, value: Any, sentence: str) -> None:
    """Policies see what webhooks have made of a pod, in the name of who sent it: here it is sent so."""
    of, order = stage.ordered()
    assert sentence in denied(stage.operator.create(changed(stage.pod(of, order), path, value)), "aios-agent-pods")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec|volumes", [{"name": "x", "emptyDir": {}}]),
        ("spec|containers|1", container()),
        ("metadata|labels|team", "x"),
        ("metadata|annotations|note", "x"),
        ("spec|containers|0|volumeMounts", []),
    ],
)
def test_what_a_webhook_may_do_with_an_agents_pod(stage: Stage, path: str, value: Any) -> None:
    of, order = stage.ordered()
    made(stage.operator.create(changed(stage.pod(of, order), path, value)))


def test_nothing_is_mounted_where_the_agent_finds_its_socket(stage: Stage) -> None:
    of, order = stage.ordered()
    pod = changed(stage.pod(of, order), "spec|volumes", [{"name": "x", "emptyDir": {}}])
    for path in ("/run/aios", "/run/aios/more", "/var/run/aios"):
        mounted = changed(pod, "spec|containers|0|volumeMounts", [{"name": "x", "mountPath": path}])
        assert "nothing may be mounted at /run/aios" in denied(stage.operator.create(mounted), "aios-agent-pods")
    made(stage.operator.create(changed(pod, "spec|containers|0|volumeMounts", [{"name": "x", "mountPath": "/run/aioses"}])))


def test_no_other_pod_names_our_claim(stage: Stage) -> None:
    claim, _ = stage.running()
    made(stage.editor.keeping().create(stage.foreign_claim()))
    theirs = stage.foreign_pod(resourceClaims=[{"name": "x", "resourceClaimName": "other"}])
    made(stage.editor.create(theirs))
    ours = stage.foreign_pod(
        resourceClaims=[{"name": "y", "resourceClaimName": "other"}, {"name": "x", "resourceClaimName": claim["metadata"]["name"]}]
    )

    def refused() -> bool:
        return stage.editor.create(ours).status_code == 403

    eventually(refused, "the API server has heard of the claim as a parameter of its policy")
    assert "claim a-1 is that of an Agent" in denied(stage.editor.create(ours), "aios-claims-of-agents")
    made(stage.editor.create(theirs))


@pytest.mark.parametrize("of", ["containers", "initContainers"])
@pytest.mark.parametrize("name", [names.GPU_CLASS, names.RUNTIME_CLASS])
def test_no_pod_asks_for_our_classes_as_extended_resources(stage: Stage, of: str, name: str) -> None:
    def asks(resource: str) -> Object:
        return {"name": "x", "image": "i", "resources": {"requests": {resource: "1"}, "limits": {resource: "1"}}}

    pod = stage.foreign_pod()
    made(stage.editor.create(changed(pod, f"spec|{of}", [asks("deviceclass.resource.kubernetes.io/gpu.example.com")])))
    for caller in (stage.editor, stage.owner, stage.admin):
        denied(caller.create(changed(pod, f"spec|{of}", [asks(f"deviceclass.resource.kubernetes.io/{name}")])), "aios-extended-resources")


def ephemeral(**fields: Any) -> Object:
    security = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    return {"spec": {"ephemeralContainers": [{"name": "debug", "image": "i", "securityContext": {**security, **fields}}]}}


def test_a_container_that_is_added_to_an_agents_pod_has_no_privilege(stage: Stage) -> None:
    _, pod = stage.running()
    made(stage.owner.patch(pod, ephemeral(), "ephemeralcontainers"))
    unfit: list[Object] = [
        {"privileged": True, "allowPrivilegeEscalation": True},
        {"allowPrivilegeEscalation": True},
        {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
        {"capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]}},
        {"capabilities": {}},
        {"runAsNonRoot": False},
        {"runAsUser": 0, "runAsNonRoot": None},
        {"seccompProfile": {"type": "Unconfined"}},
        {"seLinuxOptions": {"type": "spc_t"}},
        {"runAsUser": GATEWAY_USER},
    ]
    for fields in unfit:
        for caller in (stage.owner, stage.admin):
            said = denied(caller.patch(pod, ephemeral(**fields), "ephemeralcontainers"), "aios-ephemeral-containers")
            assert "ephemeral container debug" in said
            assert "kubectl debug --profile=restricted" in said
    bare = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "i"}]}}
    denied(stage.owner.patch(pod, bare, "ephemeralcontainers"), "aios-ephemeral-containers")
    made(stage.owner.patch(made(stage.owner.keeping().create(stage.foreign_pod())), bare, "ephemeralcontainers"))


INJECTION = 'Object{spec: Object.spec{containers: [Object.spec.containers{name: "mesh", image: "mesh:1"}]}}'


@contextlib.contextmanager
def mesh(client: httpx.Client, namespace: str) -> Iterator[None]:
    """Something in the cluster puts a container of its own into every pod of the namespace."""
    group = "/apis/admissionregistration.k8s.io/v1"
    if client.get(f"{group}/mutatingadmissionpolicies").status_code != 200:
        pytest.skip("this API server has no mutating admission policies")
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    inside = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    spec = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [pods], **inside},
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": INJECTION}}],
    }
    made(client.post(f"{group}/mutatingadmissionpolicies", json={"metadata": {"name": "mesh"}, "spec": spec}))
    made(client.post(f"{group}/mutatingadmissionpolicybindings", json={"metadata": {"name": "mesh"}, "spec": {"policyName": "mesh"}}))
    try:
        yield
    finally:
        for plural in ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings"):
            client.delete(f"{group}/{plural}/mesh")


def test_a_container_that_is_really_injected_is_seen_and_refused(stage: Stage) -> None:
    of, order = stage.ordered()
    with mesh(stage.client, stage.namespace):

        def injected() -> bool:
            containers = made(stage.editor.create(stage.foreign_pod()))["spec"]["containers"]
            return [each["name"] for each in containers] == ["c", "mesh"]

        eventually(injected, "the mesh is at work")
        said = denied(stage.operator.create(stage.pod(of, order)), "aios-agent-pods")
        assert "container mesh has no part in the claim" in said

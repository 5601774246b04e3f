"""Builders of the objects that the operator writes. Pure: an Agent and its place in, an object as it is on the wire out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aios_api import names
from aios_operator.decide.views import AgentView, Gpu, RuntimeView

Object = dict[str, Any]

POLICY_NAME = "aios-agents"

MESH_OPT_OUT = {
    "sidecar.istio.io/inject": "false",
    "istio.io/dataplane-mode": "none",
    "linkerd.io/inject": "disabled",
    "kuma.io/sidecar-injection": "disabled",
}
"""A mesh's proxy would be a container without the claim, and a way around the fence."""

_NODE_FIELD = "metadata.name"


def format_mebibytes(mebibytes: int) -> str:
    """`24Gi`, `1536Mi`: the largest suffix that leaves a whole number."""
    for suffix, size in (("Ti", 1 << 20), ("Gi", 1 << 10)):
        if mebibytes and mebibytes % size == 0:
            return f"{mebibytes // size}{suffix}"
    return f"{mebibytes}Mi"


def placed_gpu(gpu: Gpu) -> Object:
    """The share as orders and status name it."""
    return {"uuid": gpu.uuid, "model": gpu.model, "memory": format_mebibytes(gpu.mebibytes)}


def runtime(
    agent: AgentView, existing_uid: str | None, attempt: int, node: str, gpu: Gpu | None, at_once: Mapping[str, Any] | None = None
) -> Object:
    """The order: attempt, node and GPU, and `at_once`, what may change within it. With `existing_uid` it changes that AgentRuntime and no
    other."""
    name = names.attempt_name(agent.key.name, attempt)
    spec: Object = {
        "agentUID": agent.uid,
        "attempt": attempt,
        "templateDigest": agent.digest,
        "nodeName": node,
        "claimName": name,
        "podName": name,
        **(at_once or {}),
    }
    if gpu is not None:
        spec["gpu"] = placed_gpu(gpu)
    metadata: Object = {
        "namespace": agent.key.namespace,
        "name": agent.key.name,
        "labels": _labels(agent, attempt),
        "ownerReferences": [owner("Agent", agent.key.name, agent.uid)],
    }
    if existing_uid is not None:
        metadata["uid"] = existing_uid
    return {"apiVersion": names.API_VERSION, "kind": "AgentRuntime", "metadata": metadata, "spec": spec}


def claim(agent: AgentView, order: RuntimeView) -> Object:
    """A slot on the node and, with VRAM, a share of exactly the GPU that was chosen."""
    requests = [_request(names.REQUEST_RUNTIME, names.RUNTIME_CLASS, f"{_guarded(names.ATTRIBUTE_CONTRACT)} == {names.CONTRACT_VERSION}")]
    if order.gpu is not None:
        gpu = _request(names.REQUEST_GPU, names.GPU_CLASS, f'{_guarded(names.ATTRIBUTE_UUID)} == "{order.gpu.uuid}"')
        gpu["exactly"]["capacity"] = {"requests": {names.CAPACITY_MEMORY: format_mebibytes(order.gpu.mebibytes)}}
        requests.append(gpu)
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": _metadata(agent, order),
        "spec": {"devices": {"requests": requests}},
    }


def _request(name: str, device_class: str, expression: str) -> Object:
    return {"name": name, "exactly": {"deviceClassName": device_class, "selectors": [{"cel": {"expression": expression}}]}}


def _guarded(attribute: str) -> str:
    """A selector that errors aborts the whole allocation, so that no attribute is read before it is known to be there."""
    domain = f'device.attributes["{names.DRIVER}"]'
    return f'device.driver == "{names.DRIVER}" && "{attribute}" in {domain} && {domain}.{attribute}'


def pod(agent: AgentView, order: RuntimeView) -> Object:
    """The template, held tight, on the chosen node, each container behind the claim.

    It meets the `restricted` Pod Security standard, save that the image's user is kept where the template names none.
    """
    template = agent.template
    written = template.get("metadata") or {}
    metadata = _metadata(agent, order)
    metadata["labels"] = {**(written.get("labels") or {}), **MESH_OPT_OUT, **metadata["labels"]}
    metadata["annotations"] = {**(written.get("annotations") or {}), **MESH_OPT_OUT, names.ANNOTATION_DIGEST: order.digest}
    spec: Object = dict(template["spec"])
    for field in ("containers", "initContainers"):
        if spec.get(field):
            spec[field] = [_container(each) for each in spec[field]]
    security = dict(spec.get("securityContext") or {})
    security.setdefault("seccompProfile", {"type": "RuntimeDefault"})
    spec |= {
        "restartPolicy": agent.restart_policy,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "securityContext": security,
        "resourceClaims": [{"name": names.POD_CLAIM, "resourceClaimName": order_name(order)}],
        "affinity": _affinity(spec.get("affinity") or {}, order.node_name),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def order_name(order: RuntimeView) -> str:
    """The name of the order's claim and pod."""
    return names.attempt_name(order.key.name, order.attempt)


def _container(container: Mapping[str, Any]) -> Object:
    security = dict(container.get("securityContext") or {})
    security["allowPrivilegeEscalation"] = False
    security["capabilities"] = {"drop": ["ALL"]}
    resources = {**(container.get("resources") or {}), "claims": [{"name": names.POD_CLAIM}]}
    environment = [*(container.get("env") or ()), *({"name": name, "value": value} for name, value in names.PROXY_ENVIRONMENT.items())]
    return {**container, "env": environment, "securityContext": security, "resources": resources}


def _affinity(affinity: Mapping[str, Any], node: str) -> Object:
    """The user's affinity, with the node in each of the node terms: they are alternatives, and one without it would lead elsewhere."""
    here = {"key": _NODE_FIELD, "operator": "In", "values": [node]}
    node_affinity = affinity.get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [{**term, "matchFields": [*(term.get("matchFields") or ()), here]} for term in required.get("nodeSelectorTerms") or [{}]]
    pinned = {**node_affinity, "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {**affinity, "nodeAffinity": pinned}


def network_policy(namespace: str) -> Object:
    """Says to the network what the fence says in the pod: nothing in, nothing out."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": POLICY_NAME, "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY}},
        "spec": {
            "podSelector": {"matchExpressions": [{"key": names.LABEL_AGENT, "operator": "Exists"}]},
            "policyTypes": ["Ingress", "Egress"],
        },
    }


def _metadata(agent: AgentView, order: RuntimeView) -> Object:
    return {
        "namespace": agent.key.namespace,
        "name": order_name(order),
        "labels": _labels(agent, order.attempt),
        "ownerReferences": [owner("AgentRuntime", order.key.name, order.uid)],
    }


def _labels(agent: AgentView, attempt: int) -> dict[str, str]:
    return {
        names.LABEL_AGENT: agent.key.name,
        names.LABEL_AGENT_UID: agent.uid,
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
    }


def owner(kind: str, name: str, uid: str) -> Object:
    """The reference of what belongs to that object and goes with it."""
    return {"apiVersion": names.API_VERSION, "kind": kind, "name": name, "uid": uid, "controller": True, "blockOwnerDeletion": True}

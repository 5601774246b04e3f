"""What people of a namespace send to the API server, whose words refuse it, and what of the same kind is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from aios_api import names
from aios_localcluster.kubeaios import NAMESPACE, kubectl
from api.admission import NODE_NAME, changed
from api.callers import NODE_AGENT, OPERATOR, Caller, path_of
from e2e.support import IDLE, Object, Space

MERGE = "application/merge-patch+json"
NOTE = {"metadata": {"annotations": {"example.com/note": "x"}}}
"""A change that is anybody's to make who may change the object."""

NO_UPGRADE = (400,)
"""To whom may: the request asks for none of the protocols in which a command or a port is carried."""


@dataclass(frozen=True)
class Tenants:
    """Two namespaces: `theirs`, where the Agent keeper is, and `own`, where the attackers are, who have Agents in it."""

    client: httpx.Client
    theirs: Space
    own: Space
    editor: Caller
    """Has the role `edit` in `own`."""
    owner: Caller
    """May do everything in `own`."""


@dataclass(frozen=True)
class Attempt:
    """Tried without being kept."""

    tried: Callable[[Caller], httpx.Response]
    editor: str
    """What the API server must say to whom may edit: whose refusal it is, and why."""
    owner: str
    """And to whom may do everything in the namespace."""
    twin: Callable[[], httpx.Response]
    """The same without what is hostile in it, or by whom it is for: accepted, so that nothing else in the attempt is what is refused."""
    accepted: tuple[int, ...] = (200, 201)


def role(verb: str, resource: str, group: str = "") -> str:
    """The sentence of RBAC."""
    return f'cannot {verb} resource "{resource}" in API group "{group}"'


def policy(name: str, says: str) -> str:
    """The sentence of one of the chart's admission policies."""
    return f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: {says}"


def pod(namespace: str, image: str, code: str = IDLE, **spec: object) -> Object:
    container = {"name": "c", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["python3", "-c", code]}
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": namespace}, "spec": body}


def claim(namespace: str, device_class: str, kind: str = "ResourceClaim") -> Object:
    spec: Object = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": device_class}}]}}
    if kind == "ResourceClaimTemplate":
        spec = {"spec": spec}
    return {"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": "mine", "namespace": namespace}, "spec": spec}


def of_the_operators(t: Tenants) -> dict[str, Attempt]:
    """What the operator and its node agents write in the tenants' own namespace, written or taken away by them."""
    ns, owner = t.own.name, t.owner
    operator = Caller(t.client, OPERATOR)
    node_agent = Caller(t.client, NODE_AGENT, {NODE_NAME: t.own.cluster.settings.node_name})
    order = {"kind": "AgentRuntime", "metadata": {"name": "hostile", "namespace": ns}}
    agent = {"kind": "Agent", "metadata": order["metadata"]}
    booked = {"kind": "ResourceClaim", "metadata": {"name": "stubborn-1", "namespace": ns}}
    fence = {"kind": "NetworkPolicy", "metadata": {"name": "aios-agents", "namespace": ns}}
    forged = {"apiVersion": names.API_VERSION, "kind": "AgentRuntime", "metadata": {"name": "forged", "namespace": ns}}
    forged["spec"] = {**(t.own.get("agentruntime", "hostile") or {})["spec"], "podName": "forged-1", "claimName": "forged-1"}
    elsewhere = {"spec": {"attempt": 9, "podName": "hostile-9", "claimName": "hostile-9"}}
    facts, status, opened = {"status": {"contractVersion": 1}}, {"status": {"attempt": 9}}, {"spec": {"egress": [{}]}}
    runtimes = role("patch", "agentruntimes", names.GROUP)
    networks = policy("aios-network", "the spec of this NetworkPolicy is written by the operator of KubeAIOS and by nobody else")
    stands = policy("aios-network", "this NetworkPolicy stands as long as there are Agents in the namespace")
    return {
        "an order changed": Attempt(
            lambda who: who.patch(order, elsewhere),
            runtimes,
            policy("aios-orders", "the spec of an AgentRuntime is written by the operator of KubeAIOS and by nobody else"),
            lambda: operator.patch(order, elsewhere),
        ),
        "an order made": Attempt(
            lambda who: who.create(forged),
            role("create", "agentruntimes", names.GROUP),
            policy("aios-orders", "AgentRuntimes are made by the operator of KubeAIOS and by nobody else"),
            lambda: operator.create(forged),
        ),
        "facts forged": Attempt(
            lambda who: who.patch(order, facts, "status"),
            role("patch", "agentruntimes/status", names.GROUP),
            policy("aios-node-facts", "the status of an AgentRuntime is written by the node agent of its node and by nobody else"),
            lambda: node_agent.patch(order, facts, "status"),
        ),
        "a status forged": Attempt(
            lambda who: who.patch(agent, status, "status"),
            role("patch", "agents/status", names.GROUP),
            policy("aios-statuses", "this status is written by the operator of KubeAIOS and by nobody else"),
            lambda: operator.patch(agent, status, "status"),
        ),
        "a claim let go": Attempt(
            lambda who: who.patch(booked, {"metadata": {"finalizers": None}}),
            policy("aios-claims", "the finalizer resource.kubernetes.io/delete-protection of an Agent's claim is taken away by"),
            policy("aios-claims", "the finalizer resource.kubernetes.io/delete-protection of an Agent's claim is taken away by"),
            lambda: owner.patch(booked, NOTE),
        ),
        "a booking forged": Attempt(
            lambda who: who.patch(booked, {"status": {"reservedFor": None}}, "status"),
            role("patch", "resourceclaims/status", "resource.k8s.io"),
            "changing status.allocation or status.reservedFor requires",  # by Kubernetes itself, before aios-bookings is asked
            lambda: Caller(t.client).patch(booked, {"status": {"reservedFor": None}}, "status"),
        ),
        "the policy removed": Attempt(lambda who: who.delete(fence), stands, stands, lambda: operator.delete(fence)),
        "the policy opened": Attempt(lambda who: who.patch(fence, opened), networks, networks, lambda: owner.patch(fence, NOTE)),
    }


def of_pods_and_claims(t: Tenants) -> dict[str, Attempt]:
    """VRAM and places past the quota, another's claim, an Agent's labels, and containers put into an Agent's pod."""
    ns, image, owner = t.own.name, t.own.image, t.owner
    running = {"kind": "Pod", "metadata": {"name": "hostile-1", "namespace": ns}}
    containers = (t.own.get("pod", "hostile-1") or {})["spec"]["containers"]
    ours = policy("aios-claims", "the device classes gpu.aios.dev and runtime.aios.dev are claimed by the operator of KubeAIOS")
    extended = policy("aios-extended-resources", "the device classes gpu.aios.dev and runtime.aios.dev must not be asked for")
    theirs = policy("aios-claims-of-agents", "claim stubborn-1 is that of an Agent")
    marks = policy("aios-marks", "labels that begin with aios.dev/ are set by the operator of KubeAIOS and by nobody else")
    added = policy("aios-ephemeral-containers", "ephemeral container debug in the pod of an Agent must drop ALL capabilities")
    ephemeral, same = role("patch", "pods/ephemeralcontainers"), "pod updates may not add or remove containers"

    def greedy(resource: str) -> Object:
        asked = {resource: "1"}
        return changed(pod(ns, image), "spec|containers|0|resources", {"requests": asked, "limits": asked})

    def thief(name: str) -> Object:
        return pod(ns, image, resourceClaims=[{"name": "x", "resourceClaimName": name}])

    def labelled(label: str) -> Object:
        return changed(pod(ns, image), "metadata|labels", {label: "hostile"})

    def debugged(who: Caller, **security: Any) -> httpx.Response:
        debug = {"name": "debug", "image": image, "securityContext": security}
        return who.patch(running, {"spec": {"ephemeralContainers": [debug]}}, "ephemeralcontainers")

    def relabelled(who: Caller, labels: Object) -> httpx.Response:
        return who.patch(running, {"metadata": {"labels": labels}})

    def refused_by(words: str, tried: Callable[[Caller], httpx.Response], twin: Callable[[], httpx.Response]) -> Attempt:
        return Attempt(tried, words, words, twin)

    harmless = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        **{
            f"a {kind} of {device_class}": refused_by(
                ours,
                lambda who, kind=kind, device_class=device_class: who.create(claim(ns, device_class, kind)),
                lambda kind=kind: owner.create(claim(ns, "gpu.example.com", kind)),
            )
            for kind in ("ResourceClaim", "ResourceClaimTemplate")
            for device_class in ("gpu.aios.dev", "runtime.aios.dev")
        },
        **{
            f"an extended resource of {device_class}": refused_by(
                extended,
                lambda who, device_class=device_class: who.create(greedy(f"deviceclass.resource.kubernetes.io/{device_class}")),
                lambda: owner.create(greedy("deviceclass.resource.kubernetes.io/gpu.example.com")),
            )
            for device_class in ("gpu.aios.dev", "runtime.aios.dev")
        },
        "another's claim in a pod": refused_by(theirs, lambda who: who.create(thief("stubborn-1")), lambda: owner.create(thief("mine"))),
        "a label of an agent": refused_by(
            marks, lambda who: who.create(labelled(names.LABEL_AGENT)), lambda: owner.create(labelled("example.com/agent"))
        ),
        "a label taken away": refused_by(
            marks, lambda who: relabelled(who, {names.LABEL_AGENT: None}), lambda: relabelled(owner, {"example.com/agent": None})
        ),
        "a label changed to another's": refused_by(
            marks,
            lambda who: relabelled(who, {names.LABEL_AGENT: "stubborn"}),
            lambda: relabelled(owner, {"example.com/agent": "stubborn"}),
        ),
        "a container put in": refused_by(
            same,
            lambda who: who.patch(running, {"spec": {"containers": [*containers, {"name": "in", "image": image}]}}),
            lambda: owner.patch(running, {"spec": {"containers": containers}}),
        ),
        "a privileged container added": Attempt(
            lambda who: debugged(who, privileged=True), ephemeral, added, lambda: debugged(owner, **harmless)
        ),
        "a container added that keeps what others have": Attempt(
            lambda who: debugged(who), ephemeral, added, lambda: debugged(owner, **harmless)
        ),
    }


def of_agents(t: Tenants) -> dict[str, Attempt]:
    """An Agent of the tenants' own whose template asks for what no Agent has."""
    main, spec = "spec|template|spec|containers|0", "spec|template|spec"
    hostile = {
        "another's claim in an Agent": (
            f"{spec}|resourceClaims",
            [{"name": "x", "resourceClaimName": "stubborn-1"}],
            "resourceClaims must not be set: the operator adds the Agent's claim",
        ),
        "a part of a claim in an Agent": (f"{main}|resources", {"claims": [{"name": "aios"}]}, "resources.claims must not be set"),
        "a device in an Agent": (
            f"{main}|resources",
            {"limits": {"deviceclass.resource.kubernetes.io/gpu.aios.dev": "1"}},
            "resources must name only cpu, memory and ephemeral-storage",
        ),
        "a privilege in an Agent": (f"{main}|securityContext", {"privileged": True}, "privileged must not be true"),
        "a file of the node in an Agent": (f"{spec}|volumes", [{"name": "h", "hostPath": {"path": "/"}}], "hostPath must not be set"),
        "another's label in an Agent": (
            "spec|template|metadata",
            {"labels": {names.LABEL_AGENT: "keeper"}},
            "labels must not begin with aios.dev/",
        ),
        "a token in an Agent": (
            f"{spec}|volumes",
            [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            "projected serviceAccountToken must not be set",
        ),
    }

    harmless = t.own.agent("one-more")
    return {
        what: Attempt(
            lambda who, path=path, value=value: who.create(changed(harmless, path, value)),
            says,
            says,
            lambda: t.editor.create(harmless),
        )
        for what, (path, value, says) in hostile.items()
    }


def of_others(t: Tenants) -> dict[str, Attempt]:
    """What is in the other namespace, in the release's, or in none; the twin is the administrator's."""
    gateway = json.loads(kubectl(t.own.cluster, "get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=gateway", "-o", "json"))
    released, theirs = f"/api/v1/namespaces/{NAMESPACE}", t.theirs.name
    exec_in_gateway = f"{released}/pods/{gateway['items'][0]['metadata']['name']}/exec?command=id"
    keeper, booked = path_of("Pod", theirs, "keeper-1"), path_of("ResourceClaim", theirs, "keeper-1")
    order = path_of("AgentRuntime", theirs, "keeper")
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/aios-operator"
    policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    device_class = {"metadata": {"name": "mine"}, "spec": {}}
    kubelet = f"/api/v1/nodes/{t.own.cluster.settings.node_name}/proxy/pods"
    resource, administrator = "resource.k8s.io", Caller(t.client)

    def beyond(says: str, method: str, path: str, body: Any = None) -> Attempt:
        content = MERGE if method == "PATCH" else "application/json"

        def tried(who: Caller) -> httpx.Response:
            return who.send(method, path, body, content)

        return Attempt(tried, says, says, lambda: tried(administrator))

    def connecting(resource: str, path: str) -> Attempt:
        """There is no trying of these; without a protocol for it nothing is begun."""
        says = role("create", resource)
        return Attempt(
            lambda who: who.keeping().send("POST", path), says, says, lambda: administrator.keeping().send("POST", path), NO_UPGRADE
        )

    proxied, of_the_kubelet = role("get", "pods/proxy"), role("get", "nodes/proxy")
    return {
        "a command in another's agent": connecting("pods/exec", f"{keeper}/exec?command=id"),
        "a port of another's agent": connecting("pods/portforward", f"{keeper}/portforward?ports=2489"),
        "another's agent by the API": Attempt(
            lambda who: who.send("GET", f"{keeper}:2489/proxy/v1/agent"), proxied, proxied, lambda: administrator.send("GET", keeper)
        ),
        "another's log": beyond(role("get", "pods/log"), "GET", f"{keeper}/log"),
        "a container in another's agent": beyond(role("patch", "pods/ephemeralcontainers"), "PATCH", f"{keeper}/ephemeralcontainers", {}),
        "another's label": beyond(role("patch", "pods"), "PATCH", keeper, {}),
        "another's order": beyond(role("patch", "agentruntimes", names.GROUP), "PATCH", order, {}),
        "another's claim": beyond(role("patch", "resourceclaims/status", resource), "PATCH", f"{booked}/status", {}),
        "a command in the gateway": connecting("pods/exec", exec_in_gateway),
        "secrets of the release": beyond(role("list", "secrets"), "GET", f"{released}/secrets"),
        "a token of the node agent": beyond(
            role("create", "serviceaccounts/token"), "POST", f"{released}/serviceaccounts/aios-node/token", token
        ),
        "who decides": beyond(role("patch", "leases", "coordination.k8s.io"), "PATCH", lease, {}),
        "the kubelet": Attempt(
            lambda who: who.keeping().send("GET", kubelet),
            of_the_kubelet,
            of_the_kubelet,
            lambda: administrator.keeping().send("GET", kubelet),
        ),
        "a slice": beyond(role("list", "resourceslices", resource), "GET", "/apis/resource.k8s.io/v1/resourceslices"),
        "a device class": beyond(role("create", "deviceclasses", resource), "POST", "/apis/resource.k8s.io/v1/deviceclasses", device_class),
        "the policies": beyond(
            role("delete", "validatingadmissionpolicies", "admissionregistration.k8s.io"), "DELETE", f"{policies}/aios-orders"
        ),
    }

"""What the tests of admission write, and a namespace with people of several rights in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from aios_api import names
from aios_operator.decide import objects as desired
from aios_operator.observe import parse
from api.callers import NODE_AGENT, OPERATOR, SCHEDULER, Caller, made
from api.support import Object, agent, eventually

RBAC = "/apis/rbac.authorization.k8s.io/v1"
NODE_NAME = "authentication.kubernetes.io/node-name"


@dataclass
class Stage:
    """One namespace, and who may act in it."""

    client: httpx.Client
    namespace: str
    admin: Caller = field(init=False)
    operator: Caller = field(init=False)
    editor: Caller = field(init=False)
    """Has the role `edit` in the namespace."""
    owner: Caller = field(init=False)
    """May do everything in the namespace, whatever the resource, and nothing outside."""
    scheduler: Caller = field(init=False)

    def __post_init__(self) -> None:
        self.admin = Caller(self.client)
        self.operator = Caller(self.client, OPERATOR)
        self.editor = Caller(self.client, f"editor-of-{self.namespace}")
        self.owner = Caller(self.client, f"owner-of-{self.namespace}")
        self.scheduler = Caller(self.client, SCHEDULER)

    def node_agent(self, node: str | None) -> Caller:
        """The node agent whose pod runs on `node`; None: with a token that is bound to no pod."""
        return Caller(self.client, NODE_AGENT, {NODE_NAME: node} if node else {})

    # --- what there is ---

    def agent(self, name: str = "a", **spec: Any) -> Object:
        """An Agent that is there; made by the editor."""
        body = agent(name, **spec)
        body["metadata"]["namespace"] = self.namespace
        return made(self.editor.keeping().create(body))

    def order(self, of: Object, attempt: int = 1, node: str = "one") -> Object:
        """The order for the Agent, as the operator writes it, not yet sent."""
        return desired.runtime(parse.agent(of), None, attempt, node, None)

    def ordered(self, name: str = "a", **spec: Any) -> tuple[Object, Object]:
        """An Agent and its order, both there."""
        of = self.agent(name, **spec)
        return of, made(self.operator.keeping().create(self.order(of)))

    def claim(self, of: Object, order: Object) -> Object:
        return desired.claim(parse.agent(of), parse.runtime(order))

    def pod(self, of: Object, order: Object) -> Object:
        return desired.pod(parse.agent(of), parse.runtime(order))

    def running(self, name: str = "a") -> tuple[Object, Object]:
        """Claim and pod of an Agent, both there; nothing runs."""
        of, order = self.ordered(name)
        keeping = self.operator.keeping()
        claim = made(keeping.create(self.claim(of, order)))
        return claim, made(keeping.create(self.pod(of, order)))

    def foreign_claim(self, name: str = "other", device_class: str = "gpu.example.com", **spec: Any) -> Object:
        requests = [{"name": "r", "exactly": {"deviceClassName": device_class}}]
        metadata = {"name": name, "namespace": self.namespace}
        body = {"devices": {"requests": requests}, **spec}
        return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata, "spec": body}

    def foreign_pod(self, name: str = "plain", **spec: Any) -> Object:
        """The smallest pod of somebody else."""
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


def allocation(*users: Object, driver: str = names.DRIVER, request: str = "runtime") -> Object:
    """A claim's status with one device of the driver."""
    result = {"request": request, "driver": driver, "pool": "one", "device": "d"}
    return {"status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": list(users)}}


def user(pod: Object) -> Object:
    return {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}


def changed(body: Object, path: str, value: Any) -> Object:
    """`body` with the value at a path such as spec.containers.0.ports; a number is a place in a list, its length one more."""
    result = copy.deepcopy(body)
    at: Any = result
    *way, last = [int(step) if step.isdigit() else step for step in path.split("|")]
    for step in way:
        at = at[step] if isinstance(step, int) else at.setdefault(step, {})
    if isinstance(at, list) and last == len(at):
        at.append(value)
    else:
        at[last] = value
    return result


IN_FORCE = ("ClusterRole", "ClusterRoleBinding", "DeviceClass", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
LAST = "aios-marks"
"""Put in force and taken away after the others: while it refuses they do, and when it has ended to they have."""
PATHS = {
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "DeviceClass": "/apis/resource.k8s.io/v1/deviceclasses",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}


@contextmanager
def installed(client: httpx.Client, chart: list[Object], system_namespace: str) -> Iterator[None]:
    """Rights, device classes and policies of the chart are in force, and afterwards are not."""
    objects = [each for each in chart if each["kind"] in IN_FORCE and "helm.sh/hook" not in (each["metadata"].get("annotations") or {})]
    objects.sort(key=lambda each: (IN_FORCE.index(each["kind"]), each["metadata"]["name"] == LAST))
    roles = [each for each in chart if each["kind"] in ("Role", "RoleBinding", "ServiceAccount")]
    for each in objects:
        made(client.post(PATHS[each["kind"]], json=each))
    for each in roles:
        made(client.post(namespaced(each, system_namespace), json=each))
    stage = Stage(client, system_namespace)
    marked = changed(stage.foreign_pod(), "metadata|labels", {names.LABEL_AGENT: "x"})
    try:
        eventually(lambda: stage.admin.create(marked).status_code == 403, "the policies are in force")
        yield
    finally:
        for each in objects:
            client.delete(f"{PATHS[each['kind']]}/{each['metadata']['name']}")
        for each in roles:
            client.delete(f"{namespaced(each, system_namespace)}/{each['metadata']['name']}")
        eventually(lambda: stage.admin.create(marked).status_code == 201, "no policy is in force any more")


def namespaced(each: Object, namespace: str) -> str:
    group = "/api/v1" if each["kind"] == "ServiceAccount" else RBAC
    return f"{group}/namespaces/{namespace}/{each['kind'].lower()}s"


@contextmanager
def people(client: httpx.Client, namespace: str) -> Iterator[Stage]:
    """A namespace with its editor and its owner."""
    stage = Stage(client, namespace)
    made(client.post("/api/v1/namespaces", json={"metadata": {"name": namespace}}))
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    made(client.post(f"{RBAC}/namespaces/{namespace}/roles", json={"metadata": {"name": "all"}, "rules": [everything]}))
    for caller, role in ((stage.owner, {"kind": "Role", "name": "all"}), (stage.editor, {"kind": "ClusterRole", "name": "edit"})):
        subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": caller.user}
        body = {"metadata": {"name": role["name"]}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", **role}, "subjects": [subject]}
        made(client.post(f"{RBAC}/namespaces/{namespace}/rolebindings", json=body))
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    eventually(lambda: client.get(account).status_code == 200, "pods can be made in the new namespace")
    try:
        yield stage
    finally:
        client.delete(f"/api/v1/namespaces/{namespace}")


@contextmanager
def rights_in_the_cluster(caller: Caller, api_group: str, resource: str, *verbs: str) -> Iterator[None]:
    """The caller has one right more, in every namespace."""
    rule = {"apiGroups": [api_group], "resources": [resource], "verbs": list(verbs)}
    group = "rbac.authorization.k8s.io"
    subject = {"kind": "User", "apiGroup": group, "name": caller.user}
    name = {"metadata": {"name": "one-right-more"}}
    bodies = {
        "clusterroles": {**name, "rules": [rule]},
        "clusterrolebindings": {
            **name,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "one-right-more"},
            "subjects": [subject],
        },
    }
    for plural, body in bodies.items():
        made(caller.client.post(f"{RBAC}/{plural}", json=body))
    try:
        yield
    finally:
        for plural in bodies:
            caller.client.delete(f"{RBAC}/{plural}/one-right-more")

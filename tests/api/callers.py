"""Who speaks to the API server in tests of admission: each caller with its own user, groups and what its token says of it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from aios_api import names
from api.support import DRY_RUN, Object

NAMESPACE = "aios-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:aios-operator"
NODE_AGENT = f"system:serviceaccount:{NAMESPACE}:aios-node"
SCHEDULER = "system:kube-scheduler"
CLAIM_CONTROLLER = "system:serviceaccount:kube-system:resource-claim-controller"

KINDS = {
    "Agent": f"/apis/{names.API_VERSION}|{names.AGENTS}",
    "AgentRuntime": f"/apis/{names.API_VERSION}|{names.AGENT_RUNTIMES}",
    "GPUQuota": f"/apis/{names.API_VERSION}|{names.GPU_QUOTAS}",
    "ToolBinding": f"/apis/{names.API_VERSION}|{names.TOOL_BINDINGS}",
    "ResourceClaim": "/apis/resource.k8s.io/v1|resourceclaims",
    "ResourceClaimTemplate": "/apis/resource.k8s.io/v1|resourceclaimtemplates",
    "NetworkPolicy": "/apis/networking.k8s.io/v1|networkpolicies",
    "Lease": "/apis/coordination.k8s.io/v1|leases",
    "Pod": "/api/v1|pods",
    "Service": "/api/v1|services",
}
PATCHES = {list: "application/json-patch+json", dict: "application/merge-patch+json"}


def path_of(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    group, _, plural = KINDS[kind].partition("|")
    return "/".join(part for part in (group, "namespaces", namespace, plural, name, subresource) if part)


@dataclass(frozen=True)
class Caller:
    """Speaks as one user; by default everything is tried and nothing kept."""

    client: httpx.Client
    user: str = ""
    """Empty: the administrator, as the client is."""
    extra: dict[str, str] = field(default_factory=dict)
    keep: bool = False

    def keeping(self) -> Caller:
        """The same, whose writes stay."""
        return Caller(self.client, self.user, self.extra, keep=True)

    def _headers(self) -> list[tuple[str, str]]:
        if not self.user:
            return []
        groups = ["system:authenticated"]
        if self.user.startswith("system:serviceaccount:"):
            groups += ["system:serviceaccounts", f"system:serviceaccounts:{self.user.split(':')[2]}"]
        if self.user.startswith("system:node:"):
            groups.append("system:nodes")
        said = [(f"Impersonate-Extra-{key.replace('/', '%2F')}", value) for key, value in self.extra.items()]
        return [("Impersonate-User", self.user), *(("Impersonate-Group", group) for group in groups), *said]

    def send(self, method: str, path: str, body: Any = None, content: str = "application/json") -> httpx.Response:
        headers = [*self._headers(), ("Content-Type", content)]
        params = {} if self.keep else DRY_RUN
        return self.client.request(method, path, params=params, headers=headers, content=None if body is None else json.dumps(body))

    def create(self, body: Object, subresource: str = "", of: str = "") -> httpx.Response:
        kind = of or body["kind"]
        metadata = body["metadata"]
        named = metadata["name"] if subresource else ""
        return self.send("POST", path_of(kind, metadata["namespace"], named, subresource), body)

    def patch(self, obj: Object, patch: Any, subresource: str = "") -> httpx.Response:
        metadata = obj["metadata"]
        path = path_of(obj["kind"], metadata["namespace"], metadata["name"], subresource)
        return self.send("PATCH", path, patch, PATCHES[type(patch)])

    def delete(self, obj: Object, propagation: str = "Background") -> httpx.Response:
        metadata = obj["metadata"]
        options: Object = {"propagationPolicy": propagation}  # of a delete with a body the server reads no parameters
        if not self.keep:
            options["dryRun"] = ["All"]
        return self.send("DELETE", path_of(obj["kind"], metadata["namespace"], metadata["name"]), options)

    def get(self, obj: Object) -> Object | None:
        metadata = obj["metadata"]
        answer = self.client.get(path_of(obj["kind"], metadata["namespace"], metadata["name"]))
        found: Object | None = answer.json() if answer.status_code == 200 else None
        return found


def made(answer: httpx.Response) -> Object:
    """The object that was accepted."""
    assert answer.status_code in (200, 201), answer.text
    content: Object = answer.json()
    return content


def denied(answer: httpx.Response, policy: str) -> str:
    """The sentence of this policy of ours that refused the request."""
    assert answer.status_code == 403, (answer.status_code, answer.text)
    message = str(answer.json()["message"])
    assert f"ValidatingAdmissionPolicy '{policy}'" in message, message
    return message


def claims_of(token: str) -> Object:
    """What a token says, read without a look at its signature."""
    part = token.split(".")[1]
    content: Object = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return content

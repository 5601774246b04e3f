"""A plain client for these tests: what they send is what arrives, and every answer is looked at."""

import copy
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from aios_api import names
from aios_localcluster import LocalCluster

Object = dict[str, Any]
DRY_RUN = {"dryRun": "All"}


def connect(cluster: LocalCluster) -> httpx.Client:
    """A client with the administrator's certificate."""
    pki = cluster.layout.certificates
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    return httpx.Client(base_url=cluster.network.api_url, verify=context, timeout=30, trust_env=False)


def eventually(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until `holds`; the API server needs a moment for what it learns from itself."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"after {seconds:.0f} s it must be true that {what}"
        time.sleep(0.05)


def kubectl(cluster: LocalCluster, *arguments: str) -> str:
    """What kubectl prints; its own error where it fails."""
    command = [str(cluster.kubectl_path), "--kubeconfig", str(cluster.kubeconfig), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Space:
    """One namespace, and what tests do with our kinds in it."""

    client: httpx.Client
    namespace: str

    def path(self, plural: str, name: str = "", subresource: str = "") -> str:
        parts = ["/apis", names.GROUP, names.VERSION, "namespaces", self.namespace, plural, name, subresource]
        return "/".join(part for part in parts if part)

    def create(self, body: Object, *, dry_run: bool = True) -> httpx.Response:
        """Create one of our objects; without `dry_run` it is kept."""
        plural = f"{body['kind'].lower()}s"
        return self.client.post(self.path(plural), params={"fieldValidation": "Strict", **(DRY_RUN if dry_run else {})}, json=body)

    def apply(self, body: Object, manager: str, *, subresource: str = "", force: bool = False) -> httpx.Response:
        """Server-side apply."""
        path = self.path(f"{body['kind'].lower()}s", body["metadata"]["name"], subresource)
        params = {"fieldManager": manager, "force": str(force).lower()}
        return self.client.patch(path, params=params, headers={"Content-Type": "application/apply-patch+yaml"}, json=body)


def agent(name: str = "agent", **spec: Any) -> Object:
    """The smallest Agent, with parts of its spec replaced."""
    template = {"spec": {"containers": [container()]}}
    return {"apiVersion": names.API_VERSION, "kind": "Agent", "metadata": {"name": name}, "spec": {"template": template, **spec}}


def container(**fields: Any) -> Object:
    return {"name": "main", "image": "localhost/example:1", **fields}


def with_field(body: Object, path: str, value: Any) -> Object:
    """`body` with the field at `path` (`spec.gpu`, `spec.template.spec.containers[0].tty`) set; what is missing on the way is made."""
    changed = copy.deepcopy(body)
    at: Any = changed
    *way, last = path.replace("[", ".[").split(".")
    for step, following in zip(way, [*way[1:], last], strict=True):
        at = _step(at, step, [{}] if following.startswith("[") else {})
    if last.startswith("["):
        at[int(last[1:-1])] = value
    else:
        at[last] = value
    return changed


def _step(at: Any, step: str, missing: Any) -> Any:
    return at[int(step[1:-1])] if step.startswith("[") else at.setdefault(step, missing)


def refusal(answer: httpx.Response) -> str:
    """The message of a refused request."""
    assert answer.status_code == 422, (answer.status_code, answer.text)
    return str(answer.json()["message"])


def order(name: str = "agent", attempt: int = 1, node: str = "node-a", **spec: Any) -> Object:
    """An AgentRuntime as the operator writes it."""
    of_attempt = f"{name}-{attempt}"
    fields = {
        "agentUID": "u1",
        "attempt": attempt,
        "templateDigest": "d1",
        "nodeName": node,
        "claimName": of_attempt,
        "podName": of_attempt,
    }
    return {"apiVersion": names.API_VERSION, "kind": "AgentRuntime", "metadata": {"name": name}, "spec": {**fields, **spec}}

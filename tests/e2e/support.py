"""How the end-to-end tests speak with the cluster: kubectl as a user has it, objects as dicts, waiting with a reason."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import kubectl

Object = dict[str, Any]
T = TypeVar("T")

IDLE = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); signal.pause()"
"""An agent that does nothing and ends at once when it is told to."""


def eventually(probe: Callable[[], T], what: str, timeout_seconds: float = 60, every_seconds: float = 0.3) -> T:
    """The first true answer of `probe`; fails with `what` and the last answer when none comes in time."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout_seconds} s: {what}; last answer: {answer!r}"
        time.sleep(every_seconds)


@dataclass(frozen=True)
class Space:
    """One namespace of the cluster, removed after the test."""

    cluster: LocalCluster
    name: str
    image: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl(self.cluster, "-n", self.name, *arguments, stdin=stdin)

    def get(self, kind: str, name: str) -> Object | None:
        found = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found else None

    def objects(self, kind: str, selector: str = "") -> list[Object]:
        return json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def refused(self, obj: Object) -> str:
        """What the API server says when it refuses `obj`; fails when it takes it."""
        try:
            self.apply(obj)
        except subprocess.CalledProcessError as error:
            return str(error.stderr)
        raise AssertionError(f"the API server accepted {obj}")

    def patch(self, agent: str, spec: Object) -> None:
        self.kubectl("patch", "agent", agent, "--type=merge", "-p", json.dumps({"spec": spec}))

    def agent(self, name: str, *, memory: str | None = None, code: str = IDLE, image: str | None = None, **spec: Any) -> Object:
        """An Agent of one container that runs `code` in Python."""
        container = {"name": "main", "image": image or self.image, "command": ["python3", "-c", code], "imagePullPolicy": "IfNotPresent"}
        if memory is not None:
            spec["gpu"] = {"memory": memory, **spec.pop("gpu", {})}
        return {
            "apiVersion": "aios.dev/v1alpha1",
            "kind": "Agent",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {"template": {"spec": {"containers": [container], "terminationGracePeriodSeconds": 2}}, **spec},
        }

    def condition(self, name: str, kind: str, resource: str = "agent") -> Object:
        found = self.get(resource, name) or {}
        return next((c for c in found.get("status", {}).get("conditions", []) if c["type"] == kind), {})

    def wait(self, name: str, kind: str, status: str = "True", timeout_seconds: float = 60) -> Object:
        """The Agent, once its condition `kind` is `status` for its newest generation."""

        def probe() -> Object | None:
            found = self.get("agent", name) or {}
            of_kind = [c for c in found.get("status", {}).get("conditions", []) if c["type"] == kind]
            current = found.get("metadata", {}).get("generation")
            return found if of_kind and of_kind[0]["status"] == status and of_kind[0].get("observedGeneration") == current else None

        try:
            return eventually(probe, f"Agent {name}: {kind}={status}", timeout_seconds)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.kubectl('describe', 'agent', name)}\n{self.kubectl('get', 'pods,resourceclaims,agentruntimes,events')}"
            ) from error

    def ready(self, *names: str, timeout_seconds: float = 60) -> list[Object]:
        return [self.wait(name, "Ready", timeout_seconds=timeout_seconds) for name in names]

    def pod_of(self, name: str) -> str:
        found = self.get("agent", name)
        assert found is not None
        return str(found["status"]["podName"])

    def inside(self, agent: str, code: str) -> str:
        """What Python code prints in the agent's own container."""
        return self.kubectl("exec", self.pod_of(agent), "--", "python3", "-c", code)

    def gone(self, kind: str, name: str, timeout_seconds: float = 60) -> None:
        eventually(lambda: self.get(kind, name) is None, f"{kind} {name} is gone", timeout_seconds)

    def versions(self) -> dict[str, str]:
        """The version of each object that the operator writes: a write that changes one is seen here."""
        found = json.loads(self.kubectl("get", "agents,agentruntimes,resourceclaims,pods,networkpolicies", "-o", "json"))["items"]
        return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"] for each in found}

    def at_rest(self, seconds: float = 2) -> dict[str, str]:
        """The versions, once none has changed for that long."""

        def same() -> dict[str, str] | None:
            before = self.versions()
            time.sleep(seconds)
            return before if self.versions() == before else None

        return eventually(same, "nothing changes any more")

    def nothing_left(self, timeout_seconds: float = 60) -> None:
        """No object of ours is in the namespace."""
        kinds = "agents,agentruntimes,resourceclaims,pods"
        eventually(
            lambda: not json.loads(self.kubectl("get", kinds, "-o", "json"))["items"], f"nothing is left in {self.name}", timeout_seconds
        )


@contextmanager
def namespace(cluster: LocalCluster, name: str, image: str) -> Iterator[Space]:
    kubectl(cluster, "create", "namespace", name)
    try:
        yield Space(cluster, name, image)
    finally:
        kubectl(cluster, "delete", "namespace", name, "--wait=false")

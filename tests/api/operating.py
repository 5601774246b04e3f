"""The operator as a process on a real control plane without nodes: the test is kubelet and node agent."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from aios_api import names
from aios_bench.ports import free_port
from api.support import Object

GPU = "GPU-0a0b0c0d-0000-4000-8000-000000000001"
MERGE = {"Content-Type": "application/merge-patch+json"}
CLAIMS = "/apis/resource.k8s.io/v1"


def device_class(name: str, kind: str) -> Object:
    expression = (
        f'device.driver == "{names.DRIVER}" && "kind" in device.attributes["{names.DRIVER}"]'
        f' && device.attributes["{names.DRIVER}"].kind == "{kind}"'
    )
    return {"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": expression}}]}}


def resource_slice(node: str) -> Object:
    """80 GiB on one GPU, and sixteen slots, as the node agent publishes them."""
    runtime = {
        "name": names.RUNTIME_DEVICE,
        "allowMultipleAllocations": True,
        "attributes": {"kind": {"string": "runtime"}, "contract": {"int": names.CONTRACT_VERSION}},
        "capacity": {"slots": {"value": "16", "requestPolicy": {"default": "1", "validValues": ["1"]}}},
    }
    step = {"default": "1Mi", "validRange": {"min": "1Mi", "step": "1Mi", "max": "80Gi"}}
    gpu = {
        "name": "gpu-0a0b0c0d-0000-4000-8000-000000000001",
        "allowMultipleAllocations": True,
        "attributes": {"kind": {"string": "gpu"}, "uuid": {"string": GPU}, "model": {"string": "NVIDIA H100"}, "fake": {"bool": True}},
        "capacity": {"memory": {"value": "80Gi", "requestPolicy": step}},
    }
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": names.DRIVER, "nodeName": node, "pool": pool, "devices": [runtime, gpu]}
    return {"metadata": {"name": f"{node}-{names.DRIVER}"}, "spec": spec}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Plane:
    """What tests do on the control plane."""

    client: httpx.Client
    kubeconfig: Path
    quiet: set[str] = field(default_factory=set)
    """Nodes whose kubelet says nothing any more."""
    unheard: set[str] = field(default_factory=set)
    """Nodes whose agent renews no Lease any more."""

    def post(self, path: str, body: Object) -> Object:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 201, answer.text
        created: Object = answer.json()
        return created

    def get(self, path: str) -> Object | None:
        answer = self.client.get(path)
        found: Object | None = answer.json() if answer.status_code == 200 else None
        return found

    def items(self, path: str) -> list[Object]:
        listed = self.get(path)
        assert listed is not None, path
        items: list[Object] = listed["items"]
        return items

    def merge(self, path: str, patch: Object) -> None:
        answer = self.client.patch(path, json=patch, headers=MERGE)
        assert answer.status_code == 200, answer.text

    @contextlib.contextmanager
    def node(self, name: str) -> Iterator[None]:
        """A node that is ready, with its slice; it beats like a kubelet so that the node controller keeps believing in it. It is gone
        afterwards, as far as it still was there."""
        self.post("/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
        self._beat(name)
        self.post(f"{CLAIMS}/resourceslices", resource_slice(name))
        stop = threading.Event()
        thread = threading.Thread(target=self._beat_on, args=(name, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.client.delete(f"{CLAIMS}/resourceslices/{name}-{names.DRIVER}")
            self.client.delete(f"/api/v1/nodes/{name}")

    def _beat_on(self, name: str, stop: threading.Event) -> None:
        while not stop.wait(5):
            if name not in self.quiet:
                self._beat(name)

    @contextlib.contextmanager
    def node_agent(self, name: str, namespace: str) -> Iterator[None]:
        """Renews the Lease of that node, as its agent does, unless the node is among the unheard."""
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        labels = {names.LABEL_COMPONENT: names.COMPONENT_NODE_AGENT}
        self.post(leases, {"metadata": {"name": names.node_lease_name(name), "labels": labels}, "spec": {"holderIdentity": name}})
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(0.2):
                if name not in self.unheard:
                    renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    self.merge(f"{leases}/{names.node_lease_name(name)}", {"spec": {"renewTime": renewed}})

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.client.delete(f"{leases}/{names.node_lease_name(name)}")

    def say_ready(self, name: str, word: str) -> None:
        """The node's condition Ready, from here on untouched by its kubelet."""
        self.quiet.add(name)
        ready = {"type": "Ready", "status": word, "reason": "Test", "message": "", "lastHeartbeatTime": now(), "lastTransitionTime": now()}
        self.merge(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready]}})

    def _beat(self, name: str) -> None:
        offered = {"cpu": "8", "memory": "32Gi", "pods": "110"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "beats", "lastHeartbeatTime": now()}
        status = {"capacity": offered, "allocatable": offered, "conditions": [{**ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        self.merge(f"/api/v1/nodes/{name}/status", {"status": status})

    def serve(self, namespace: str, pod_name: str) -> None:
        """The node has prepared the claim, fenced and started the pod."""
        pod = self.get(f"/api/v1/namespaces/{namespace}/pods/{pod_name}")
        claim = self.get(f"{CLAIMS}/namespaces/{namespace}/resourceclaims/{pod_name}")
        assert pod is not None
        assert claim is not None
        labels = pod["metadata"]["labels"]
        said = {"status": "True", "message": "", "lastTransitionTime": now()}
        facts = {
            "nodeName": pod["spec"]["nodeName"],
            "attempt": int(labels[names.LABEL_ATTEMPT]),
            "claimUID": claim["metadata"]["uid"],
            "podUID": pod["metadata"]["uid"],
            "contractVersion": names.CONTRACT_VERSION,
            "conditions": [{"type": kind, "reason": kind, **said} for kind in ("Prepared", "Fenced", "Listening")],
        }
        runtime = f"/apis/{names.API_VERSION}/namespaces/{namespace}/agentruntimes/{labels[names.LABEL_AGENT]}"
        self.merge(f"{runtime}/status", {"status": facts})
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now()} for kind in ("PodScheduled", "Ready", "ContainersReady")
        ]
        self.merge(f"/api/v1/namespaces/{namespace}/pods/{pod_name}/status", {"status": {"phase": "Running", "conditions": conditions}})

    def confirm(self, namespace: str, agent: str) -> None:
        """The gateway has loaded the policy of the Agent's order, and the fence is open for what it exposes."""
        path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/agentruntimes/{agent}"
        order = self.get(path)
        assert order is not None
        digest = (order["spec"].get("egress") or {}).get("digest")
        open_ports = [{"port": each["port"], "protocol": each["protocol"]} for each in order["spec"].get("expose") or ()]
        self.merge(f"{path}/status", {"status": {"egress": {"policyDigest": digest, "since": now()}, "exposed": open_ports}})

    def end_deleted_pods(self, namespace: str) -> None:
        """As a kubelet does with pods that are to go."""
        for pod in self.items(f"/api/v1/namespaces/{namespace}/pods"):
            if "deletionTimestamp" in pod["metadata"]:
                path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
                self.client.request("DELETE", path, json={"gracePeriodSeconds": 0})

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Waits until `holds` is truthy, and returns that."""
        end = time.monotonic() + seconds
        while True:
            found = holds()
            if found:
                return found
            assert time.monotonic() < end, f"after {seconds:.0f} s it must be true that {what}"
            time.sleep(0.05)


@contextlib.contextmanager
def operator(plane: Plane, log: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Runs inside, ready; ends at SIGTERM with 0 unless it has ended before. Yields the process and the port of its probes."""
    port = free_port()
    environment = {"PATH": "/usr/bin:/bin", "AIOS_HTTP_HOST": "127.0.0.1", "AIOS_HTTP_PORT": str(port), **settings}
    command = [sys.executable, "-m", "aios_operator.main", "--kubeconfig", str(plane.kubeconfig), "run"]
    with log.open("ab") as lines, subprocess.Popen(command, env=environment, stdout=lines, stderr=lines) as process:
        try:
            plane.until(lambda: process.poll() is not None or answers(port, "/readyz"), "the operator is ready")
            assert process.poll() is None, log.read_text()
            yield process, port
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)  # a second one changes nothing
                assert process.wait(60) == 0, log.read_text()
                assert "ERROR" not in log.read_text()
        finally:
            process.kill()


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False

"""Agents of one node on a real API server: what operator and scheduler write of each, and what is said there of the node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from aios_api import names
from aios_api.egress import NOTHING
from aios_bench.faults.api.control_plane import AIOS, until
from aios_bench.faults.checkout import of_tests
from aios_bench.faults.node.program import SHARE, agent_name, uid
from aios_localcluster.settings import RELEASE_NAMESPACE
from aios_sidecar.node.state import Opening

Object = dict[str, Any]
DRA = "/apis/resource.k8s.io/v1"
SLICES = f"{DRA}/resourceslices"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{RELEASE_NAMESPACE}/leases"
EVENTS = "/apis/events.k8s.io/v1/events"


class Team:
    """A `node_program.World`. An Agent that is gone does not come back under its number."""

    def __init__(self, plane: Any, kubeconfig: Path) -> None:
        self._plane = plane
        self._support = of_tests("node.support")
        self._attempts: dict[int, int] = {}
        self._orders: dict[int, str] = {}
        self._claims: dict[int, str] = {}
        self._pods: dict[int, str] = {}
        self._openings: dict[int, tuple[frozenset[Opening], ...]] = {}
        self.node = str(self._support.NODE)
        self.argument = str(kubeconfig)
        for namespace in (self._support.NAMESPACE, RELEASE_NAMESPACE):
            plane.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        until(lambda: plane.get(self._of("/api/v1", "serviceaccounts", "default")), "pods may be made in the namespace")

    def claim_uid(self, number: int) -> str:
        return self._claims[number]

    def pod_uid(self, number: int) -> str:
        return self._pods[number]

    def of_attempt(self, number: int) -> str:
        return f"{agent_name(number)}-{self._attempts[number]}"

    def openings(self, number: int) -> tuple[frozenset[Opening], ...]:
        return self._openings[number]

    def _of(self, group: str, plural: str, name: str = "") -> str:
        return f"{group}/namespaces/{self._support.NAMESPACE}/{plural}" + (f"/{name}" if name else "")

    # ── what is written ──

    def come(self, number: int, **spec: Any) -> None:
        """There is a new Agent: its order, its claim, allocated, and its pod, bound."""
        self._attempts[number] = 1
        order = self._support.a_runtime(agent_name(number), memory=SHARE, agentUID=uid(4, number), **spec)
        body = {"apiVersion": names.API_VERSION, "kind": "AgentRuntime", **order}
        self._orders[number] = self._plane.post(self._of(AIOS, "agentruntimes"), body)["metadata"]["uid"]
        self._openings[number] = (_openings(spec.get("expose")),)
        self._make(number)

    def change(self, number: int, **spec: Any) -> None:
        if "expose" in spec:
            self._openings[number] = (_openings(spec["expose"]), self._openings[number][0])
        self._plane.merge(self._of(AIOS, "agentruntimes", agent_name(number)), {"spec": spec})

    def come_again(self, number: int) -> None:
        """The next attempt; nothing is left on the API server of the one before."""
        self._end(number)
        self._attempts[number] += 1
        name = self.of_attempt(number)
        self.change(number, attempt=self._attempts[number], claimName=name, podName=name)
        self._make(number)

    def go(self, number: int) -> None:
        """The Agent was deleted."""
        self._plane.client.delete(self._of(AIOS, "agentruntimes", agent_name(number)))
        self._end(number)
        known: dict[int, Any]
        for known in (self._attempts, self._orders, self._claims, self._pods, self._openings):
            del known[number]

    def _make(self, number: int) -> None:
        name, attempt = self.of_attempt(number), self._attempts[number]
        claim = self._support.a_claim(agent_name(number), attempt, memory=SHARE)
        claim["metadata"]["ownerReferences"][0]["uid"] = self._orders[number]
        asked = {"exactly": {"deviceClassName": names.RUNTIME_CLASS}}
        share = {"exactly": {"deviceClassName": names.GPU_CLASS, "capacity": {"requests": {names.CAPACITY_MEMORY: SHARE}}}}
        claim["spec"]["devices"]["requests"] = [{"name": names.REQUEST_RUNTIME, **asked}, {"name": names.REQUEST_GPU, **share}]
        self._claims[number] = self._plane.post(self._of(DRA, "resourceclaims"), claim)["metadata"]["uid"]
        container = {"name": "main", "image": "localhost/example:1", "resources": {"claims": [{"name": "claim"}]}}
        spec = {"nodeName": self.node, "containers": [container], "resourceClaims": [{"name": "claim", "resourceClaimName": name}]}
        self._pods[number] = self._plane.post(self._of("/api/v1", "pods"), {"metadata": {"name": name}, "spec": spec})["metadata"]["uid"]
        claim["status"]["reservedFor"] = [{"resource": "pods", "name": name, "uid": self._pods[number]}]
        self._plane.merge(self._of(DRA, "resourceclaims", f"{name}/status"), {"status": claim["status"]})

    def _end(self, number: int) -> None:
        name = self.of_attempt(number)
        self._plane.client.request("DELETE", self._of("/api/v1", "pods", name), json={"gracePeriodSeconds": 0})
        self._plane.client.delete(self._of(DRA, "resourceclaims", name))
        until(lambda: self._plane.get(self._of(DRA, "resourceclaims", name)) is None, f"claim {name} is gone")

    def upset_slices(self) -> None:
        """The slice of the node is gone, as when a kubelet starts, and one of another name is there, as of another version of its agent."""
        self._plane.client.delete(f"{SLICES}/{self.node}-{names.DRIVER}")
        pool = {"name": self.node, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": names.DRIVER, "nodeName": self.node, "pool": pool, "devices": [{"name": "runtime"}]}
        self._plane.client.post(SLICES, json={"metadata": {"name": f"{self.node}-formerly"}, "spec": spec})  # the one before may be there

    # ── what is said there ──

    def digest(self, number: int) -> str | None:
        """Of the policy that is in force."""
        order = self._plane.get(self._of(AIOS, "agentruntimes", agent_name(number)))
        digest: str | None = (order["status"].get("egress") or {}).get("policyDigest")
        return digest

    def read(self, guest: int) -> dict[str, Any]:
        """What is the same at the end of two lives, by what it is: orders and what is said of them, slices, Leases."""
        found: dict[str, Any] = {}
        numbers = {agent_name(number): number for number in self._orders}
        for order in self._plane.items(self._of(AIOS, "agentruntimes")):
            number = numbers.get(order["metadata"]["name"])
            role = "guest" if number == guest else order["metadata"]["name"]
            found[f"AgentRuntime {role}"] = None if number is None else self._essence(number, order)
        for each in self._plane.items(SLICES):
            if each["spec"].get("nodeName") == self.node:
                found[f"ResourceSlice {each['metadata']['name']}"] = each["spec"]["devices"]
        for each in self._plane.items(LEASES):
            found[f"Lease {each['metadata']['name']}"] = each["spec"]["holderIdentity"], each["metadata"].get("labels")
        return found

    def _essence(self, number: int, order: Object) -> Object:
        """`right`: it speaks of the order's own attempt, claim, pod and policy, and well of who runs."""
        spec, status = order["spec"], order.get("status") or {}
        own = (self._attempts[number], self._claims[number], self._pods[number])
        told = (status.get("attempt"), status.get("claimUID"), status.get("podUID", own[2]))
        conditions = sorted((each["type"], each["status"], each["reason"]) for each in status.get("conditions") or ())
        policy, runs = (status.get("egress") or {}).get("policyDigest"), "podUID" in status
        share = (status.get("gpu") or {}).get("uuid")
        confirmed = policy == (spec.get("egress") or {}).get("digest", NOTHING.digest) and told == own
        return {
            "right": confirmed and (not runs or (share is not None and all(word == "True" for _, word, _ in conditions))),
            "runs": runs,
            "policy": policy,
            "exposed": status.get("exposed"),
            "leaked": (status.get("probe") or {}).get("leaked"),
            "share": share,
            "contract": (status.get("nodeName"), status.get("contractVersion")),
            "conditions": conditions,
        }

    def renewed(self) -> str:
        """When the node was heard last."""
        (lease,) = self._plane.items(LEASES)
        return str(lease["spec"]["renewTime"])

    def repeated_events(self, starts: int) -> list[str]:
        """Of what the node agent told, what there is more than once for each of its starts."""
        told = [each for each in self._plane.items(EVENTS) if each.get("reportingController") == names.DRIVER]
        counts = Counter((each["reason"], each["regarding"].get("uid"), each.get("note")) for each in told)
        return [f"event {reason} is there {count} times: {note}" for (reason, _, note), count in counts.items() if count > starts]


def _openings(expose: list[Object] | None) -> frozenset[Opening]:
    return frozenset(Opening(port=each["port"], protocol=each["protocol"]) for each in expose or ())

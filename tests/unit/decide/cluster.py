"""The part of the cluster in memory that is not ours: API server, garbage collection, claim controller, kube-scheduler, kubelet and node
agent, as far as an Agent's life depends on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

from aios_api import names
from aios_api.quantity import format_bytes, parse_bytes
from aios_operator.decide.lost import BY_POD_GC, OUT_OF_SERVICE
from aios_operator.decide.requests import of_pod
from aios_operator.decide.views import Requests
from aios_operator.observe import parse

Object = dict[str, Any]
NAMESPACE = "team"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Cluster:
    """Objects, the API server's part in them, and the hands of everybody but users and the operator."""

    def __init__(self) -> None:
        self.now = START
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.foreign: dict[str, Requests] = {}
        self.scheduler_refuses: set[str] = set()
        self.scheduler_sleeps = False
        self.kubelet_sleeps = False
        self.unprepared: set[str] = set()
        """Agents whose claim the kubelet failed to have prepared; it looks again when their pod changes."""
        self.moves: dict[str, Object] = {}
        """By Agent: what its node says of the move of its context, `here` among it. Without an entry it comes at once."""
        self.exits: dict[str, Object] = {}
        """By Agent: how its container ends as soon as it runs (a `terminated` state)."""
        self.waits: dict[str, Object] = {}
        """By Agent: why its container does not start (a `waiting` state)."""
        self.of_shares: dict[str, dict[str, tuple[str, str, str]]] = {}
        """By Agent: what its node says of its share (condition to status, reason and message)."""
        self.cut_off: set[str] = set()
        """Nodes that neither reach the API server nor are reached; what runs there runs on."""
        self.ended: set[str] = set()
        """Pods whose kubelet has said, before it let them go, how they ended."""
        self.pod_gc_sleeps = False
        self.no_room: list[str] = []
        """Pods that kube-scheduler could not bind because what the operator gave out was not there."""
        self._serial = 0

    def find(self, kind: str, name: str) -> Object | None:
        return self.objects.get((kind, "" if kind in ("Node", "ResourceSlice") else NAMESPACE, name))

    def get(self, kind: str, name: str) -> Object:
        found = self.find(kind, name)
        assert found is not None, f"{kind} {name} is not there; there are {[i for i in self.objects if i[0] == kind]}"
        return found

    def all(self, kind: str) -> list[Object]:
        return [obj for (k, _, _), obj in sorted(self.objects.items()) if k == kind]

    def names(self, kind: str) -> list[str]:
        return [obj["metadata"]["name"] for obj in self.all(kind)]

    def delete(self, kind: str, name: str) -> Self:
        """As `kubectl delete`: objects with finalizers, pods and reserved claims are only marked."""
        found = self.find(kind, name)
        if found is not None and "deletionTimestamp" not in found["metadata"]:
            found["metadata"]["deletionTimestamp"] = self._time()
            self._touch(found)
            if not found["metadata"].get("finalizers") and kind != "Pod" and not self._in_use(found):
                del self.objects[self._id(found)]
        return self

    # Everybody else.

    def others(self) -> bool:
        """One round of garbage collection, claim controller, kube-scheduler, node agent and kubelet; whether anything changed."""
        before = self._serial, len(self.objects)
        self._collect_garbage()
        self._release_claims()
        if not self.pod_gc_sleeps:
            for pod in self._pods_of_agents():
                self._collect_pod(pod)
        if not self.scheduler_sleeps:
            for pod in self._pods_of_agents():
                self._schedule(pod)
        for runtime in self.all("AgentRuntime"):
            self._tell_facts(runtime)
        if not self.kubelet_sleeps:
            for pod in self._pods_of_agents():
                if not pod["spec"].get("nodeName") or self.is_reached(pod["spec"]["nodeName"]):
                    self._run(pod)
        return before != (self._serial, len(self.objects))

    def _pods_of_agents(self) -> list[Object]:
        return [pod for pod in self.all("Pod") if names.LABEL_AGENT in (pod["metadata"].get("labels") or {})]

    def is_reached(self, node: str) -> bool:
        """The node and the API server hear each other."""
        return node not in self.cut_off and self.find("Node", node) is not None

    def _collect_pod(self, pod: Object) -> None:
        """The pod garbage collector: pods of nodes that are gone or out of service are failed, and removed without their kubelet."""
        name = pod["spec"].get("nodeName")
        node = self.find("Node", name) if name else None
        taints = [taint["key"] for taint in node["spec"].get("taints") or ()] if node else []
        if name is None or (node is not None and OUT_OF_SERVICE not in taints):
            return
        if any(c.get("reason") == BY_POD_GC for c in pod["status"].get("conditions") or ()):
            del self.objects[self._id(pod)]
            return
        gone = {"type": "DisruptionTarget", "status": "True", "reason": BY_POD_GC, "message": "PodGC"}
        phase = pod["status"]["phase"] if pod["status"]["phase"] == "Succeeded" else "Failed"
        pod["status"] = {**pod["status"], "phase": phase, "conditions": [*pod["status"].get("conditions", ()), gone]}
        pod["metadata"].setdefault("deletionTimestamp", self._time())
        self._touch(pod)

    def _collect_garbage(self) -> None:
        uids = {obj["metadata"]["uid"] for obj in self.objects.values()}
        for obj in list(self.objects.values()):
            owners = obj["metadata"].get("ownerReferences") or ()
            if owners and not any(owner["uid"] in uids for owner in owners):
                self.delete(obj["kind"], obj["metadata"]["name"])

    def _release_claims(self) -> None:
        """What no living pod uses is deallocated, and gone when it was to be deleted."""
        for claim in self.all("ResourceClaim"):
            if self._in_use(claim):
                continue
            if claim.get("status"):
                claim["status"] = {}
                self._touch(claim)
            if "deletionTimestamp" in claim["metadata"]:
                del self.objects[self._id(claim)]

    def _in_use(self, obj: Object) -> bool:
        users = {user["uid"] for user in (obj.get("status") or {}).get("reservedFor") or ()} if obj["kind"] == "ResourceClaim" else set()
        alive = {p["metadata"]["uid"] for p in self.all("Pod") if (p.get("status") or {}).get("phase") not in ("Succeeded", "Failed")}
        return bool(users & alive)

    def _schedule(self, pod: Object) -> None:
        claim = self.find("ResourceClaim", pod["spec"].get("resourceClaims", [{}])[0].get("resourceClaimName", ""))
        if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            return
        terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (node,) = terms[0]["matchFields"][-1]["values"]
        results = None if claim is None or "deletionTimestamp" in claim["metadata"] else self._allocation(claim, node)
        if results is None or not self._has_room(pod, node):
            self.no_room.append(f"{pod['metadata']['name']} on {node}")
            results = None
        if node in self.scheduler_refuses or results is None:
            conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": f"0/1 nodes: {node} refused"}]
            if not (pod.get("status") or {}).get("conditions"):
                pod["status"] = {"phase": "Pending", "conditions": [{**conditions[0], "lastTransitionTime": self._time()}]}
                self._touch(pod)
            return
        assert claim is not None
        user = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        claim["status"] = {"allocation": {"devices": {"results": results}}, "reservedFor": [user]}
        pod["spec"]["nodeName"] = node
        pod["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": self._time()}]}
        self._touch(claim)
        self._touch(pod)

    def _has_room(self, pod: Object, name: str) -> bool:
        """Whether CPU, memory and number of pods allow the pod on the node."""
        node = self.find("Node", name)
        if node is None or not parse.node(node).ready:
            return False
        bound = [p for p in self.all("Pod") if p["spec"].get("nodeName") == name]
        alive = [p for p in bound if p["status"]["phase"] not in ("Succeeded", "Failed")]
        used = sum((of_pod(p["spec"]) for p in (*alive, pod)), self.foreign.get(name, Requests()))
        have = parse.node(node).allocatable
        return used.cpu_milli <= have.cpu_milli and used.memory_bytes <= have.memory_bytes and used.pods <= have.pods

    def _allocation(self, claim: Object, node: str) -> list[Object] | None:
        """The results that kube-scheduler would write; None when a device has not enough left."""
        sliced = self.find("ResourceSlice", f"{node}-slice")
        results = []
        for request in claim["spec"]["devices"]["requests"]:
            exactly = request["exactly"]
            wanted = (exactly.get("capacity") or {}).get("requests") or {"slots": "1"}
            ((capacity, amount),) = wanted.items()
            devices = sliced["spec"]["devices"] if sliced else []
            chosen = [d for d in devices if capacity in d["capacity"] and _selects(exactly, d) and not _keeps_away(d)]
            taken = [r for r in self._results() if r["pool"] == node and chosen and r["device"] == chosen[0]["name"]]
            used = sum(parse_bytes(r["consumedCapacity"][capacity]) for r in taken)
            if not chosen or used + parse_bytes(amount) > parse_bytes(chosen[0]["capacity"][capacity]["value"]):
                return None
            booked = {capacity: str(amount) if capacity == "slots" else format_bytes(parse_bytes(amount))}
            device = {"driver": names.DRIVER, "pool": node, "device": chosen[0]["name"]}
            results.append({"request": request["name"], **device, "consumedCapacity": booked})
        return results

    def _results(self) -> list[Object]:
        allocations = [(c.get("status") or {}).get("allocation") for c in self.all("ResourceClaim")]
        return [result for allocation in allocations if allocation for result in allocation["devices"]["results"]]

    def _tell_facts(self, runtime: Object) -> None:
        spec = runtime["spec"]
        claim, pod = self.find("ResourceClaim", spec["claimName"]), self.find("Pod", spec["podName"])
        if claim is None or not (claim.get("status") or {}).get("allocation") or runtime["metadata"]["name"] in self.unprepared:
            return
        if not self.is_reached(spec["nodeName"]):
            return
        running = pod is not None and (pod.get("status") or {}).get("phase") == "Running"
        said = {"Prepared": "True", "Fenced": "True" if running else "Unknown", "Listening": "True" if running else "False"}
        conditions = [
            {"type": kind, "status": word, "reason": kind if word == "True" else "WaitingForContainer", "message": f"{kind}: {word}"}
            for kind, word in said.items()
        ]
        conditions += [
            {"type": kind, "status": word, "reason": reason, "message": message}
            for kind, (word, reason, message) in self.of_shares.get(runtime["metadata"]["name"], {}).items()
        ]
        moved = self.moves.get(runtime["metadata"]["name"], {"here": True})
        if spec.get("contextFrom") and not spec["contextFrom"].get("startEmpty") and not moved["here"]:
            conditions = [{"type": "Prepared", "status": "False", "reason": "ContextOnItsWay", "message": "on its way"}]
        about: Object = {"nodeName": spec["nodeName"], "attempt": spec["attempt"], "claimUID": claim["metadata"]["uid"]}
        if spec.get("contextFrom"):
            empty = bool(spec["contextFrom"].get("startEmpty"))
            known = {"fromNode": spec["contextFrom"]["nodeName"], "receivedBytes": 0, "totalBytes": 0}
            about["move"] = {**known, **moved, "here": moved["here"] or empty}
        if runtime.get("status") != {**about, "conditions": conditions}:
            runtime["status"] = {**about, "conditions": conditions}
            self._touch(runtime)

    def _run(self, pod: Object) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            self.ended.add(pod["metadata"]["uid"])
            del self.objects[self._id(pod)]
            return
        phase = (pod.get("status") or {}).get("phase")
        if not pod["spec"].get("nodeName") or phase in ("Succeeded", "Failed"):
            return
        name = pod["metadata"]["labels"][names.LABEL_AGENT]
        order = self.find("AgentRuntime", name) or {}
        if name in self.unprepared or (order.get("status") or {}).get("move", {"here": True})["here"] is False:
            return
        end, wait = self.exits.get(name), self.waits.get(name)
        if wait is not None:
            wanted = self._pod_status("Pending", False, {"waiting": wait})
        elif end is not None and phase == "Running":
            wanted = self._pod_status("Failed" if end.get("exitCode") else "Succeeded", False, {"terminated": end})
        else:
            wanted = self._pod_status("Running", True, {"running": {}})
        if pod["status"] != wanted:
            pod["status"] = wanted
            self._touch(pod)

    @staticmethod
    def _pod_status(phase: str, ready: bool, state: Object) -> Object:
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True" if ready else "False"}]
        return {"phase": phase, "conditions": conditions, "containerStatuses": [{"name": "main", "state": state}]}

    # The API server.

    def put(self, obj: Object) -> Object:
        """The object is there, with what the server fills in."""
        obj = copy.deepcopy(obj)
        old = self.objects.get(self._id(obj))
        self._serial += 1
        filled = {"uid": f"uid-{self._serial}", "creationTimestamp": self._time(), "generation": 1}
        obj["metadata"] = {**filled, **obj["metadata"], **({"uid": old["metadata"]["uid"]} if old else {})}
        self.objects[self._id(obj)] = obj
        self._touch(obj)
        return obj

    def _edit(self, kind: str, name: str, change: Callable[[Object], object]) -> None:
        obj = self.get(kind, name)
        change(obj)
        self._touch(obj)

    def _touch(self, obj: Object) -> None:
        self._serial += 1
        obj["metadata"]["resourceVersion"] = str(self._serial)

    @staticmethod
    def _id(obj: Object) -> tuple[str, str, str]:
        return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]

    def _time(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _keeps_away(device: Object) -> bool:
    return any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in device.get("taints") or ())


def _selects(exactly: Object, device: Object) -> bool:
    """Our selectors name a uuid, or the contract of the runtime device."""
    expression = exactly["selectors"][0]["cel"]["expression"]
    uuid = device["attributes"].get("uuid", {}).get("string")
    return f'"{uuid}"' in expression if uuid else "contract" in expression

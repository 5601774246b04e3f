"""A cluster in memory in which the planners' effects come true: API server, garbage collection, kube-scheduler, kubelet and node agent,
as far as an Agent's life depends on them. Tests say what a user does and read what a user reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from aios_api import names
from aios_api.agent import AgentStatus
from aios_api.quantity import format_bytes, mebibytes, parse_bytes
from aios_api.runtime import AgentRuntimeSpec
from aios_operator.decide import effects as do
from aios_operator.decide.agent import plan_agent, plan_namespace
from aios_operator.decide.cluster import plan_cluster, standing_order
from aios_operator.decide.requests import of_pod
from aios_operator.decide.views import AgentState, ClusterView, Exclusion, Key, NamespaceState, OrderRefusal, Refusal, Requests
from aios_operator.observe import parse

Object = dict[str, Any]
NAMESPACE = "team"
H100 = "NVIDIA H100 80GB HBM3"
START = datetime(2026, 1, 1, tzinfo=UTC)


def agent(name: str, memory: str | None = None, models: list[str] | None = None, *, template: Object | None = None, **spec: Any) -> Object:
    """An Agent as its user writes it. `cpu` and `ram` are its container's requests."""
    requests = {key: spec.pop(word) for word, key in (("cpu", "cpu"), ("ram", "memory")) if word in spec}
    container: Object = {"name": "main", "image": "localhost/agent:1"}
    if requests:
        container["resources"] = {"requests": requests}
    body: Object = {"template": {"spec": {"containers": [container], **(template or {})}}, **spec}
    if memory is not None:
        body["gpu"] = {"memory": memory} | ({"models": models} if models else {})
    return {"kind": "Agent", "metadata": {"namespace": NAMESPACE, "name": name}, "spec": body}


class World:
    """The objects of a cluster, the operator's own memory, and the hands of everybody else."""

    def __init__(self) -> None:
        self.now = START
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.foreign: dict[str, Requests] = {}
        self.refusals: dict[Key, Refusal] = {}
        self.exclusions: dict[Key, tuple[Exclusion, ...]] = {}
        self.refused_templates: dict[Key, tuple[str, str]] = {}
        self.refused_orders: dict[Key, OrderRefusal] = {}
        self.written: list[do.Write] = []
        self.events: list[do.RecordEvent] = []
        self.scheduler_refuses: set[str] = set()
        self.scheduler_sleeps = False
        self.kubelet_sleeps = False
        self.exits: dict[str, Object] = {}
        """By Agent: how its container ends as soon as it runs (a `terminated` state)."""
        self.waits: dict[str, Object] = {}
        """By Agent: why its container does not start (a `waiting` state)."""
        self.invalid: dict[str, str] = {}
        """By Agent: what the API server finds wrong with its pods."""
        self.policies_forbidden = False
        self.no_room: list[str] = []
        """Pods that kube-scheduler could not bind because what the operator gave out was not there."""
        self._serial = 0

    # What a user does.

    def node(self, name: str, gpus: dict[str, str] | None = None, *, cpu: str = "32", memory: str = "128Gi", slots: int = 110) -> World:
        """A ready node with a node agent that publishes these GPUs (uuid: VRAM)."""
        allocatable = {"cpu": cpu, "memory": memory, "pods": "110"}
        status = {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]}
        self.put({"kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}, "status": status})
        devices = [self._runtime_device(slots), *(self._gpu_device(uuid, size) for uuid, size in (gpus or {}).items())]
        spec = {"driver": names.DRIVER, "nodeName": name, "pool": {"name": name, "generation": 1}, "devices": devices}
        self.put({"kind": "ResourceSlice", "metadata": {"name": f"{name}-slice"}, "spec": spec})
        return self

    @staticmethod
    def _runtime_device(slots: int) -> Object:
        attributes = {"kind": {"string": "runtime"}, "contract": {"int": names.CONTRACT_VERSION}}
        return {"name": "runtime", "attributes": attributes, "capacity": {"slots": {"value": str(slots)}}}

    @staticmethod
    def _gpu_device(uuid: str, size: str) -> Object:
        attributes = {"kind": {"string": "gpu"}, "uuid": {"string": uuid}, "model": {"string": H100}}
        return {"name": f"gpu-{uuid.lower()}", "attributes": attributes, "capacity": {"memory": {"value": size}}}

    def apply(self, *agents: Object) -> World:
        """As `kubectl apply`: the spec is as given, the generation grows when it changed."""
        for each in agents:
            old = self.objects.get(self._id(each))
            if old is None:
                self.put(each)
            elif old["spec"] != each["spec"]:
                self.put({**old, "spec": copy.deepcopy(each["spec"])})
                self.get("Agent", old["metadata"]["name"])["metadata"]["generation"] += 1
        return self

    def patch(self, name: str, **spec: Any) -> World:
        return self.apply({**self.get("Agent", name), "spec": {**self.get("Agent", name)["spec"], **spec}})

    def delete(self, kind: str, name: str) -> World:
        """As `kubectl delete`: objects with finalizers, pods and reserved claims are only marked."""
        found = self.find(kind, name)
        if found is not None and "deletionTimestamp" not in found["metadata"]:
            found["metadata"]["deletionTimestamp"] = self._time()
            self._touch(found)
            if not found["metadata"].get("finalizers") and kind != "Pod" and not self._in_use(found):
                del self.objects[self._id(found)]
        return self

    # What a user reads.

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

    def status(self, name: str) -> Object:
        return dict(self.get("Agent", name).get("status") or {})

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Status and reason; ("", "") when it is not there."""
        found: Object = next((c for c in self.status(name).get("conditions", ()) if c["type"] == kind), {})
        return found.get("status", ""), found.get("reason", "")

    def message(self, name: str, kind: str) -> str:
        return str(next(c["message"] for c in self.status(name)["conditions"] if c["type"] == kind))

    def ready(self, name: str) -> bool:
        return self.condition(name, "Ready") == ("True", "Ready")

    def booked(self) -> dict[str, int]:
        """MiB by device, as allocated claims say."""
        sums: dict[str, int] = {}
        for result in self._results():
            if "memory" in result["consumedCapacity"]:
                sums[result["device"]] = sums.get(result["device"], 0) + mebibytes(result["consumedCapacity"]["memory"])
        return sums

    # Time.

    def settle(self, rounds: int = 60) -> World:
        """Until neither the operator nor anybody else has anything left to do at this moment."""
        for _ in range(rounds):
            known = self.refusals, self.exclusions
            wrote, changed = self.operate(), self.others()
            if not wrote and not changed and known == (self.refusals, self.exclusions):
                return self
        raise AssertionError(f"never at rest; the last writes were {[type(w).__name__ for w in self.written[-12:]]}")

    def rounds(self, number: int) -> World:
        """So many rounds of the operator and of everybody else, at rest or not."""
        for _ in range(number):
            self.operate()
            self.others()
        return self

    def wait(self, seconds: float) -> World:
        self.now += timedelta(seconds=seconds)
        return self.settle()

    def forget(self) -> World:
        """The operator was restarted: what only it knew is gone."""
        self.refusals, self.exclusions, self.refused_templates, self.refused_orders = {}, {}, {}, {}
        return self

    # The operator.

    def operate(self, budget: int | None = None) -> int:
        """Plans everything once and carries it out, up to `budget` writes; how many there were."""
        before = len(self.written)
        left = (lambda: True) if budget is None else (lambda: len(self.written) - before < budget)
        for namespace in sorted({NAMESPACE}):
            self._perform(plan_namespace(self._namespace_state(namespace)), left)
        waiting: list[Key] = []
        for key in self._keys():
            effects = plan_agent(self.state(key), self.now)
            waiting += [effect.key for effect in self._perform(effects, left) if isinstance(effect, do.NeedsPlace)]
        self._perform(plan_cluster(self.cluster(waiting), self.now), left)
        return len(self.written) - before

    def state(self, key: Key) -> AgentState:
        raw = self.find("Agent", key.name)
        runtime = self.find("AgentRuntime", key.name)
        namespace = self._namespace_state(key.namespace)
        return AgentState(
            key=key,
            agent=parse.agent(raw) if raw else None,
            runtime=parse.runtime(runtime) if runtime else None,
            claims=tuple(c for c in map(parse.claim, self.all("ResourceClaim")) if c is not None and c.agent == key),
            pods=tuple(p for p in map(parse.pod, self.all("Pod")) if p is not None and p.agent == key),
            policy=namespace.policy,
            refusal=self.refusals.get(key),
            template_refused=self.refused_templates.get(key),
            order_refused=self.refused_orders.get(key),
        )

    def cluster(self, waiting: list[Key]) -> ClusterView:
        orders = [order for order in (standing_order(self.state(key), self.now) for key in self._keys()) if order is not None]
        pods = [p for p in map(parse.pod, self.all("Pod")) if p is not None]
        return ClusterView(
            nodes={n["metadata"]["name"]: parse.node(n) for n in self.all("Node")},
            slices=[s for s in map(parse.resource_slice, self.all("ResourceSlice")) if s is not None],
            claims=[c for c in map(parse.claim, self.all("ResourceClaim")) if c is not None],
            orders=orders,
            pods=[p for p in pods if p.node_name and p.phase not in ("Succeeded", "Failed")],
            foreign=self.foreign,
            waiting=[self.state(key) for key in waiting],
            exclusions=self.exclusions,
            refusals=self.refusals,
        )

    def _namespace_state(self, namespace: str) -> NamespaceState:
        policy = self.find("NetworkPolicy", "aios-agents")
        return NamespaceState(namespace, bool(self._keys()), parse.policy(policy) if policy else None)

    def _keys(self) -> list[Key]:
        named = {obj["metadata"]["name"] for kind in ("Agent", "AgentRuntime") for obj in self.all(kind)}
        labelled = {obj["metadata"]["labels"][names.LABEL_AGENT] for obj in self.all("Pod") if obj["metadata"].get("labels")}
        return [Key(NAMESPACE, name) for name in sorted(named | labelled)]

    def _perform(self, effects: list[do.Effect], left: Callable[[], bool]) -> Iterator[do.Effect]:
        done: list[do.Effect] = []
        for effect in effects:
            if isinstance(effect, do.Write):
                if not left():
                    break
                self.written.append(effect)
            done.append(effect)
            if not self._carry_out(effect):
                break
        return iter(done)

    def _carry_out(self, effect: do.Effect) -> bool:
        """False when the write was refused."""
        match effect:
            case do.AddFinalizer(key):
                self._edit("Agent", key.name, lambda obj: obj["metadata"].setdefault("finalizers", []).append(names.FINALIZER))
            case do.RemoveFinalizer(key):
                self._edit("Agent", key.name, lambda obj: obj["metadata"]["finalizers"].remove(names.FINALIZER))
                if "deletionTimestamp" in self.get("Agent", key.name)["metadata"]:
                    del self.objects["Agent", key.namespace, key.name]
            case do.ApplyRuntime(key, uid, body):
                AgentRuntimeSpec.model_validate(body["spec"])
                old = self.find("AgentRuntime", key.name)
                assert (old["metadata"]["uid"] if old else None) == uid
                assert old is None or body["spec"]["attempt"] > old["spec"]["attempt"], "an attempt is never used twice"
                self.put(
                    {**(old or {}), **copy.deepcopy(body), "metadata": {**(old or body)["metadata"], "labels": body["metadata"]["labels"]}}
                )
            case do.CreatePod(key, body, digest) if key.name in self.invalid:
                self.refused_templates[key] = (digest, self.invalid[key.name])
                return False
            case do.ApplyPolicy() if self.policies_forbidden:
                return False
            case do.CreateClaim(_, body) | do.CreatePod(_, body) | do.ApplyPolicy(_, body):
                assert not isinstance(effect, do.CreateClaim | do.CreatePod) or self._id(body) not in self.objects
                self.put(copy.deepcopy(body))
            case do.DeletePod(_, name):
                self.delete("Pod", name)
            case do.DeleteClaim(_, name):
                self.delete("ResourceClaim", name)
            case do.DeleteRuntime(key):
                self.delete("AgentRuntime", key.name)
            case do.DeletePolicy():
                self.delete("NetworkPolicy", "aios-agents")
            case do.WriteStatus(key, _, status):
                AgentStatus.model_validate(status)
                self._edit("Agent", key.name, lambda obj: obj.update(status=copy.deepcopy(status)))
            case do.RecordEvent():
                self.events.append(effect)
            case do.Exclude(key, exclusion):
                self.exclusions = {**self.exclusions, key: (*self.exclusions.get(key, ()), exclusion)}
            case do.Wait(key, refusal) if self.refusals.get(key) != refusal:
                self.refusals = {k: r for k, r in {**self.refusals, key: refusal}.items() if r is not None}
        return True

    # Everybody else.

    def others(self) -> bool:
        """One round of garbage collection, claim controller, kube-scheduler, node agent and kubelet; whether anything changed."""
        before = self._serial, len(self.objects)
        self._collect_garbage()
        self._release_claims()
        if not self.scheduler_sleeps:
            for pod in self.all("Pod"):
                self._schedule(pod)
        for runtime in self.all("AgentRuntime"):
            self._tell_facts(runtime)
        if not self.kubelet_sleeps:
            for pod in self.all("Pod"):
                self._run(pod)
        return before != (self._serial, len(self.objects))

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
        pod["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
        self._touch(claim)
        self._touch(pod)

    def _has_room(self, pod: Object, name: str) -> bool:
        """Whether CPU, memory and number of pods allow the pod on the node."""
        node = self.find("Node", name)
        if node is None:
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
            chosen = [d for d in devices if capacity in d["capacity"] and _selects(exactly, d)]
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
        if claim is None or not (claim.get("status") or {}).get("allocation"):
            return
        running = pod is not None and (pod.get("status") or {}).get("phase") == "Running"
        said = {"Prepared": "True", "Fenced": "True" if running else "Unknown", "Listening": "True" if running else "False"}
        conditions = [
            {"type": kind, "status": word, "reason": kind if word == "True" else "WaitingForContainer", "message": f"{kind}: {word}"}
            for kind, word in said.items()
        ]
        about = {"nodeName": spec["nodeName"], "attempt": spec["attempt"], "claimUID": claim["metadata"]["uid"]}
        if runtime.get("status") != {**about, "conditions": conditions}:
            runtime["status"] = {**about, "conditions": conditions}
            self._touch(runtime)

    def _run(self, pod: Object) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            del self.objects[self._id(pod)]
            return
        phase = (pod.get("status") or {}).get("phase")
        if not pod["spec"].get("nodeName") or phase in ("Succeeded", "Failed"):
            return
        name = pod["metadata"]["labels"][names.LABEL_AGENT]
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


def _selects(exactly: Object, device: Object) -> bool:
    """Our selectors name a uuid, or the contract of the runtime device."""
    expression = exactly["selectors"][0]["cel"]["expression"]
    uuid = device["attributes"].get("uuid", {}).get("string")
    return f'"{uuid}"' in expression if uuid else "contract" in expression

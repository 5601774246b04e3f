"""A cluster in memory in which the planners' effects come true."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from aios_api import names
from aios_api.agent import AgentStatus
from aios_api.quantity import mebibytes
from aios_api.quota import GPUQuotaStatus
from aios_api.runtime import AgentRuntimeSpec
from aios_operator.decide import effects as do
from aios_operator.decide import lost
from aios_operator.decide.agent import plan_agent, plan_namespace
from aios_operator.decide.cluster import plan_cluster, standing_order
from aios_operator.decide.health import taints_of
from aios_operator.decide.lost import OUT_OF_SERVICE
from aios_operator.decide.quota import holdings, oldest_first, plan_quotas
from aios_operator.decide.states import AgentState, ClusterView, Exclusion, Grant, NamespaceState, Order, OrderRefusal, QuotaState, Refusal
from aios_operator.decide.views import Door, Key, NodeView, PodView, QuotaView, RuntimeView, Taint
from aios_operator.observe import parse
from aios_operator.observe.heartbeats import Heard
from aios_operator.observe.vanished import Vanished
from unit.decide.cluster import NAMESPACE, Cluster, Object

H100 = "NVIDIA H100 80GB HBM3"


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


def gpu_quota(name: str = "quota", memory: str | None = None, agents: int | None = None) -> Object:
    """A GPUQuota as its administrator writes it."""
    spec = {"memory": {"nominal": memory}} if memory is not None else {}
    spec |= {"agents": agents} if agents is not None else {}  # type: ignore[dict-item]
    return {"kind": "GPUQuota", "metadata": {"namespace": NAMESPACE, "name": name}, "spec": spec}


def merged(before: Any, patch: Object) -> Object:
    """As the API server merges (RFC 7396): null removes, objects are merged, all else is replaced."""
    kept = {name: value for name, value in (before if isinstance(before, dict) else {}).items() if name not in patch}
    new = {name: merged((before or {}).get(name), value) if isinstance(value, dict) else value for name, value in patch.items()}
    return kept | {name: value for name, value in new.items() if value is not None}


class World(Cluster):
    """A cluster with its user and its operator: tests say what the user does and read what the user reads."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: dict[Key, Refusal] = {}
        self.exclusions: dict[Key, tuple[Exclusion, ...]] = {}
        self.refused_templates: dict[Key, tuple[str, str]] = {}
        self.refused_orders: dict[Key, OrderRefusal] = {}
        self.written: list[do.Write] = []
        self.events: list[do.RecordEvent] = []
        self.invalid: dict[str, str] = {}
        """By Agent: what the API server finds wrong with its pods."""
        self.forbidden: dict[str, str] = {}
        """By Agent: why the API server does not let its pods be made for now."""
        self.policies_forbidden = False
        self.nudges_help = True
        self.unlimited_without_quota = True
        self.heard = Heard(mute_seconds=60, lost_seconds=90)
        self.doors: dict[str, Door] = {}
        """By node: where its gateway gives contexts."""
        self.without_lease: set[str] = set()
        """Nodes whose agent renews none."""
        self._renewed: dict[str, str] = {}
        self._vanished = Vanished()
        self._begins = False
        self._pods: dict[str, PodView] = {}
        """As the operator has seen them last, by uid."""

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

    def lose_contact(self, name: str) -> World:
        """The node is cut off from the API server, and goes on with what it does. It is still Ready for a while."""
        self.cut_off.add(name)
        return self

    def say_ready(self, name: str, word: str) -> World:
        """What the node controller, or the kubelet, says of the node."""
        self._edit("Node", name, lambda node: node["status"]["conditions"][0].update(status=word))
        return self

    def regain_contact(self, name: str) -> World:
        self.cut_off.discard(name)
        return self.say_ready(name, "True")

    def take_out_of_service(self, name: str) -> World:
        taint = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
        self._edit("Node", name, lambda node: node["spec"].setdefault("taints", []).append(taint))
        return self

    def taint_gpu(self, uuid: str, value: str = "xid79", effect: str = "NoExecute", key: str = names.TAINT_UNHEALTHY) -> World:
        """The node agent, or another, says something against a GPU."""
        for each in self.all("ResourceSlice"):
            for device in each["spec"]["devices"]:
                if device["name"] == f"gpu-{uuid.lower()}":
                    device["taints"] = [{"key": key, "value": value, "effect": effect}]
                    self._touch(each)
        return self

    def apply(self, *agents: Object) -> World:
        """As `kubectl apply`: the spec is as given, the generation grows when it changed."""
        for each in agents:
            old = self.objects.get(self._id(each))
            if old is None:
                self.put(each)
            elif old["spec"] != each["spec"]:
                self.put({**old, "spec": copy.deepcopy(each["spec"])})
                self.get(each["kind"], old["metadata"]["name"])["metadata"]["generation"] += 1
        return self

    def patch(self, name: str, **spec: Any) -> World:
        return self.apply({**self.get("Agent", name), "spec": {**self.get("Agent", name)["spec"], **spec}})

    # What a user reads.

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

    def quota(self, name: str = "quota") -> Object:
        """The status of a GPUQuota, with the status of its conditions."""
        status = self.get("GPUQuota", name)["status"]
        return {**status, **{c["type"]: c["status"] for c in status["conditions"]}}

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
            known = self.refusals, self.exclusions, self.refused_orders
            wrote, changed = self.operate(), self.others()
            if not wrote and not changed and known == (self.refusals, self.exclusions, self.refused_orders):
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
        self.heard = Heard(mute_seconds=60, lost_seconds=90)
        self._vanished, self._pods, self._begins = Vanished(), {}, True
        self.refusals, self.exclusions, self.refused_templates, self.refused_orders = {}, {}, {}, {}
        return self

    def others(self) -> bool:
        self._renew()
        return super().others()

    def _renew(self) -> None:
        """Node agents that reach the API server renew their Leases, whether or not anybody reads them."""
        nodes = set(self.names("Node")) - self.without_lease
        self._renewed |= {name: f"{name} at {self._serial} {self.now}" for name in nodes if self.is_reached(name)}

    # The operator.

    def plans(self, name: str) -> list[do.Effect]:
        """What the agent planner wants now, without its being done."""
        return plan_agent(self.state(Key(NAMESPACE, name)), self.now)

    def operate(self, budget: int | None = None) -> int:
        """Plans everything once and carries it out, up to `budget` writes; how many there were."""
        before = len(self.written)
        self._see_pods()
        self.hear()
        left = (lambda: True) if budget is None else (lambda: len(self.written) - before < budget)
        for namespace in sorted({NAMESPACE}):
            self._perform(plan_namespace(self._namespace_state(namespace)), left)
        waiting: list[Key] = []
        for key in self._keys():
            effects = plan_agent(self.state(key), self.now)
            waiting += [effect.key for effect in self._perform(effects, left) if isinstance(effect, do.NeedsPlace)]
        self._perform(plan_cluster(self.cluster(waiting), self.now), left)
        members = tuple(self.state(key) for key in self._keys())
        self._perform(plan_quotas(QuotaState(self._quotas(), members), self.now), left)
        return len(self.written) - before

    def _see_pods(self) -> None:
        """The operator sees which pods there are, and how those that are gone were last."""
        now = {pod.uid: pod for pod in map(parse.pod, self.all("Pod")) if pod is not None}
        for uid in self._pods.keys() - now.keys() - self.ended:
            self._vanished.removed(self._pods[uid], self.heard.version)
        for uid in now.keys() - self._pods.keys():
            self._vanished.followed(now[uid])
        self._pods = now
        if self._begins:
            self._vanished.unseen([self.state(key) for key in self._keys()], self.heard.version)
            self._begins = False

    def hear(self) -> None:
        """The operator reads the Leases of all node agents."""
        self._renew()
        states = {key: self.state(key) for key in self._keys()}
        referred = {name for key, state in states.items() for name in self._nodes_of(key, state.agent, state.runtime, state.pods)}
        troubled = {name for name in referred if lost.trouble(self._node(name)) is not None}
        attempts = {key: state.runtime.attempt for key, state in states.items() if state.runtime is not None}
        moment = self.now.timestamp()
        self.heard.take(moment, moment, self._renewed, attempts, troubled, self.doors)
        self._vanished.heard(self.heard.version)

    def _nodes_of(self, key: Key, *known: Any) -> set[str]:
        return lost.nodes_of(*known) | self._vanished.nodes(key)

    def _node(self, name: str) -> NodeView | None:
        raw = self.find("Node", name)
        return parse.node(raw) if raw else None

    def state(self, key: Key) -> AgentState:
        raw = self.find("Agent", key.name)
        runtime = self.find("AgentRuntime", key.name)
        namespace = self._namespace_state(key.namespace)
        agent = parse.agent(raw) if raw else None
        order = parse.runtime(runtime) if runtime else None
        pods = tuple(p for p in map(parse.pod, self.all("Pod")) if p is not None and p.agent == key)
        sights = [self.heard.sight(name, self._node(name)) for name in self._nodes_of(key, agent, order, pods)]
        return AgentState(
            key=key,
            agent=agent,
            runtime=order,
            claims=tuple(c for c in map(parse.claim, self.all("ResourceClaim")) if c is not None and c.agent == key),
            pods=pods,
            policy=namespace.policy,
            quota=next(iter(self._quotas()), None),
            refusal=self.refusals.get(key),
            template_refused=self.refused_templates.get(key),
            order_refused=self.refused_orders.get(key),
            gpu_taints=self._gpu_taints(order) if order else (),
            nodes={sight.name: sight for sight in sights if sight is not None},
            order_stood=self.heard.stood(key, order.attempt) if order else None,
            vanished=self._vanished.unconfirmed(key, agent.uid) if agent else (),
            known_over=self._vanished.confirmed(key, agent.uid) if agent else frozenset(),
        )

    def _gpu_taints(self, order: RuntimeView) -> tuple[Taint, ...]:
        slices = [s for s in map(parse.resource_slice, self.all("ResourceSlice")) if s is not None and s.node_name == order.node_name]
        return taints_of(slices, order.gpu.uuid) if order.gpu else ()

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
            grants={NAMESPACE: self.grant(orders)},
            exclusions=self.exclusions,
            refusals=self.refusals,
        )

    def grant(self, orders: list[Order]) -> Grant:
        held = holdings((self.state(key) for key in self._keys()), orders)
        return Grant(next(iter(self._quotas()), None), held, self.unlimited_without_quota)

    def _quotas(self) -> tuple[QuotaView, ...]:
        return oldest_first(parse.quota(raw) for raw in self.all("GPUQuota"))

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

    def _refuse(self, key: Key, body: Object, reason: str, message: str) -> None:
        attempt = int(body["metadata"]["labels"][names.LABEL_ATTEMPT])
        old = self.find(body["kind"], body["metadata"]["name"])
        ours = old is not None and names.LABEL_AGENT in (old["metadata"].get("labels") or {})
        assert not ours, f"{body['metadata']['name']} is made twice"
        self.refused_orders = {**self.refused_orders, key: OrderRefusal(attempt, reason, message)}

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
            case do.ReviseOrder(key, uid, egress, expose, context, context_from):
                assert self.get("AgentRuntime", key.name)["metadata"]["uid"] == uid
                part = {"egress": egress, "expose": expose, "context": context, "contextFrom": context_from}
                self._edit("AgentRuntime", key.name, lambda obj: obj.update(spec=merged(obj["spec"], part)))
                AgentRuntimeSpec.model_validate(self.get("AgentRuntime", key.name)["spec"])
            case do.CreatePod(key, body, digest) if key.name in self.invalid:
                self.refused_templates[key] = (digest, self.invalid[key.name])
                return False
            case do.CreatePod(key, body, _) if key.name in self.forbidden:
                self._refuse(key, body, "Forbidden", self.forbidden[key.name])
                return False
            case do.CreateClaim(key, body, _) | do.CreatePod(key, body, _) if self._id(body) in self.objects:
                self._refuse(key, body, "NameTaken", f"{body['kind']} {body['metadata']['name']} exists")
                return False
            case do.ApplyPolicy() if self.policies_forbidden:
                return False
            case do.CreateClaim(_, body) | do.CreatePod(_, body) | do.ApplyPolicy(_, body):
                self.put(copy.deepcopy(body))
            case do.NudgePod(key, name, _, at):
                nudged = {names.ANNOTATION_NUDGED: at.isoformat()}
                self._edit("Pod", name, lambda obj: obj["metadata"].setdefault("annotations", {}).update(nudged))
                if self.nudges_help:
                    self.unprepared.discard(key.name)
            case do.DeletePod(_, name, _, at_once):
                if at_once:
                    self.objects.pop(("Pod", NAMESPACE, name), None)
                else:
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
            case do.WriteQuotaStatus(_, name, _, status):
                GPUQuotaStatus.model_validate(status)
                self._edit("GPUQuota", name, lambda obj: obj.update(status=copy.deepcopy(status)))
            case do.RecordEvent():
                self.events.append(effect)
            case do.Exclude(key, exclusion):
                self.exclusions = {**self.exclusions, key: (*self.exclusions.get(key, ()), exclusion)}
            case do.Wait(key, refusal) if self.refusals.get(key) != refusal:
                self.refusals = {k: r for k, r in {**self.refusals, key: refusal}.items() if r is not None}
        return True

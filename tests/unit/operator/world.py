"""The operator on an in-memory cluster, in which the test is kube-scheduler, kubelet and node agent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from aios_api import names
from aios_api.egress import NOTHING
from aios_kube import resources
from aios_kube.events import EventRecorder
from aios_kube.fake import Call, FakeCluster
from aios_kube.resources import Resource
from aios_operator.act.executor import Executor
from aios_operator.act.report import Reporter
from aios_operator.decide.views import Key
from aios_operator.loop import Loop
from aios_operator.metrics import Metrics
from aios_operator.observe.store import Store
from aios_operator.observe.table import Table
from aios_operator.settings import OperatorSettings

Object = dict[str, Any]
GPU = "GPU-00000000-0000-4000-8000-00000000000a"


class World:
    """`await settled()` lets the operator see what is and do what it wants, until it wants nothing more."""

    def __init__(self, **settings: Any) -> None:
        self.settings = OperatorSettings(cycle_seconds=0, **settings)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.clock_set = timedelta(0)
        """By how much the wall clock of the operator's machine was set."""
        self.cluster = FakeCluster(clock=lambda: self.now, lingering={"pods"})
        self.gateway_answers = True
        """It confirms each policy that it is given."""
        self.fence_follows = True
        """It is open for what the order exposes."""
        self.idle: set[str] = set()
        """Pods for which their kubelet does nothing."""
        self.counted: Object = {}
        """What it says of egress beside that."""
        self.operator()

    def operator(self) -> None:
        """A new process: it knows nothing but what it is told."""
        self.store = Store()
        self.metrics = Metrics()
        self.events = EventRecorder(self.cluster, "aios.dev/operator", "test", lambda: self.now)
        executor = Executor(self.cluster, self.store)
        report = Reporter(self.events)
        clocks = (lambda: self.now + self.clock_set, lambda: self.now)
        self.loop = Loop(self.store, executor, report, self.metrics, self.settings, *clocks, chance=lambda: 0.5)

    def node(self, name: str = "n1", *, gpu: str | None = "80Gi", slots: int = 16) -> None:
        self.cluster.put(
            resources.NODES,
            {
                "metadata": {"name": name},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"},
                },
            },
        )
        devices: list[Object] = [
            {
                "name": names.RUNTIME_DEVICE,
                "attributes": {"kind": {"string": "runtime"}, "contract": {"int": names.CONTRACT_VERSION}},
                "capacity": {"slots": {"value": str(slots)}},
            }
        ]
        if gpu:
            attributes = {"kind": {"string": "gpu"}, "uuid": {"string": GPU}, "model": {"string": "H100"}}
            devices.append({"name": "gpu-a", "attributes": attributes, "capacity": {"memory": {"value": gpu}}})
        pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": names.DRIVER, "nodeName": name, "pool": pool, "devices": devices}
        self.cluster.put(resources.RESOURCE_SLICES, {"metadata": {"name": f"{name}-slice"}, "spec": spec})

    def apply(self, name: str, memory: str | None = None, namespace: str = "ns", **spec: Any) -> Key:
        template = {"spec": {"containers": [{"name": "main", "image": "localhost/example:1"}]}}
        body: Object = {"template": template, "restartPolicy": "Always", "operatingMode": "Running", **spec}
        if memory:
            body["gpu"] = {"memory": memory}
        if self.cluster.peek(resources.AGENTS, name, namespace):
            self.cluster.alter(resources.AGENTS, name, {"spec": body}, namespace)
        else:
            self.cluster.put(resources.AGENTS, {"metadata": {"namespace": namespace, "name": name}, "spec": body})
        return Key(namespace, name)

    def declare(self, kind: Resource, name: str, spec: Object, namespace: str = "ns") -> None:
        """The object is there, and its spec is this and nothing that it was before."""
        before = self.cluster.peek(kind, name, namespace)
        if before is None:
            self.cluster.put(kind, {"metadata": {"namespace": namespace, "name": name}, "spec": spec})
        else:
            gone = {field: None for field in before["spec"] if field not in spec}
            self.cluster.alter(kind, name, {"spec": {**gone, **spec}}, namespace)

    def label(self, key: Key, **labels: str | None) -> Key:
        """`kubectl label`."""
        self.cluster.alter(resources.AGENTS, key.name, {"metadata": {"labels": labels}}, key.namespace)
        return key

    def bind(self, name: str, *hosts: str, namespace: str = "ns", app: str = "coder", **spec: Any) -> None:
        """A ToolBinding that lets Agents with the label app=coder reach these hosts."""
        rules = [{"name": host.replace(".", "-").lower(), "host": host} for host in hosts]
        body = {"agentSelector": {"matchLabels": {"app": app}}, "egress": rules, "mode": "Enforce", **spec}
        if self.cluster.peek(resources.TOOL_BINDINGS, name, namespace):
            self.cluster.alter(resources.TOOL_BINDINGS, name, {"spec": body}, namespace)
        else:
            self.cluster.put(resources.TOOL_BINDINGS, {"metadata": {"namespace": namespace, "name": name}, "spec": body})

    def reaches(self, key: Key) -> list[str]:
        """What the Agent's order lets it reach."""
        order = self.cluster.peek(resources.AGENT_RUNTIMES, key.name, key.namespace)
        assert order is not None
        return sorted(rule["host"] for rule in (order["spec"].get("egress") or {"rules": ()})["rules"])

    def binding(self, name: str, namespace: str = "ns") -> Object:
        """The status of a ToolBinding, with status and reason of its conditions."""
        found = self.cluster.peek(resources.TOOL_BINDINGS, name, namespace)
        assert found is not None
        return {**found["status"], **{c["type"]: (c["status"], c["reason"]) for c in found["status"]["conditions"]}}

    async def delete(self, key: Key) -> None:
        before = len(self.cluster.calls)
        await self.cluster.delete(resources.AGENTS, key.name, key.namespace)
        del self.cluster.calls[before:]  # that was the user

    def deliver(self) -> None:
        """Every watch is up to date."""
        for table in self.store.tables:
            self.show(table)

    def show(self, table: Table[Any]) -> None:
        """The watch of this kind is up to date."""
        listed = self.cluster.all(table.resource)
        for raw in listed:
            table.upsert(raw)
        alive = {raw["metadata"]["uid"] for raw in listed}
        for (namespace, name), view in list(table.views.items()):
            if view.uid not in alive:
                table.remove(namespace, name, view.uid)

    async def settled(self, forward_seconds: float = 0) -> None:
        self.now += timedelta(seconds=forward_seconds)
        for _ in range(20):
            before = len(self.cluster.writes())
            self.deliver()
            await self.loop.settle()
            if len(self.cluster.writes()) == before:
                return
        raise AssertionError("the operator must come to rest")

    def schedule(self) -> None:
        """kube-scheduler: claims are allocated as asked, pods bound where their affinity says."""
        for claim in self.cluster.all(resources.RESOURCE_CLAIMS):
            pod = self.cluster.peek(resources.PODS, claim["metadata"]["name"], claim["metadata"]["namespace"])
            if pod is None or "nodeName" in pod["spec"] or "affinity" not in pod["spec"]:
                continue
            required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            node = required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
            results = [_result(request, node) for request in claim["spec"]["devices"]["requests"]]
            where = claim["metadata"]["namespace"]
            allocation = {"status": {"allocation": {"devices": {"results": results}}}}
            self.cluster.alter(resources.RESOURCE_CLAIMS, claim["metadata"]["name"], allocation, where)
            self.cluster.alter(resources.PODS, claim["metadata"]["name"], {"spec": {"nodeName": node}}, where)

    def collect_garbage(self) -> None:
        """What is owned by somebody who is gone goes, as in a cluster."""
        alive = {each["metadata"]["uid"] for kind in (resources.AGENTS, resources.AGENT_RUNTIMES) for each in self.cluster.all(kind)}
        for kind in (resources.SERVICES, resources.NETWORK_POLICIES, resources.AGENT_RUNTIMES):
            for each in self.cluster.all(kind):
                owners = each["metadata"].get("ownerReferences") or ()
                if owners and not any(owner["uid"] in alive for owner in owners):
                    self.cluster.remove(kind, each["metadata"]["name"], each["metadata"]["namespace"])

    def run_pods(self) -> None:
        """Kubelet and node agent: bound pods are prepared, fenced, and ready; deleted ones are gone."""
        for pod in self.cluster.all(resources.PODS):
            metadata = pod["metadata"]
            where, name = metadata["namespace"], metadata["name"]
            if name in self.idle or (pod.get("status", {}).get("phase") == "Failed" and "deletionTimestamp" not in metadata):
                continue
            if "deletionTimestamp" in metadata:
                self.cluster.remove(resources.PODS, name, where)
                continue
            claim = self.cluster.peek(resources.RESOURCE_CLAIMS, name, where)
            if "nodeName" not in pod["spec"] or claim is None:
                continue
            conditions = [
                {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                for kind in ("Prepared", "Fenced", "Listening")
            ]
            facts = {
                "nodeName": pod["spec"]["nodeName"],
                "attempt": int(metadata["labels"][names.LABEL_ATTEMPT]),
                "claimUID": claim["metadata"]["uid"],
                "podUID": metadata["uid"],
                "conditions": conditions,
            }
            order = self.cluster.peek(resources.AGENT_RUNTIMES, metadata["labels"][names.LABEL_AGENT], where)
            assert order is not None
            if self.fence_follows:
                facts["exposed"] = [{"port": each["port"], "protocol": each["protocol"]} for each in order["spec"].get("expose") or ()]
            if self.gateway_answers:
                policy = order["spec"].get("egress")
                facts["egress"] = {"policyDigest": policy["digest"] if policy else NOTHING.digest, **self.counted}
            self.cluster.alter(resources.AGENT_RUNTIMES, metadata["labels"][names.LABEL_AGENT], {"status": facts}, where)
            ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
            self.cluster.alter(resources.PODS, name, {"status": ready}, where)

    async def running(self) -> None:
        """Everybody does their part until nothing changes."""
        for _ in range(4):
            await self.settled()
            self.schedule()
            self.run_pods()
        await self.settled()

    def agent(self, key: Key) -> Object:
        found = self.cluster.peek(resources.AGENTS, key.name, key.namespace)
        assert found is not None
        return found

    def condition(self, key: Key, kind: str) -> tuple[str, str]:
        found = next(c for c in self.agent(key)["status"]["conditions"] if c["type"] == kind)
        return found["status"], found["reason"]

    def writes_since(self, mark: int) -> list[Call]:
        return self.cluster.writes()[mark:]

    @property
    def mark(self) -> int:
        return len(self.cluster.writes())


def _result(request: Object, node: str) -> Object:
    exactly = request["exactly"]
    memory = exactly.get("capacity", {}).get("requests", {}).get("memory")
    device, consumed = ("gpu-a", {"memory": memory}) if memory else (names.RUNTIME_DEVICE, {"slots": "1"})
    return {"driver": names.DRIVER, "pool": node, "device": device, "request": request["name"], "consumedCapacity": consumed}

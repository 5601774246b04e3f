"""Lives of Agents in memory, in which the operator makes every kind of write that there is; and what is the same at the end of two."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from aios_api import names
from aios_bench.faults.checkout import of_tests
from aios_kube import resources
from aios_operator.decide.lost import OUT_OF_SERVICE
from aios_operator.decide.views import Key
from aios_operator.observe.heartbeats import GONE_SECONDS, Heard

Object = dict[str, Any]
NAMESPACE = "ns"
RELEASE = "aios-system"
OWNED = (
    resources.AGENT_RUNTIMES,
    resources.RESOURCE_CLAIMS,
    resources.PODS,
    resources.SERVICES,
    resources.NETWORK_POLICIES,
)
"""What the operator makes."""
READ = (resources.AGENTS, resources.GPU_QUOTAS, resources.TOOL_BINDINGS)
"""What people write and the operator reports on."""


class Life:
    """A world, and everybody in it but the operator. Time passes only between steps."""

    def __init__(self) -> None:
        self.world: Any = of_tests("unit.operator.world").World(lease_namespace=RELEASE)
        self.cluster: Any = self.world.cluster
        self.listening = False
        """The Leases of node agents are read; nobody renews one, so that a node in trouble is silent."""
        self.doubles: list[str] = []
        """Agents of which two pods could have run at once."""

    async def operate(self) -> None:
        """The operator sees what is and does what it wants, until it wants nothing more."""
        for _ in range(40):
            before = self.world.mark
            self.hear()
            self.world.deliver()
            await self.world.loop.settle()
            if self.world.mark == before:
                return
        raise AssertionError("the operator must come to rest")

    def hear(self) -> None:
        store, moment = self.world.store, self.world.now.timestamp()
        if self.listening and store.heard is None:
            store.heard = Heard(mute_seconds=60, lost_seconds=90)
        if store.heard is not None:
            leases = {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in self.cluster.all(resources.LEASES)}
            prefix = names.node_lease_name("")
            store.hear(moment, moment, {name.removeprefix(prefix): version for name, version in leases.items()}, store.attempts())

    async def rest(self, seconds: float = 0) -> None:
        """Everybody does what there is to do, after so long, until nothing changes."""
        self.world.now += timedelta(seconds=seconds)
        for _ in range(12):
            before = self._version()
            await self.operate()
            self._others()
            if self._version() == before:
                return
        raise AssertionError("the cluster must come to rest")

    def _version(self) -> int:
        return int(self.cluster._version)

    def _others(self) -> None:
        self._collect_garbage()
        self.world.schedule()
        self.world.run_pods()
        alive: dict[str, list[str]] = {}
        for pod in self.cluster.all(resources.PODS):
            if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") == "Running":
                alive.setdefault(pod["metadata"]["labels"][names.LABEL_AGENT], []).append(pod["metadata"]["name"])
        self.doubles += [f"{agent}: {', '.join(pods)}" for agent, pods in alive.items() if len(pods) > 1]

    def _collect_garbage(self) -> None:
        uids = {each["metadata"]["uid"] for kind in (*READ, *OWNED) for each in self.cluster.all(kind)}
        for kind in OWNED:
            for each in self.cluster.all(kind):
                owners = each["metadata"].get("ownerReferences") or ()
                if owners and not any(owner["uid"] in uids for owner in owners):
                    self.cluster.remove(kind, each["metadata"]["name"], each["metadata"]["namespace"])

    # What people and nodes do.

    def quota(self, memory: str) -> None:
        spec = {"metadata": {"namespace": NAMESPACE, "name": "q"}, "spec": {"memory": {"nominal": memory}}}
        if self.cluster.peek(resources.GPU_QUOTAS, "q", NAMESPACE):
            self.cluster.alter(resources.GPU_QUOTAS, "q", {"spec": spec["spec"]}, NAMESPACE)
        else:
            self.cluster.put(resources.GPU_QUOTAS, spec)

    def patch(self, name: str, **spec: Any) -> None:
        self.cluster.alter(resources.AGENTS, name, {"spec": spec}, NAMESPACE)

    def pod_of(self, name: str) -> str:
        order = self.cluster.peek(resources.AGENT_RUNTIMES, name, NAMESPACE)
        return str(order["spec"]["podName"]) if order else ""

    def fail_pod(self, name: str) -> None:
        ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
        status = {"phase": "Failed", "containerStatuses": [{"name": "main", "state": ended}]}
        if self.cluster.peek(resources.PODS, self.pod_of(name), NAMESPACE):
            self.cluster.alter(resources.PODS, self.pod_of(name), {"status": status}, NAMESPACE)

    def remove_pod(self, name: str) -> None:
        if self.cluster.peek(resources.PODS, self.pod_of(name), NAMESPACE):
            self.cluster.remove(resources.PODS, self.pod_of(name), NAMESPACE)

    async def delete(self, name: str) -> None:
        """`kubectl delete agent`."""
        if self.cluster.peek(resources.AGENTS, name, NAMESPACE) is None:
            return
        hooks = self.cluster.refuse, self.cluster.lose
        self.cluster.refuse, self.cluster.lose = [], []  # faults befall the operator
        await self.world.delete(Key(NAMESPACE, name))
        self.cluster.refuse, self.cluster.lose = hooks


Step = Callable[[Life], Awaitable[None] | None]
HTTP: Object = {"name": "http", "port": 8080, "protocol": "TCP"}


def _begin(life: Life) -> None:
    life.world.node(gpu="80Gi")
    life.cluster.put(resources.CONFIG_MAPS, {"metadata": {"namespace": RELEASE, "name": names.CLUSTER_RANGES}})
    life.cluster.alter(resources.NODES, "n1", {"status": {"addresses": [{"type": "ExternalIP", "address": "203.0.113.7"}]}})
    life.quota("60Gi")
    life.world.bind("models", "a.example.com")
    agent = life.world.apply("a", "20Gi", expose=[HTTP], priority=3)
    life.world.label(agent, app="coder")
    life.world.apply("b", "30Gi", priority=2)
    life.world.apply("c", "40Gi")


def _is_not_prepared(life: Life) -> None:
    """The kubelet of c does nothing for it."""
    life.world.idle = {"c-1"}
    life.quota("75Gi")
    life.patch("b", gpu={"memory": "10Gi"})


def _is_bound_and_waits(life: Life) -> None:
    if life.cluster.peek(resources.PODS, "c-1", NAMESPACE):
        bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": life.world.now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        life.cluster.alter(resources.PODS, "c-1", {"status": {"phase": "Pending", "conditions": [bound]}}, NAMESPACE)


async def _all_go(life: Life) -> None:
    for name in ("a", "b", "c"):
        await life.delete(name)


LIFE: tuple[tuple[Step, float], ...] = (
    (_begin, 2),
    (lambda life: life.world.bind("models", "a.example.com", "b.example.com"), 2),
    (lambda life: life.patch("a", expose=None), 2),
    (_is_not_prepared, 2),
    (_is_bound_and_waits, 1),
    (lambda life: None, 6),
    (lambda life: life.world.idle.clear(), 1),
    (lambda life: life.fail_pod("b"), 1),
    (lambda life: None, 11),
    (lambda life: life.patch("a", operatingMode="Stopped"), 1),
    (lambda life: life.patch("a", operatingMode="Running"), 1),
    (lambda life: life.remove_pod("c"), 1),
    (lambda life: None, 20),
)
"""What happens, and how many seconds pass with it."""
GONE: tuple[tuple[Step, float], ...] = ((_all_go, 1), (lambda life: None, 2), (lambda life: None, 2))
"""All Agents are deleted. What is refused to a writer that has seen too little is written a moment later."""


def _two_nodes(life: Life) -> None:
    life.listening = True
    life.cluster.put(resources.LEASES, {"metadata": {"namespace": RELEASE, "name": names.node_lease_name("gone")}})
    life.world.node("n1", gpu=None)
    life.world.node("n2", gpu=None)
    life.world.apply("a")


def _out_of_service(life: Life) -> None:
    """Its kubelet does nothing any more."""
    life.world.idle = {"a-1"}
    node = life.cluster.peek(resources.PODS, "a-1", NAMESPACE)["spec"]["nodeName"]
    life.cluster.alter(resources.NODES, node, {"spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}})


LOST: tuple[tuple[Step, float], ...] = (
    (_two_nodes, 1),
    (_out_of_service, 1),
    *(((lambda life: None), 30.0) for _ in range(8)),
    *(((lambda life: None), GONE_SECONDS + 1) for _ in range(2)),
)
"""A node is lost: what is there of its Agent is removed without its kubelet. Of another one, only the Lease was left: it goes
an hour after it was first seen, by the operator that is there then."""
STORIES = {"life": (LIFE, GONE), "lost": (LOST, GONE)}
"""In chapters: the end of each is looked at."""
Ending = dict[tuple[str, str], Any]


async def tell(story: str, life: Life, *, attempts: bool = True) -> list[Ending]:
    """The story comes true in `life`. Returns how it was at the end of each chapter, as `ending` does."""
    endings = []
    for chapter in STORIES[story]:
        for step, seconds in chapter:
            if (work := step(life)) is not None:
                await work
            await life.rest(seconds)
        endings.append(ending(life, attempts=attempts))
    return endings


_OTHERS_WRITE = {"uid", "resourceVersion", "generation", "creationTimestamp", "claimUID", "podUID", "agentUID", "deletionTimestamp"}
_TIMES = {"lastTransitionTime", "since", "startTime", "time", names.ANNOTATION_NUDGED}


def ending(life: Life, *, attempts: bool = True) -> Ending:
    """Every object at the end, by kind and name, apart from times and uids; without `attempts` apart from how many there were too."""
    found = {}
    for kind in (*READ, *OWNED, resources.LEASES, resources.CONFIG_MAPS):
        for each in life.cluster.all(kind):
            name = each["metadata"]["name"]
            found[kind.kind, name if attempts else re.sub(r"-\d+$", "", name)] = _plain(each, attempts)
    return found


def _plain(value: Any, attempts: bool) -> Any:
    if isinstance(value, Mapping):
        left = (
            _OTHERS_WRITE
            | _TIMES
            | (set() if attempts else {"attempt", "lastFailure", "failedAttempts", "observedGeneration", names.LABEL_ATTEMPT})
        )
        return {key: _plain(part, attempts) for key, part in sorted(value.items()) if key not in left}
    if isinstance(value, list):
        return [_plain(part, attempts) for part in value]
    if isinstance(value, str):
        plain = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)|00000000-0000-4000-8000-\d{12}", "…", value)
        return plain if attempts else re.sub(r"\b([abc])-\d+\b|attempt \d+", r"\1", plain)
    return value

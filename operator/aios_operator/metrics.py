"""What Prometheus reads. Labels take values from closed sets, or name hardware of the cluster; never an Agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, Metric

from aios_api.quantity import parse_bytes
from aios_api.reasons import ConditionType, Reason
from aios_operator.observe.store import Store

MIB = 1 << 20
_CODES = frozenset({0, 200, 201, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503, 504})


class Metrics:
    """The registry and what writes to it. `exposition` is the text that Prometheus reads."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._cycle = prometheus_client.Histogram(
            "aios_operator_cycle_seconds",
            "Time that one planning cycle takes.",
            ["planner"],
            registry=self.registry,
            buckets=(0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )
        self._decisions = prometheus_client.Counter(
            "aios_operator_decisions", "Writes by their kind, and refusals of a place by their reason.", ["outcome"], registry=self.registry
        )
        self._requests = prometheus_client.Counter(
            "aios_operator_api_requests", "Requests to the API server; code 0 is no answer.", ["verb", "code"], registry=self.registry
        )
        self._queue = prometheus_client.Gauge(
            "aios_operator_agents_in", "Agents to plan, with writes under way, and waiting for a place.", ["queue"], registry=self.registry
        )
        self._queued = prometheus_client.Histogram(
            "aios_operator_queue_seconds",
            "Time from a change that concerns an Agent to its planning; while its writes are under way or in back-off it waits.",
            registry=self.registry,
            buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self._events = prometheus_client.Counter("aios_operator_watch_events", "Watch events.", ["resource"], registry=self.registry)

    def watch_store(self, store: Store, clock: Callable[[], datetime]) -> None:
        """Gauges of what the store holds, computed when they are read."""
        self.registry.register(_Picture(store, clock))

    def cycle(self, planner: str, seconds: float) -> None:
        self._cycle.labels(planner).observe(seconds)

    def queued(self, seconds: float) -> None:
        """An Agent is planned so long after something of it had changed."""
        self._queued.observe(seconds)

    def decision(self, outcome: str) -> None:
        self._decisions.labels(outcome).inc()

    def request(self, verb: str, path: str, code: int, seconds: float) -> None:
        """An answer of the API server. The path is not a label: it names objects."""
        self._requests.labels(verb, str(code) if code in _CODES else "other").inc()

    def event(self, resource: str) -> None:
        self._events.labels(resource).inc()

    def queue(self, dirty: int, busy: int, waiting: int) -> None:
        for name, length in (("to_plan", dirty), ("under_way", busy), ("waiting", waiting)):
            self._queue.labels(name).set(length)

    def exposition(self) -> bytes:
        return prometheus_client.generate_latest(self.registry)


class _Picture(prometheus_client.registry.Collector):
    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        agents, bindings = self._store.agents.views.values(), self._store.bindings.views.values()
        yield _conditions("aios_operator_agents", "Agents by condition.", (agent.status for agent in agents))
        yield _conditions("aios_operator_tool_bindings", "ToolBindings by condition.", (binding.status for binding in bindings))
        yield self._longest_wait()
        yield from self._vram()
        yield from self._quota()

    def _longest_wait(self) -> Metric:
        """A queue that is long is no trouble as long as it moves."""
        now, known = self._clock(), {str(reason) for reason in Reason}
        waits: dict[str, float] = {}
        for each in [agent.status.get("pending") or {} for agent in self._store.agents.views.values()]:
            if each.get("reason") not in known:
                continue
            waited = max(0.0, (now - datetime.fromisoformat(each["since"])).total_seconds())
            waits[each["reason"]] = max(waits.get(each["reason"], 0.0), waited)
        text = "How long the Agent waits that has waited longest for a place, by the reason of its wait."
        family = GaugeMetricFamily("aios_operator_longest_wait_seconds", text, labels=["reason"])
        for reason, seconds in sorted(waits.items()):
            family.add_metric([reason], seconds)
        return family

    def _vram(self) -> Iterable[Metric]:
        capacity = GaugeMetricFamily("aios_operator_gpu_vram_capacity_bytes", "VRAM that a GPU offers.", labels=["node", "gpu"])
        booked = GaugeMetricFamily("aios_operator_gpu_vram_booked_bytes", "VRAM of a GPU that claims have booked.", labels=["node", "gpu"])
        taken: Counter[tuple[str, str]] = Counter()
        for claim in self._store.claims.views.values():
            for share in claim.shares:
                taken[share.pool, share.device] += share.mebibytes
        for each in self._store.slices.views.values():
            for gpu in each.gpus:
                capacity.add_metric([each.node_name, gpu.uuid], gpu.mebibytes * MIB)
                booked.add_metric([each.node_name, gpu.uuid], taken[each.pool, gpu.device] * MIB)
        return [capacity, booked]

    def _quota(self) -> Iterable[Metric]:
        """Of the quota that counts in each namespace; what is held and waits as its status says."""
        labels = ["namespace", "amount"]
        memory = GaugeMetricFamily("aios_operator_quota_memory_bytes", "VRAM: nominal, reserved, used and waiting.", labels=labels)
        agents = GaugeMetricFamily("aios_operator_quota_agents", "Agents: nominal, reserved, used and waiting.", labels=labels)
        for namespace, quota in self._store.counting_quotas():
            if quota.mebibytes is not None:
                memory.add_metric([namespace, "nominal"], quota.mebibytes * MIB)
            if quota.agents is not None:
                agents.add_metric([namespace, "nominal"], quota.agents)
            for word in ("reserved", "used", "waiting"):
                amount = quota.status.get(word)
                if amount:
                    memory.add_metric([namespace, word], parse_bytes(amount["memory"]))
                    agents.add_metric([namespace, word], amount["agents"])
        return [memory, agents]


def _conditions(name: str, help_text: str, statuses: Iterable[Mapping[str, Any]]) -> Metric:
    counted: Counter[tuple[str, str]] = Counter()
    known = {str(kind) for kind in ConditionType}
    for status in statuses:
        counted.update((c["type"], c["status"]) for c in status.get("conditions") or () if c["type"] in known)
    family = GaugeMetricFamily(name, help_text, labels=["condition", "status"])
    for (kind, word), number in sorted(counted.items()):
        family.add_metric([kind, word], number)
    return family

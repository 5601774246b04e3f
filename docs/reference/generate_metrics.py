"""`python docs/reference/generate_metrics.py [--check]`: writes metrics.md from what the programs define, or says what would change.

Every label must be explained here: one that is missing, or explained and gone, ends the generation with its name.
"""

import argparse
import difflib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

from prometheus_client import CollectorRegistry

from aios_api.egress import Verdict
from aios_api.reasons import ConditionType
from aios_operator import metrics as operator
from aios_operator.decide import effects
from aios_operator.observe.store import Store
from aios_sidecar.contracts.worker import FaultGroup
from aios_sidecar.gateway import metrics as gateway
from aios_sidecar.gateway.contexts.metrics import REFUSALS
from aios_sidecar.gateway.egress.connect import Connect
from aios_sidecar.gateway.egress.ended import Ended
from aios_sidecar.gateway.egress.forward import Forward
from aios_sidecar.gateway.problems import ProblemKind
from aios_sidecar.gateway.routes import ROUTES
from aios_sidecar.node import metrics as node

PAGE = Path(__file__).with_name("metrics.md")


class Defined(NamedTuple):
    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def operator_registry() -> CollectorRegistry:
    metrics = operator.Metrics()
    metrics.watch_store(Store(), lambda: datetime.now(UTC))
    return metrics.registry


PROGRAMS = {
    "Operator (`aios-operator`)": operator_registry,
    "Node agent (`aios-node`)": lambda: node.Metrics(lambda: 0.0)._registry,
    "Gateway (`aios-gateway`)": lambda: gateway.Metrics().registry,
}


def _words(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in words)


_REQUEST_CODES = [str(code) for code in sorted(operator._CODES)]
_GATEWAY_CODES = sorted({200, 201, *(kind.status for kind in ProblemKind)})
_ROUTE_NAMES = sorted({name for entry in ROUTES.values() for name, _ in entry.methods.values()})
_REFUSALS = sorted({*(kind.value for kind in ProblemKind), *Verdict} - {Verdict.Allowed, Verdict.WouldDeny})
_WRITES = sorted(write.__name__ for write in get_args(effects.Write))

LABELS = {
    ("aios_operator_cycle_seconds", "planner"): _words(["agents", "cluster"]),
    (
        "aios_operator_decisions_total",
        "outcome",
    ): f"a write that was done: {_words(_WRITES)}; `Failed` for a round that ended with an error; "
    "for an Agent without a place the reason of its wait ([reasons](reasons.md))",
    ("aios_operator_api_requests_total", "verb"): _words(["get", "list", "watch", "create", "apply", "patch", "delete"]),
    ("aios_operator_api_requests_total", "code"): f"{_words(_REQUEST_CODES)}, `other`; `0` is no answer",
    ("aios_operator_agents_in", "queue"): _words(["to_plan", "under_way", "waiting"]),
    ("aios_operator_watch_events_total", "resource"): "plural name of a resource that the operator watches",
    **{(f"aios_operator_{kind}", "condition"): _words(ConditionType) for kind in ("agents", "tool_bindings")},
    **{(f"aios_operator_{kind}", "status"): _words(["True", "False", "Unknown"]) for kind in ("agents", "tool_bindings")},
    ("aios_operator_longest_wait_seconds", "reason"): "why an Agent has no place ([reasons](reasons.md))",
    ("aios_operator_gpu_vram_capacity_bytes", "node"): "a node of the cluster",
    ("aios_operator_gpu_vram_capacity_bytes", "gpu"): "uuid of a GPU of that node",
    ("aios_operator_gpu_vram_booked_bytes", "node"): "a node of the cluster",
    ("aios_operator_gpu_vram_booked_bytes", "gpu"): "uuid of a GPU of that node",
    **{
        (f"aios_operator_quota_{name}", label): values
        for name in ("memory_bytes", "agents")
        for label, values in (("namespace", "a namespace with a GPUQuota"), ("amount", _words(["nominal", "reserved", "used", "waiting"])))
    },
    ("aios_node_requests_total", "request"): _words(["prepare", "unprepare", "hook"]),
    ("aios_node_requests_total", "outcome"): "`ok`, or the class of the error that ended the request",
    ("aios_node_fence_probes_total", "outcome"): _words(["held", "leaked", "unclear"]),
    ("aios_node_request_seconds", "request"): _words(["prepare", "unprepare", "hook"]),
    **{
        (f"aios_gpu_{name}", "gpu"): "uuid of a GPU of the node"
        for name in (
            "monitored",
            "errors_heard",
            "healthy",
            "faults_total",
            "capacity_bytes",
            "booked_bytes",
            "used_bytes",
            "unattributed_bytes",
            "context_bytes",
            "context_calibrated",
            "shares_exceeded_total",
        )
    },
    ("aios_gpu_faults_total", "group"): _words(FaultGroup),
    (
        "aios_gateway_requests_total",
        "route",
    ): f"{_words(sorted([*_ROUTE_NAMES, Connect.name, Forward.name]))}, `none` for what no route took",
    ("aios_gateway_requests_total", "code"): f"{_words(_GATEWAY_CODES)}; for what a host answered its class (`200`, `300`, `400`, `500`)",
    ("aios_context_refusals_total", "reason"): _words(kind.value for kind in REFUSALS),
    ("aios_gateway_egress_total", "verdict"): _words(["allow", "would_deny", "deny"]),
    ("aios_gateway_egress_total", "reason"): f"how it ended: {_words(Ended)}; why it was refused or failed: {_words(_REFUSALS)}",
    ("aios_gateway_egress_bytes_total", "direction"): _words(["up", "down"]),
}


def defined(registry: CollectorRegistry) -> Iterator[Defined]:
    """What the registry would expose, also what has no samples yet. Its public interface does not tell labels of those."""
    collector: Any
    for collector in registry._collector_to_names:
        own = getattr(collector, "_labelnames", None)
        families = collector.collect() if own is None else collector.describe()
        for family in families:
            labels = tuple(own if own is not None else family._labelnames)
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Defined(name, family.type, labels, family.documentation)


def page() -> str:
    """`docs/reference/metrics.md`. Raises `ValueError` when a label is not explained, or an explanation is of no label."""
    parts = [
        "<!-- Generated by `python docs/reference/generate_metrics.py`; a change belongs in the programs, labels in that file. -->\n",
        "# Metrics\n",
        "Each program serves its own at `/metrics` of its port `http`; the chart's PodMonitors name them (`metrics.podMonitor.enabled`).",
        "Labels take their values from closed sets, or name hardware of the cluster: never an Agent or anything that an agent sends.",
        "A counter starts at 0 with its program, which `rate()` and `increase()` take care of.",
        "A histogram has `_bucket` (with the label `le`), `_sum` and `_count`.\n",
    ]
    explained = set()
    for title, registry in PROGRAMS.items():
        parts.append(f"## {title}\n\n| metric | type | what |\n| --- | --- | --- |")
        found = sorted(defined(registry()))
        parts.extend(f"| `{each.name}` | {each.kind} | {each.help} |" for each in found)
        parts.append("")
        if any(each.labels for each in found):
            parts.append("| label | of | values |\n| --- | --- | --- |")
        for each in found:
            for label in each.labels:
                if (each.name, label) not in LABELS:
                    raise ValueError(f"LABELS must say which values the label {label} of {each.name} takes")
                explained.add((each.name, label))
                parts.append(f"| `{label}` | `{each.name}` | {LABELS[each.name, label]} |")
        parts.append("")
    if gone := LABELS.keys() - explained:
        raise ValueError(f"LABELS must explain only labels that exist, not {sorted(gone)}")
    return "\n".join(parts).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="generate_metrics.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 and a diff when the page is not as generated")
    options = parser.parse_args()
    wanted = page()
    if not options.check:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    present = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    name = "docs/reference/metrics.md"
    sys.stdout.writelines(difflib.unified_diff(present.splitlines(True), wanted.splitlines(True), name, f"{name} (generated)"))
    return 0 if present == wanted else 1


if __name__ == "__main__":
    sys.exit(main())

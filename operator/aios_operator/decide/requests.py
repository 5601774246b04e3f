"""What a pod requests, counted as kube-scheduler counts it.

The sum over containers and restartable init containers, or the largest moment of the init sequence when that is more; overhead on
top; pod-level resources instead where they are given (Kubernetes: "Resource sharing within containers", KEP-753 and KEP-2837).
"""

from collections.abc import Mapping
from typing import Any

from aios_api.quantity import InvalidQuantity, parse_bytes, parse_milli
from aios_operator.decide.views import Requests


def of_pod(spec: Mapping[str, Any]) -> Requests:
    """Raises `InvalidQuantity` when a request can't be read."""
    running = Requests()
    init_peak_cpu = init_peak_memory = 0
    for container in spec.get("initContainers") or ():
        own = _of(container.get("resources"))
        if container.get("restartPolicy") == "Always":
            running += own
            peak = running
        else:
            peak = running + own
        init_peak_cpu = max(init_peak_cpu, peak.cpu_milli)
        init_peak_memory = max(init_peak_memory, peak.memory_bytes)
    for container in spec.get("containers") or ():
        running += _of(container.get("resources"))
    cpu, memory = max(running.cpu_milli, init_peak_cpu), max(running.memory_bytes, init_peak_memory)
    whole = (spec.get("resources") or {}).get("requests") or {}
    if "cpu" in whole:
        cpu = parse_milli(str(whole["cpu"]))
    if "memory" in whole:
        memory = parse_bytes(str(whole["memory"]))
    overhead = _amounts(spec.get("overhead") or {})
    return Requests(cpu, memory, 1) + overhead


def of_pod_or_one(spec: Mapping[str, Any]) -> Requests:
    """As `of_pod`, for pods that are not ours to judge: one whose requests we can't read counts as a pod and no more."""
    try:
        return of_pod(spec)
    except InvalidQuantity:
        return Requests(pods=1)


def _of(resources: Mapping[str, Any] | None) -> Requests:
    resources = resources or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return _amounts({**{k: limits[k] for k in ("cpu", "memory") if k in limits}, **requests})


def _amounts(amounts: Mapping[str, Any]) -> Requests:
    return Requests(
        parse_milli(str(amounts["cpu"])) if "cpu" in amounts else 0,
        parse_bytes(str(amounts["memory"])) if "memory" in amounts else 0,
    )

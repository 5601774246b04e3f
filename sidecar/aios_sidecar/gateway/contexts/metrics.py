"""What the gateway counts of contexts."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from aios_api.context import ContextFacts
from aios_sidecar.context.store import AgentKey, Observer
from aios_sidecar.gateway.problems import ProblemKind

REFUSALS: Final = tuple(kind for kind in ProblemKind if kind.value.startswith("Context"))


class ContextMetrics(Observer):
    """Of all agents of the node together: none is named."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._writes = Counter("aios_context_writes", "Requests that wrote to a context.", registry=registry)
        self._commits = Counter(
            "aios_context_commits", "Transactions in which they were written: requests that wait together share one.", registry=registry
        )
        self._appended = Counter("aios_context_appended_items", "Items that were appended.", registry=registry)
        self._retired = Counter("aios_context_retired_items", "Items that retention removed.", registry=registry)
        self._erased = Counter("aios_context_erased_items", "Items that were erased.", registry=registry)
        self._damaged = Counter("aios_context_damaged_files", "Files that were damaged and set aside.", registry=registry)
        self._refused = Counter("aios_context_refusals", "Requests that a context refused, by reason.", ("reason",), registry=registry)
        self._items = Gauge("aios_context_items", "Items in the contexts of the agents that run here, as last told.", registry=registry)
        self._bytes = Gauge(
            "aios_context_content_bytes", "Bytes of contents in the contexts of the agents that run here, as last told.", registry=registry
        )
        self._free = Gauge("aios_context_disk_free_bytes", "Free space on the disk of the contexts.", registry=registry)

    def committed(self, writes: int, items: int, retired: int) -> None:
        self._commits.inc()
        self._writes.inc(writes)
        self._appended.inc(items)
        self._retired.inc(retired)

    def erased(self, items: int) -> None:
        self._erased.inc(items)

    def damaged(self, key: AgentKey, why: str) -> None:
        self._damaged.inc()

    def refused(self, kind: ProblemKind) -> None:
        if kind in REFUSALS:
            self._refused.labels(kind.value).inc()

    def watch_contexts(self, told: Callable[[], Iterable[ContextFacts]]) -> None:
        """Add up what was last told of each when the metrics are asked for."""
        self._items.set_function(lambda: sum(facts.items for facts in told()))
        self._bytes.set_function(lambda: sum(facts.content_bytes for facts in told()))

    def watch_disk(self, directory: Path) -> None:
        """Read its free space when the metrics are asked for."""
        self._free.set_function(lambda: shutil.disk_usage(directory).free if directory.is_dir() else 0)

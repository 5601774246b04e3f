"""What each namespace may hold of the GPUs, and what it holds: the quota that counts, as its status says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aios_api.quantity import MIB, mebibytes
from aios_operator.decide.quota import oldest_first
from aios_operator.decide.states import Amount
from aios_operator.decide.views import QuotaView
from aios_operator.observe import parse

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QuotaLine:
    """One namespace with a GPUQuota. None of a limit: as much as there is."""

    namespace: str
    name: str
    mebibytes: int | None
    agents: int | None
    error: str
    """Why its spec can't be read, so that it grants nothing; empty when it can."""
    reserved: Amount
    """What Agents hold, from admission to release."""
    used: Amount
    """Of that, what claims have booked on GPUs."""
    waiting: Amount
    """What those ask for that wait for quota."""

    @property
    def exceeded(self) -> bool:
        """Agents hold more than is granted: it was lowered below that."""
        over_memory = self.mebibytes is not None and self.reserved.mebibytes > self.mebibytes
        return over_memory or (self.agents is not None and self.reserved.agents > self.agents)


def quota_lines(quotas: Iterable[Raw]) -> list[QuotaLine]:
    """By namespace, the quota that counts there."""
    by_namespace: defaultdict[str, list[QuotaView]] = defaultdict(list)
    for raw in quotas:
        view = parse.quota(raw)
        by_namespace[view.namespace].append(view)
    return [_line(oldest_first(views)[0]) for _, views in sorted(by_namespace.items())]


def _line(view: QuotaView) -> QuotaLine:
    reserved, used, waiting = (_amount(view.status.get(word)) for word in ("reserved", "used", "waiting"))
    return QuotaLine(view.namespace, view.name, view.mebibytes, view.agents, view.spec_error or "", reserved, used, waiting)


def _amount(said: Raw | None) -> Amount:
    return Amount(mebibytes(said["memory"]), said["agents"]) if said else Amount()


def quota_json(line: QuotaLine) -> dict[str, Any]:
    """For programs. Sizes are bytes; null where there is no limit."""

    def amount(of: Amount) -> dict[str, int]:
        return {"memoryBytes": of.mebibytes * MIB, "agents": of.agents}

    return {
        "namespace": line.namespace,
        "name": line.name,
        "nominal": {"memoryBytes": None if line.mebibytes is None else line.mebibytes * MIB, "agents": line.agents},
        "reserved": amount(line.reserved),
        "used": amount(line.used),
        "waiting": amount(line.waiting),
        "exceeded": line.exceeded,
        "error": line.error or None,
    }

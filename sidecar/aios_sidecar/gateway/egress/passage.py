"""What an agent does outside, as it is written down: one verdict with all that came of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aios_api.addresses import Address
from aios_api.egress import Decision
from aios_sidecar.gateway.egress.ended import Ended
from aios_sidecar.gateway.egress.target import Target
from aios_sidecar.gateway.problems import Problem, ProblemKind

DENIALS: Final = frozenset(
    kind.value
    for kind in (
        ProblemKind.ADDRESS_DENIED,
        ProblemKind.EGRESS_DENIED,
        ProblemKind.SERVER_NAME_DENIED,
        ProblemKind.HOST_MISMATCH,
        ProblemKind.UPGRADE_REFUSED,
    )
)
"""Refused although the target alone was allowed."""


@dataclass(slots=True)
class Traffic:
    """What was carried so far."""

    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(eq=False, slots=True)
class Passage:
    """One verdict with all that came of it: a tunnel, a plain request, or a refusal. Noted once, at its end."""

    note: "Callable[[Passage, str], None]"
    """Counts it and writes it down, with the word for how it ended."""
    method: str
    target: Target
    began: float
    decision: Decision | None = None
    address: Address | None = None
    traffic: Traffic = field(default_factory=Traffic)
    status: int | None = None
    cut_because: str | None = None
    shown_open: bool = False
    counted_audited: bool = False
    closed: bool = False

    def __enter__(self) -> "Passage":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Whatever ended it has a word: why it was cut, a problem's own, or what became of its connection."""
        match error:
            case asyncio.CancelledError():
                self.close(self.cut_because or Ended.Stopped)
            case Problem():
                self.close(self.cut_because or error.kind.value)
            case _:
                self.close(self.cut_because or (Ended.Broken if error else Ended.Done))

    def close(self, reason: str) -> None:
        """Noted with `reason`: the verdict's word, or how it ended. Only the first one counts."""
        if not self.closed:
            self.closed = True
            self.note(self, reason)

    def verdict(self, reason: str) -> str:
        """`allow`, `would_deny` or `deny`, when it ended for `reason`."""
        if self.decision is None or not self.decision.allowed or reason in DENIALS:
            return "deny"
        return "would_deny" if self.decision.audited else "allow"

    def fields(self) -> Mapping[str, str | int | float | None]:
        """For the audit, as it is now."""
        rule = self.decision.rule if self.decision else None
        return {
            "method": self.method,
            "host": self.target.host,
            "port": self.target.port,
            "address": str(self.address) if self.address else None,
            "binding": rule.binding if rule else None,
            "rule": rule.rule if rule else None,
            "generation": rule.generation if rule else None,
            "status": self.status,
            "upBytes": self.traffic.up_bytes,
            "downBytes": self.traffic.down_bytes,
            "seconds": round(asyncio.get_running_loop().time() - self.began, 4),
        }

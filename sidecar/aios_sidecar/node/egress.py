"""What the gateway says of an agent's way out, and how it reads in `AgentRuntime.status.egress`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from aios_api.egress import MAX_BINDINGS
from aios_sidecar.contracts.link import EgressCounts

Status = dict[str, Any]


@dataclass(frozen=True)
class Tally:
    """A count whose teller begins anew whenever it starts: `last` is its last word, `total` all that it ever counted."""

    total: int = 0
    last: int = 0

    def hear(self, now: int) -> "Tally":
        return Tally(self.total + (now - self.last if now >= self.last else now), now)


@dataclass(frozen=True)
class EgressSeen:
    """Of one claim. Begins with what the status says, as the node agent before may have written it."""

    digest: str | None = None
    since: str | None = None
    denied: Tally = field(default_factory=Tally)
    would_deny: Mapping[str, Tally] = field(default_factory=dict)

    @classmethod
    def written(cls, status: Mapping[str, Any], claim_uid: str) -> "EgressSeen":
        """As the status of an order says it, when that speaks of this claim."""
        egress = status.get("egress") if status.get("claimUID") == claim_uid else None
        if not egress:
            return cls()
        counts = {each["binding"]: Tally(each["count"], each["count"]) for each in egress.get("wouldDeny") or ()}
        denied = egress.get("denied") or 0
        return cls(egress.get("policyDigest"), egress.get("since"), Tally(denied, denied), counts)

    def confirm(self, digest: str | None, now: datetime) -> "EgressSeen":
        """This policy is in force."""
        return (
            self
            if digest == self.digest
            else replace(self, digest=digest, since=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if digest else None)
        )

    def count(self, counts: EgressCounts) -> "EgressSeen":
        """The gateway has counted so much since it serves the agent."""
        heard = {each.binding: self.would_deny.get(each.binding, Tally()).hear(each.count) for each in counts.would_deny}
        silent = [name for name in self.would_deny if name not in heard]
        kept = silent[max(0, len(silent) + len(heard) - MAX_BINDINGS) :]  # bindings come and go; an order has no more of them at once
        would_deny = {**{name: self.would_deny[name] for name in kept}, **heard}
        return replace(self, denied=self.denied.hear(counts.denied), would_deny=would_deny)

    def status(self) -> Status | None:
        """None when there is nothing to say."""
        status: Status = {"policyDigest": self.digest, "since": self.since} if self.digest else {}
        if self.denied.total:
            status["denied"] = self.denied.total
        if self.would_deny:
            status["wouldDeny"] = [{"binding": name, "count": tally.total} for name, tally in sorted(self.would_deny.items())]
        return status or None

"""An agent's way out: its policy, and all that it has open outside. A new policy is in force when `load` returns."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aios_api.addresses import Address, Internal
from aios_api.binding import Scheme
from aios_api.egress import Decision, EgressPolicy, Verdict
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.gateway.egress.audit import Audit
from aios_sidecar.gateway.egress.dial import dial
from aios_sidecar.gateway.egress.ended import Ended
from aios_sidecar.gateway.egress.names import Names
from aios_sidecar.gateway.egress.passage import Passage
from aios_sidecar.gateway.egress.target import Target, written_host
from aios_sidecar.gateway.egress.tunnel import Room
from aios_sidecar.gateway.egress.upstream import Upstream
from aios_sidecar.gateway.http import METHOD_SHOWN
from aios_sidecar.gateway.metrics import EgressMetrics
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.rate import Rate
from aios_sidecar.gateway.settings import EgressLimits
from aios_sidecar.gateway.turns import Turns

JUDGED_LIMIT: Final = 256
"""Verdicts that are kept while the policy stays: an agent asks the same few hosts again and again."""
OPEN_SECONDS: Final = 10.0
"""What is open for longer has a line in the audit while it is, beside the one at its end."""
OPEN: Final = "open"
"""The verdict in that line: it is not counted, the end will be."""
_WORDS: Final = {
    Verdict.InternalAddress: "is an internal address",
    Verdict.InvalidHost: "is neither a DNS name of two labels nor a plain address",
}


@dataclass(slots=True)
class Outside:
    """What all agents of the process share on their way out."""

    names: Names
    limits: EgressLimits
    turns: Turns
    audit: Audit
    metrics: EgressMetrics
    internal: Internal
    """May change: then each agent's policy is to be loaded again."""


class AgentEgress:
    """Judges, opens and ends what one agent does outside."""

    def __init__(self, outside: Outside, identity: Callable[[], AgentIdentity]) -> None:
        self.outside = outside
        self.policy: EgressPolicy | None = None
        self.room = Room()
        self.denied = 0
        self.would_deny: Counter[str] = Counter()
        """By binding in Audit mode, since it is."""
        self._identity = identity
        self._open: set[Upstream] = set()
        self._look: asyncio.TimerHandle | None = None
        self._judged: dict[tuple[Scheme, str, int], Decision] = {}
        limits = outside.limits
        self._connects = Rate(limits.connects_per_second, limits.connects_burst, asyncio.get_running_loop().time())

    @property
    def open(self) -> int:
        return len(self._open)

    def load(self, policy: EgressPolicy | None) -> None:
        """This policy is in force, and nothing is open that it forbids. None allows nothing."""
        self.policy = policy
        self._judged.clear()
        for binding in self.would_deny.keys() - (policy.audit_bindings if policy is not None else ()):
            del self.would_deny[binding]
        for upstream in list(self._open):
            if not self._still_allowed(upstream):
                upstream.cut(Ended.PolicyChanged)

    def passage(self, method: str, target: Target) -> Passage:
        """One that begins now. What the agent chose of it is bounded, since all agents of the node share the audit: the method here, the
        host where the target was read."""
        return Passage(self.note, method[:METHOD_SHOWN], target, asyncio.get_running_loop().time())

    def note_unread(self, method: str, target: str, problem: Problem) -> None:
        """What was refused before its target could be read is noted too: the host as it was written, at port 0."""
        self.passage(method, Target(written_host(target), 0)).close(problem.kind.value)

    def judge(self, scheme: Scheme, passage: Passage) -> Decision:
        """What the policy in force says. Raises Problem for what it denies, when that has been noted."""
        if self.policy is None:
            raise self._refused(passage, None)
        asked = scheme, passage.target.host, passage.target.port
        decision = self._judged.get(asked)
        if decision is None:
            decision = self.policy.judge(*asked, self.outside.internal)
            if len(self._judged) < JUDGED_LIMIT:
                self._judged[asked] = decision
        passage.decision = decision
        if not decision.allowed:
            raise self._refused(passage, decision)
        return decision

    def _refused(self, passage: Passage, decision: Decision | None) -> Problem:
        """What is said of it, when it has been noted."""
        what = f"{passage.method} {passage.target.authority}"
        if decision is None:
            passage.close(ProblemKind.POLICY_NOT_LOADED.value)
            return Problem(ProblemKind.POLICY_NOT_LOADED, f"{what} was not judged.", {"Retry-After": "1"})
        passage.close(decision.verdict.value)
        return Problem(ProblemKind.EGRESS_DENIED, f"{what} {_WORDS.get(decision.verdict, 'is not allowed')} ({decision.verdict.value}).")

    async def open_upstream(self, passage: Passage, decision: Decision) -> Upstream:
        """A connection to the decision's host at an address that is allowed, all others of the name being so too. Raises Problem."""
        limits = self.outside.limits
        addresses = (decision.address,) if decision.address else await self.outside.names.resolve(decision.host, self)
        now = self._judged_anew(decision)  # the policy may have changed while the name was being resolved
        if now is not None and not all(self._may_dial(now, address) for address in addresses):
            raise Problem(ProblemKind.ADDRESS_DENIED, f"{passage.target.authority} has an address that is not allowed.")
        if now is None:
            raise self._changed(passage)
        self._count_audited(passage)
        if not self._connects.take(asyncio.get_running_loop().time()):
            most = f"{limits.connects_burst} connections outside, and {limits.connects_per_second:g} a second after that"
            raise Problem(ProblemKind.TOO_MANY_CONNECTIONS, f"An agent may open {most}.", {"Retry-After": "1"})
        connection, address = await dial(passage.target, addresses, limits.connect_seconds)
        upstream = Upstream(connection, address, passage.target, now, head_bytes=limits.response_head_bytes, closed=self._open.discard)
        if not self._still_allowed(upstream):
            connection.close()
            raise self._changed(passage)
        self._open.add(upstream)
        self._look_later()
        return upstream

    def note(self, passage: Passage, reason: str) -> None:
        """Count `passage`, which has ended for `reason`, and write it down."""
        verdict = passage.verdict(reason)
        if verdict == "deny":
            self.denied += 1
        elif verdict == "would_deny":
            self._count_audited(passage)
        self.outside.metrics.noted(verdict, reason, passage.traffic.up_bytes, passage.traffic.down_bytes)
        self._write(passage, verdict, reason)

    def _count_audited(self, passage: Passage) -> None:
        """Once, where no rule allows it and it is let through."""
        if passage.decision is not None and passage.decision.audited and self.policy is not None and not passage.counted_audited:
            passage.counted_audited = True
            self.would_deny.update(self.policy.audit_bindings)

    def _write(self, passage: Passage, verdict: str, reason: str) -> None:
        identity = self._identity()
        self.outside.audit.note(
            {
                "namespace": identity.namespace,
                "agent": identity.name,
                "uid": identity.uid,
                "attempt": identity.attempt,
                "verdict": verdict,
                "reason": reason,
                "policy": self.policy.digest if self.policy else None,
                **passage.fields(),
            }
        )

    def _look_at_open(self) -> None:
        """Write down what has been open for long, once: whoever reads the audit need not wait for its end."""
        self._look = None
        now = asyncio.get_running_loop().time()
        for passage in [each.passage for each in self._open if each.passage is not None]:
            if not passage.shown_open and now - passage.began >= OPEN_SECONDS:
                passage.shown_open = True
                self._write(passage, OPEN, OPEN)
        self._look_later()

    def _look_later(self) -> None:
        if self._open and self._look is None:
            self._look = asyncio.get_running_loop().call_later(OPEN_SECONDS / 2, self._look_at_open)

    def _changed(self, passage: Passage) -> Problem:
        """No byte of it went out: it is a denial, as if it had been judged now."""
        passage.close(ProblemKind.EGRESS_DENIED.value)
        return Problem(ProblemKind.EGRESS_DENIED, f"{passage.method} {passage.target.authority} is not allowed any more.")

    def _may_dial(self, decision: Decision, address: Address) -> bool:
        return self.policy is not None and self.policy.address_allowed(decision, address, self.outside.internal)

    def _judged_anew(self, before: Decision) -> Decision | None:
        """What the policy in force says of what was allowed before; None when it is not any more.

        Nor is a tunnel with any bytes where TLS is asked for now: its bytes were never looked at.
        """
        if self.policy is None:
            return None
        scheme: Scheme = "http" if before.scheme == "http" else "https"
        now = self.policy.judge(scheme, before.host, before.port, self.outside.internal)
        return None if not now.allowed or (before.scheme == "tcp" and now.scheme != "tcp") else now

    def _still_allowed(self, upstream: Upstream) -> bool:
        now = self._judged_anew(upstream.decision)
        return now is not None and self._may_dial(now, upstream.address)

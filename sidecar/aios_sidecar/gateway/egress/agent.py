"""An agent's way out: its policy, and all that it has open outside. A new policy is in force when `load` returns."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import h11

from aios_api.addresses import Address, Internal
from aios_api.binding import Scheme
from aios_api.egress import Decision, EgressPolicy, Verdict
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.gateway.egress.audit import Audit
from aios_sidecar.gateway.egress.dial import dial
from aios_sidecar.gateway.egress.ended import Ended
from aios_sidecar.gateway.egress.names import Names
from aios_sidecar.gateway.egress.target import Target, written_host
from aios_sidecar.gateway.egress.tunnel import Room
from aios_sidecar.gateway.http import METHOD_SHOWN
from aios_sidecar.gateway.metrics import EgressMetrics
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.settings import EgressLimits
from aios_sidecar.gateway.turns import Turns

JUDGED_LIMIT: Final = 256
"""Verdicts that are kept while the policy stays: an agent asks the same few hosts again and again."""
_WORDS: Final = {
    Verdict.InternalAddress: "is an internal address",
    Verdict.InvalidHost: "is neither a DNS name of two labels nor a plain address",
}


@dataclass(frozen=True, slots=True)
class Outside:
    """What all agents of the process share on their way out."""

    names: Names
    limits: EgressLimits
    turns: Turns
    audit: Audit
    metrics: EgressMetrics
    internal: Internal


@dataclass(eq=False, slots=True)
class Passage:
    """One verdict with all that came of it: a tunnel, a plain request, or a refusal. Noted once, at its end."""

    egress: "AgentEgress"
    method: str
    target: Target
    began: float
    decision: Decision | None = None
    address: Address | None = None
    up_bytes: int = 0
    down_bytes: int = 0
    status: int | None = None
    cut_because: str | None = None
    closed: bool = False

    def __enter__(self) -> "Passage":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Whatever ended it has a word: a problem's own, why it was cut, or what became of its connection."""
        match error:
            case Problem():
                self.close(error.kind.value)
            case asyncio.CancelledError():
                self.close(self.cut_because or Ended.Stopped)
            case _:
                self.close(Ended.Broken if error else Ended.Done)

    def close(self, reason: str) -> None:
        """Noted with `reason`: the verdict's word, or how it ended. Only the first one counts."""
        if not self.closed:
            self.closed = True
            self.egress.note(self, reason)


class Upstream:
    """A connection to an address that was checked for a decision. Owned by one connection of the agent, and never another's."""

    def __init__(self, egress: "AgentEgress", connection: socket.socket, address: Address, target: Target, decision: Decision) -> None:
        self.socket = connection
        self.address = address
        self.target = target
        self.decision = decision
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=egress.outside.limits.response_head_bytes)
        self._egress = egress
        self._user: asyncio.Task[object] | None = None
        self._passage: Passage | None = None

    def serves(self, target: Target) -> bool:
        """Whether it is still connected to this target's host, and nothing that nobody asked for has come from there."""
        return self.socket.fileno() >= 0 and (self.target.host, self.target.port) == (target.host, target.port) and not self._has_spoken()

    @contextlib.contextmanager
    def used_by_this_task(self, passage: Passage) -> Iterator[None]:
        """This task speaks over it inside, for `passage`: when it is cut the task is cancelled."""
        self._user, self._passage = asyncio.current_task(), passage
        passage.address = self.address
        try:
            yield
        finally:
            self._user = self._passage = None

    def cut(self, reason: str) -> None:
        """End it, and whoever speaks over it."""
        if self._user is None or self._passage is None:
            self.close()
        elif self._passage.cut_because is None:
            self._passage.cut_because = reason
            self._user.cancel(reason)

    def close(self) -> None:
        self._egress.forget(self)
        self.socket.close()

    def _has_spoken(self) -> bool:
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True  # its end, or a response before the request


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
        self._judged: dict[tuple[Scheme, str, int], Decision] = {}

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
        return Passage(self, method[:METHOD_SHOWN], target, asyncio.get_running_loop().time())

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
        if decision.audited:
            self.would_deny.update(self.policy.audit_bindings)
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
        connection, address = await dial(passage.target, addresses, limits.connect_seconds)
        upstream = Upstream(self, connection, address, passage.target, now)
        if not self._still_allowed(upstream):
            connection.close()
            raise self._changed(passage)
        self._open.add(upstream)
        return upstream

    def forget(self, upstream: Upstream) -> None:
        self._open.discard(upstream)

    def note(self, passage: Passage, reason: str) -> None:
        """Count `passage` and write it down."""
        decision, rule = passage.decision, passage.decision.rule if passage.decision else None
        allowed = decision is not None and decision.allowed and reason not in DENIALS
        verdict = "deny" if not allowed else "would_deny" if decision is not None and decision.audited else "allow"
        if verdict == "deny":
            self.denied += 1
        self.outside.metrics.noted(verdict, reason, passage.up_bytes, passage.down_bytes)
        identity = self._identity()
        self.outside.audit.note(
            {
                "namespace": identity.namespace,
                "agent": identity.name,
                "uid": identity.uid,
                "attempt": identity.attempt,
                "verdict": verdict,
                "reason": reason,
                "method": passage.method,
                "host": passage.target.host,
                "port": passage.target.port,
                "address": str(passage.address) if passage.address else None,
                "binding": rule.binding if rule else None,
                "rule": rule.rule if rule else None,
                "generation": rule.generation if rule else None,
                "policy": self.policy.digest if self.policy else None,
                "status": passage.status,
                "upBytes": passage.up_bytes,
                "downBytes": passage.down_bytes,
                "seconds": round(asyncio.get_running_loop().time() - passage.began, 4),
            }
        )

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

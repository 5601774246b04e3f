"""What has become of an Agent's current attempt: the facts, sorted once, from which actions and conditions follow.

An order is *open* while its attempt may still run. It is closed by the Agent's status: `attempt` is the order's and `Placed` is not
True. Status is written before anything is made for an order and before anything of it is removed, so a crash between any two
writes leads to the same end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import deadline, endings, lost
from aios_operator.decide.endings import Ending
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import AgentView, ClaimView, PodView, RuntimeView

BACKOFF_FIRST = timedelta(seconds=10)
BACKOFF_MOST = timedelta(minutes=5)
"""As the kubelet's own back-off for containers."""
BACKOFF_UNCHARGED = timedelta(seconds=10)
"""After an attempt that failed through no fault of the Agent's."""
FORGIVEN_AFTER = timedelta(minutes=10)
"""Ready for so long, and former failures no longer count."""

_AT_ONCE = {
    Reason.ClaimVanished,
    Reason.DeadlineExceeded,
    Reason.GPUUnhealthy,
    Reason.NameTaken,
    Reason.NodeLost,
    Reason.Replaced,
    Reason.SchedulerRefused,
    Reason.Stopped,
}
_CHARGED = {Reason.PodFailed, Reason.Evicted}
_AT_ONCE_THE_FIRST_TIME = {Reason.PodVanished, Reason.Displaced}
"""Once it is somebody's hand or a drained node; in a row it is something that does it each time."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One Agent that is not being deleted, its order, and what exists for it."""

    agent: AgentView
    state: AgentState
    order: RuntimeView | None
    pod: PodView | None
    claim: ClaimView | None
    stale_pods: tuple[PodView, ...]
    stale_claims: tuple[ClaimView, ...]
    ending: Ending | None
    open: bool
    """The order may run: not closed in status, not ending now."""
    refused: str | None
    """What the API server said against the template of this generation."""
    final: bool
    """The Agent came to an end of its own, and was neither changed nor stopped since."""
    retry_at: datetime | None
    """While the Agent is in its back-off: when that ends."""
    run: deadline.Run | None
    run_ends: datetime | None
    """By spec.activeDeadlineSeconds; it may have passed."""
    leaving: lost.Leaving | None
    """An attempt before that may still speak from a node out of touch."""
    expired: bool
    """The run of the present spec is over by its deadline."""

    @property
    def outdated(self) -> bool:
        """The open order is for a spec that has changed since."""
        return self.order is not None and self.order.digest != self.agent.digest

    @property
    def wanted(self) -> bool:
        """The user wants it to run, and it can be tried."""
        return self.agent.running and self.agent.spec_error is None and self.refused is None and not self.final and not self.expired

    @property
    def needs_place(self) -> bool:
        """A next attempt is due. How the one before ended is written down first."""
        due = (not self.open or self.outdated) and self.ending is None
        return self.wanted and due and self.retry_at is None and not self.blocked

    @property
    def forbidden(self) -> str | None:
        """Why the API server does not let claim or pod of this order be made for now."""
        return endings.order_refusal(self.state, self.order, Reason.Forbidden)

    @property
    def blocked(self) -> bool:
        """An order of an earlier Agent of the same name is still there; garbage collection removes it."""
        return self.state.runtime is not None and self.order is None

    @property
    def reserved(self) -> bool:
        """The Agent keeps its part of the quota: its order is open, or another attempt follows it."""
        return self.order is not None and (self.open or (self.wanted and holds_quota(self.agent.status, self.order)))

    @property
    def waits_for_mute(self) -> bool:
        """Nothing of the order is made yet, so that an identity never speaks from two places. On one and the same node it can't: nothing
        is prepared there for an order that the node has not heard of."""
        return self.leaving is not None and (self.order is None or self.order.node_name != self.leaving.node)

    @property
    def recorded(self) -> bool:
        """The order stands in the Agent's status, so that claim and pod may be made."""
        return self.order is not None and _is_recorded(self.agent.status, self.order)


def situation(state: AgentState, agent: AgentView, now: datetime) -> Situation:
    order = state.runtime
    if order is not None and (order.agent_uid != agent.uid or order.deleting):
        order = None
    attempt = order.attempt if order is not None else None
    pods = [pod for pod in state.pods if pod.agent_uid == agent.uid]
    pod = next((p for p in pods if p.attempt == attempt), None)
    claim = next((c for c in state.claims if c.agent_uid == agent.uid and c.attempt == attempt), None)
    refused = _refused(state, agent)
    closed = order is None or _is_closed(agent.status, order)
    run = deadline.run(agent, None if closed else order, pod, now)
    run_ends = deadline.end(agent, run)
    over = run_ends is not None and now >= run_ends
    ending = None
    if order is not None and not closed:
        ending = endings.find(state, agent, order, pod, claim, now, refused=refused, over=over)
    final = (
        order is not None
        and agent.running
        and order.digest == agent.digest
        and (_is_final(agent.status, order) if closed else bool(ending and ending.final))
    )
    is_open = not closed and ending is None
    stale_pods = tuple(p for p in state.pods if p is not pod)
    return Situation(
        agent=agent,
        state=state,
        order=order,
        pod=pod,
        claim=claim,
        stale_pods=stale_pods,
        stale_claims=tuple(c for c in state.claims if c is not claim),
        ending=ending,
        open=is_open,
        refused=refused,
        final=final,
        retry_at=None if is_open or final else _retry_at(agent, order, ending, now),
        run=run,
        run_ends=run_ends,
        leaving=_leaving(state, agent, order, pod, tuple(p for p in pods if p is not pod), ending, is_open),
        expired=over and not final and run is not None and run.digest == agent.digest,
    )


def failed_attempts(s: Situation) -> int:
    """In a row, with the one that ends now. A changed spec begins anew."""
    before = 0 if s.outdated else int(s.agent.status.get("failedAttempts") or 0)
    return before + 1 if s.ending is not None and s.ending.charged else before


def backoff(failed: int) -> timedelta:
    """10 s, doubling with each failure in a row, at most 5 min."""
    doublings = min(max(failed - 1, 0), 10)
    return min(BACKOFF_MOST, BACKOFF_FIRST * (1 << doublings))


def condition(status: Mapping[str, Any], kind: ConditionType) -> Mapping[str, Any]:
    """The condition of that type as last written; empty when there is none."""
    return next((c for c in status.get("conditions") or () if c["type"] == kind), {})


def _leaving(
    state: AgentState,
    agent: AgentView,
    order: RuntimeView | None,
    pod: PodView | None,
    others: tuple[PodView, ...],
    ending: Ending | None,
    is_open: bool,
) -> lost.Leaving | None:
    """`others` are the Agent's own pods of other attempts: one of an Agent that had the name before is another identity."""
    going = others if is_open or pod is None else (*others, pod)
    candidates = [former] if (former := lost.written(agent)) is not None and not _ended_in_touch(state, former) else []
    candidates += lost.left_behind(state.nodes, going)
    candidates += state.vanished
    vanished = order is not None and pod is None and ending is not None and endings.had_pod(agent, order)
    if order is not None and vanished and lost.removed_by_force(state.nodes.get(order.node_name)):
        candidates.append(lost.Leaving(order.node_name, order.attempt))
    return lost.leaving(state.nodes, order if is_open else None, state.order_stood, candidates)


def went_unseen(state: AgentState) -> lost.Leaving | None:
    """The attempt whose pod is not there any more, though it was when the status was written, which says nothing of its end."""
    agent, order = state.agent, state.runtime
    if agent is None or order is None or order.agent_uid != agent.uid or _is_closed(agent.status, order):
        return None
    is_there = any((pod.agent_uid, pod.attempt) == (agent.uid, order.attempt) for pod in state.pods)
    return None if is_there or not endings.had_pod(agent, order) else lost.Leaving(order.node_name, order.attempt)


def _ended_in_touch(state: AgentState, former: lost.Leaving) -> bool:
    """Its pod went without a word, but its node is as it should be and was heard since: what has no pod there has been ended."""
    sight = state.nodes.get(former.node)
    return former.attempt in state.known_over and sight is not None and lost.trouble(sight.view) is None


def holds_quota(status: Mapping[str, Any], order: RuntimeView) -> bool:
    """What `order` asks for is reserved: from the moment in which it is given until a status says otherwise. Only what is written counts:
    a spec that is changed there and back within a moment can't take what was given to another meanwhile."""
    return not _is_closed(status, order) or condition(status, ConditionType.QuotaReserved).get("status") == "True"


def _is_recorded(status: Mapping[str, Any], order: RuntimeView) -> bool:
    return status.get("attempt") == order.attempt and condition(status, ConditionType.Placed).get("status") == "True"


def _is_closed(status: Mapping[str, Any], order: RuntimeView) -> bool:
    written = int(status.get("attempt") or 0)
    return written > order.attempt or (written == order.attempt and not _is_recorded(status, order))


def _is_final(status: Mapping[str, Any], order: RuntimeView) -> bool:
    return status.get("attempt") == order.attempt and condition(status, ConditionType.Completed).get("status") == "True"


def _refused(state: AgentState, agent: AgentView) -> str | None:
    """What was said just now, or what the status remembers of this generation, so that a restart does not try it again."""
    if state.template_refused is not None and state.template_refused[0] == agent.digest:
        return state.template_refused[1]
    written = condition(agent.status, ConditionType.Accepted)
    if written.get("reason") == Reason.TemplateRefused and written.get("observedGeneration") == agent.generation:
        return str(written["message"])
    return None


def _retry_at(agent: AgentView, order: RuntimeView | None, ending: Ending | None, now: datetime) -> datetime | None:
    """When the next attempt may begin, if that is not now."""
    if order is None or order.digest != agent.digest:
        return None
    if ending is not None:
        failed = int(agent.status.get("failedAttempts") or 0) + (1 if ending.charged else 0)
        at = now + _delay(ending.reason, failed)
    else:
        last = agent.status.get("lastFailure") or {}
        if last.get("attempt") != order.attempt:
            return None
        at = failed_at(last, now) + _delay(last["reason"], int(agent.status.get("failedAttempts") or 0))
    return at if at > now else None


def failed_at(last: Mapping[str, Any], now: datetime) -> datetime:
    """When the attempt failed that a status tells of. A time in the future was written by a wrong clock, and is mended to be now: else
    a clock that was ahead by an hour would make a back-off of an hour."""
    return min(datetime.fromisoformat(last["time"]), now)


def _delay(reason: str, failed: int) -> timedelta:
    if reason in _CHARGED:
        return backoff(failed)
    if reason in _AT_ONCE_THE_FIRST_TIME:
        return backoff(failed - 1) if failed > 1 else timedelta(0)
    return timedelta(0) if reason in _AT_ONCE else BACKOFF_UNCHARGED

"""The agent planner: what must be written so that one Agent is as its spec says. Planning again after acting yields nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

from aios_api.names import FINALIZER
from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import attempts, conditions, egress, endings, lost, moving, objects
from aios_operator.decide.attempts import Situation
from aios_operator.decide.effects import (
    AddFinalizer,
    ApplyPolicy,
    CreateClaim,
    CreatePod,
    DeleteClaim,
    DeletePod,
    DeletePolicy,
    DeleteRuntime,
    Effect,
    Exclude,
    NeedsPlace,
    NudgePod,
    PlanAgainAt,
    RecordEvent,
    RemoveFinalizer,
    Wait,
    WriteStatus,
)
from aios_operator.decide.states import AgentState, Exclusion, NamespaceState
from aios_operator.decide.views import AgentView, ClaimView, PodView

REMOVAL_LIMIT = timedelta(minutes=10)
"""After that the Agent is let go even when something of it is left: owner references still name what garbage collection removes."""
NUDGE_AFTER = timedelta(seconds=5)
"""A claim is prepared within a second of the pod's binding when all goes well; the kubelet's own second try comes after 60 to 90."""
NUDGE_SOON = timedelta(seconds=2.5)
"""Between two nudges at first, until `SOON_UNTIL` after the pod was bound or lost its containers: a node agent that was killed is
registered with the kubelet again after 4 to 7 s, and who waits for it shall not wait much longer."""
SOON_UNTIL = timedelta(seconds=10)
NUDGE_EVERY = timedelta(seconds=15)
NUDGE_UNTIL = timedelta(minutes=2)
"""Then the kubelet is left to itself: at rest nothing is written, also where a node agent never comes."""
EXCLUDED_AT_FIRST = timedelta(seconds=3)
"""How long an Agent is not placed again on a node where kube-scheduler refused it: elsewhere at once, or there again soon. It may have
looked a moment before it heard that a claim was deleted, and after that it does not look again by itself."""
EXCLUDED_FOR = Exclusion.LONGEST
"""The same, when the attempt before was refused as well."""


def plan_agent(state: AgentState, now: datetime) -> list[Effect]:
    """The effects, to be performed in their order; the first that fails ends the list, and what it stood for is planned again."""
    agent = state.agent
    if agent is None:
        return []
    if agent.deleting_since is not None:
        return _plan_removal(state, agent, agent.deleting_since, now)
    if FINALIZER not in agent.finalizers:
        return [AddFinalizer(agent.key, agent.uid, agent.resource_version)]
    if revised := egress.revise(state, agent, now):
        return revised  # alone: what is reached changes for many Agents at once, and no status is to go before another one's order
    s = attempts.situation(state, agent, now)
    return [*_report(s, now), *_follow(s), *_nudge(s, now), *_ask(s, now)]


def plan_namespace(state: NamespaceState) -> list[Effect]:
    """One NetworkPolicy where there are Agents, none where there are none."""
    if state.has_agents and (state.policy is None or not state.policy.current):
        return [ApplyPolicy(state.namespace, objects.network_policy(state.namespace))]
    if not state.has_agents and state.policy is not None:
        return [DeletePolicy(state.namespace, state.policy.uid)]
    return []


def _report(s: Situation, now: datetime) -> list[Effect]:
    """The status when it has changed, with an event for what a person should notice."""
    agent = s.agent
    forgiven = s.outdated and agent.status.get("failedAttempts")
    if s.needs_place and not s.open and not forgiven and conditions.waits_for(s) is None:
        return []  # the cluster planner speaks within its next cycle; a status before that would be one write more for each Agent
    status = conditions.status(s, now)
    if status == agent.status:
        return []
    return [WriteStatus(agent.key, agent.uid, status), *_events(s, now)]


def _events(s: Situation, now: datetime) -> list[Effect]:
    if s.ending is None:
        told = attempts.condition(s.agent.status, ConditionType.DeadlineExceeded).get("status") == "True"
        if not s.expired or told:
            return []
        message = conditions.deadline_message(s)
        return [RecordEvent(s.agent.key, s.agent.uid, True, str(Reason.DeadlineExceeded), "EndRun", message)]
    quiet = s.ending.reason in (Reason.Stopped, Reason.Completed)
    action = "Stop" if s.ending.reason == Reason.Stopped else "EndAttempt"
    events: list[Effect] = [RecordEvent(s.agent.key, s.agent.uid, not quiet, str(s.ending.reason), action, s.ending.message)]
    if s.ending.reason == Reason.SchedulerRefused and s.order is not None and s.pod is not None and s.pod.unschedulable_since is not None:
        last = s.agent.status.get("lastFailure") or {}
        again = last.get("reason") == Reason.SchedulerRefused and last.get("attempt") == s.order.attempt - 1
        # From now, and not from when kube-scheduler refused it: its clock may be another than ours.
        events.append(Exclude(s.agent.key, Exclusion(s.order.node_name, now + (EXCLUDED_FOR if again else EXCLUDED_AT_FIRST))))
    return events


def _follow(s: Situation) -> list[Effect]:
    """What the order asks for, and no more: the old away first, then claim, then pod; never two attempts at once."""
    if stale := _release(s.state, s.stale_pods, s.stale_claims):
        return stale
    if s.stale_pods or s.stale_claims:
        return []
    if not s.open:
        return _release_attempt(s)
    policy = s.state.policy
    if s.waits_for_mute:
        return []
    if s.order is None or not s.recorded or s.outdated or s.agent.spec_error is not None or policy is None or not policy.current:
        return []
    effects: list[Effect] = []
    if s.claim is None and s.pod is None:
        effects.append(CreateClaim(s.agent.key, objects.claim(s.agent, s.order), s.agent.digest))
    if s.pod is None and (s.claim is None or not s.claim.deleting):
        effects.append(CreatePod(s.agent.key, objects.pod(s.agent, s.order), s.agent.digest))
    return effects


def _release_attempt(s: Situation) -> list[Effect]:
    """Pod and claim of a closed order. A pod that has ended stays until the next attempt, so that its log can be read."""
    pods = () if s.pod is None or (s.pod.phase in ("Succeeded", "Failed") and s.agent.running) else (s.pod,)
    return _release(s.state, pods, () if s.claim is None else (s.claim,))


def _release(state: AgentState, pods: tuple[PodView, ...], claims: tuple[ClaimView, ...]) -> list[Effect]:
    """Pods first; claims when no pod that may still use them is left, since the kubelet needs the claim to end the pod. Where no kubelet
    will end it, because its node is lost and mute, the pod goes at once."""
    effects: list[Effect] = []
    for pod in pods:
        at_once = pod.node_name is not None and lost.beyond_reach(state.nodes.get(pod.node_name))
        if not (pod.at_once if at_once else pod.deleting):
            effects.append(DeletePod(state.key, pod.name, pod.uid, at_once))
    if not pods:
        effects += [DeleteClaim(state.key, claim.name, claim.uid) for claim in claims if not claim.deleting]
    return effects


def _nudge(s: Situation, now: datetime) -> list[Effect]:
    """A pod that the kubelet has looked at too early: before the driver was registered, or its right to read the claim was there."""
    pod, since = s.pod, _unprepared_since(s)
    if pod is None or since is None or now >= since + NUDGE_UNTIL:
        return []
    nudged = pod.nudged if pod.nudged is not None and pod.nudged > since else None
    due = since + NUDGE_AFTER if nudged is None else nudged + (NUDGE_SOON if nudged < since + SOON_UNTIL else NUDGE_EVERY)
    if now < due:
        return [PlanAgainAt(s.agent.key, due)]
    return [
        NudgePod(s.agent.key, pod.name, pod.uid, now),
        PlanAgainAt(s.agent.key, now + (NUDGE_SOON if now < since + SOON_UNTIL else NUDGE_EVERY)),
    ]


def _unprepared_since(s: Situation) -> datetime | None:
    """Since the pod was bound, until it is prepared; or since its node has rebooted, after which the node agent knows it all the same."""
    if not s.open or s.pod is None or s.pod.deleting:
        return None
    if s.pod.phase == "Pending":
        return None if conditions.prepared(s).status == "True" else s.pod.bound_since
    return s.pod.gone_since


def _ask(s: Situation, now: datetime) -> list[Effect]:
    """A place when one is needed, and to be planned again when only time has to pass."""
    effects: list[Effect] = [NeedsPlace(s.agent.key)] if s.needs_place else []
    if not s.needs_place and s.state.refusal is not None:
        effects.append(Wait(s.agent.key, None))
    if s.run_ends is not None and now < s.run_ends and (s.open or s.wanted):
        effects.append(PlanAgainAt(s.agent.key, s.run_ends))
    if s.retry_at is not None and s.wanted:
        effects.append(PlanAgainAt(s.agent.key, s.retry_at))
    if (gives_up := moving.gives_up_at(s.agent, s.order)) is not None and s.open and now < gives_up:
        effects.append(PlanAgainAt(s.agent.key, gives_up))
    pod = s.pod
    if s.open and pod is not None and pod.node_name is None and pod.unschedulable_since is not None:
        effects.append(PlanAgainAt(s.agent.key, pod.unschedulable_since + endings.SCHEDULER_PATIENCE))
    ready = conditions.ready_since(s)
    if ready is not None and s.agent.status.get("failedAttempts") and now < ready + attempts.FORGIVEN_AFTER:
        effects.append(PlanAgainAt(s.agent.key, ready + attempts.FORGIVEN_AFTER))
    return effects


def _plan_removal(state: AgentState, agent: AgentView, since: datetime, now: datetime) -> list[Effect]:
    """Pod, then claim, then order, then the Agent itself."""
    if FINALIZER not in agent.finalizers:
        return []
    left = bool(state.pods or state.claims or state.runtime)
    if not left:
        return [RemoveFinalizer(agent.key, agent.uid, agent.resource_version)]
    if now - since >= REMOVAL_LIMIT:
        note = f"let go after {REMOVAL_LIMIT.seconds // 60} min although {_named(state)} is left; garbage collection removes what it can"
        return [
            RecordEvent(agent.key, agent.uid, True, str(Reason.Deleting), "Delete", note),
            RemoveFinalizer(agent.key, agent.uid, agent.resource_version),
        ]
    effects = [
        *egress.revise(state, agent, now),
        *_release(state, state.pods, state.claims),
    ]  # a pod has its grace, and may speak meanwhile
    if not state.pods and not state.claims and state.runtime is not None and not state.runtime.deleting:
        effects.append(DeleteRuntime(agent.key, state.runtime.uid))
    return [*effects, PlanAgainAt(agent.key, since + REMOVAL_LIMIT)]


def _named(state: AgentState) -> str:
    pods = [f"pod {pod.name}" for pod in state.pods]
    claims = [f"claim {claim.name}" for claim in state.claims]
    return ", ".join([*pods, *claims, *(["its AgentRuntime"] if state.runtime else [])])

"""The cluster planner: who of those that wait gets which place, in one coalesced cycle over one view of the cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from aios_operator.decide import attempts, egress, moving, objects, placement, quota
from aios_operator.decide.effects import ApplyRuntime, Effect, PlanAgainAt, Wait
from aios_operator.decide.states import AgentState, ClusterView, Order, Refusal
from aios_operator.decide.views import AgentView, Gpu

SAID_AGAIN_AFTER = timedelta(seconds=10)
"""How long the text of a refusal stands when only its numbers change."""


def plan_cluster(view: ClusterView, now: datetime, most: int | None = None) -> list[Effect]:
    """An order for each Agent that gets quota and a place, and a refusal for each that does not: by priority, then by age. Everything
    that is given out within the cycle counts for the next Agent in line. Quota is taken with the place, so who finds none holds none.
    After `most` orders nobody else is looked at: it is the next cycle's turn."""
    board = placement.Board.of(view)
    ledgers = {namespace: quota.Ledger(namespace, grant) for namespace, grant in view.grants.items()}
    effects: list[Effect] = []
    failed: dict[object, Refusal] = {}
    placed = 0
    waiting = sorted(view.waiting, key=_turn)
    ahead = [state for state in view.unsettled if waiting and _turn(state) < _turn(waiting[-1])]
    unsettled = {state.key for state in ahead}
    for state in sorted([*waiting, *ahead], key=_turn):
        agent = state.agent
        if agent is None:
            continue
        exclusions = view.exclusions.get(agent.key, ())
        # The board only fills up within a cycle: what has just failed fails again, unless the Agent has room of its own.
        shape = _shape(state, agent) if agent.uid not in board.held and not exclusions else None
        ledger = ledgers[agent.key.namespace]
        if (refused := ledger.judge(agent)) is not None:
            effects += [] if agent.key in unsettled else _refuse(agent, refused, view.refusals.get(agent.key), now)
            continue
        home, near = moving.home(state, agent), moving.near(state, agent)
        found = failed.get(shape) or placement.place(placement.search(agent, board, exclusions, now, home, near))
        if isinstance(found, Refusal):
            if shape is not None:
                failed[shape] = found
            effects += [] if agent.key in unsettled else _refuse(agent, found, view.refusals.get(agent.key), now)
            continue
        node, gpu = found
        if agent.key not in unsettled:
            effects += [_order(state, agent, node, gpu), Wait(agent.key, None)]
            placed += 1
            if placed == most:
                break
        ledger.take(agent)
        board.take(agent.uid, node, gpu.uuid if gpu else None, gpu.mebibytes if gpu else 0, 1, agent.requests)
    return effects


def _refuse(agent: AgentView, refusal: Refusal, known: Refusal | None, now: datetime) -> list[Effect]:
    """What the user reads. Free VRAM changes with every Agent that comes or goes; who waits is not written anew as often."""
    same = known is not None and (known.reason, known.digest) == (refusal.reason, agent.digest)
    if known is None or not same or known == refusal or known.at is None or now >= known.at + SAID_AGAIN_AFTER:
        return [Wait(agent.key, replace(refusal, at=now, digest=agent.digest))]
    return [Wait(agent.key, known), PlanAgainAt(agent.key, known.at + SAID_AGAIN_AFTER)]


def _shape(state: AgentState, agent: AgentView) -> object:
    """Agents of one shape fare alike on the same board."""
    spec = agent.template["spec"]
    scheduling = [spec.get("nodeSelector"), (spec.get("affinity") or {}).get("nodeAffinity"), spec.get("tolerations")]
    return agent.gpu, agent.requests, moving.home(state, agent), json.dumps(scheduling, sort_keys=True)


def _order(state: AgentState, agent: AgentView, node: str, gpu: Gpu | None) -> ApplyRuntime:
    runtime = state.runtime
    last = max(runtime.attempt if runtime else 0, int(agent.status.get("attempt") or 0))
    where = f"{objects.format_mebibytes(gpu.mebibytes)} of {gpu.uuid} ({gpu.model}) on {node}" if gpu else node
    at_once = egress.at_once(state, agent)
    if (origin := moving.origin(state, agent, node)) is not None:
        at_once["contextFrom"] = origin
    body = objects.runtime(agent, runtime.uid if runtime else None, last + 1, node, gpu, at_once)
    return ApplyRuntime(agent.key, runtime.uid if runtime else None, body, f"attempt {last + 1} on {where}")


def _turn(state: AgentState) -> tuple[int, datetime, str, str]:
    agent = state.agent
    assert agent is not None, "only Agents that exist wait"
    return -agent.priority, agent.created, agent.key.namespace, agent.key.name


def standing_order(state: AgentState, now: datetime) -> Order | None:
    """The Agent's order, if it takes a place that no bound pod takes yet."""
    agent = state.agent
    if agent is None or agent.deleting_since is not None:
        return None
    s = attempts.situation(state, agent, now)
    if not s.open or s.order is None or (s.pod is not None and s.pod.node_name is not None):
        return None
    return Order(s.order, agent.requests, allocated=s.claim is not None and bool(s.claim.shares))


def waiting(states: Sequence[AgentState], now: datetime) -> list[AgentState]:
    """Those that need a place now."""
    return [
        state
        for state in states
        if state.agent is not None and state.agent.deleting_since is None and attempts.situation(state, state.agent, now).needs_place
    ]

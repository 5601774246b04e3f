"""What a ToolBinding says of itself: whether it can be read, whom it selects, and at how many gateways it is in force.

Nothing follows from this status. What Agents may reach follows from the bindings (`egress`), what is in force from the facts of nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import attempts, egress
from aios_operator.decide.effects import Effect, WriteBindingStatus
from aios_operator.decide.facts import Said, dated
from aios_operator.decide.states import AgentState, BindingsState
from aios_operator.decide.views import AgentView, BindingView, RuntimeView

NAMED = 3
"""So many Agents are named in a message; of the others the number is told."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a binding has come. Agents by name, in order."""

    selected: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()
    """Of these, those that run behind a gateway."""
    confirmed: tuple[str, ...] = ()
    """Of these, those whose gateway has confirmed this generation."""
    left_out: tuple[str, ...] = ()
    """Of the selected, those for which there is no room for it."""
    kept: tuple[str, ...] = ()
    """Of the selected, those that have it as it was before."""
    would_deny: int = 0


def plan_bindings(state: BindingsState, now: datetime) -> list[Effect]:
    """The status of each binding of a namespace that does not say yet what is so."""
    reaches = reached(state)
    effects: list[Effect] = []
    for view in state.bindings:
        wanted = status(view, reaches[view.name], now)
        if not view.deleting and wanted != view.status:
            effects.append(WriteBindingStatus(view.namespace, view.name, view.uid, wanted))
    return effects


def reached(state: BindingsState) -> dict[str, Reach]:
    """For each binding by name, over all Agents of the namespace."""
    found: dict[str, dict[str, list[str]]] = {view.name: {} for view in state.bindings}
    counts = dict.fromkeys(found, 0)
    for member in sorted(state.members, key=lambda each: each.key.name):
        agent, order = member.agent, _order(member)
        if agent is None or agent.deleting_since is not None:
            continue
        policy = egress.effective(member, agent)
        for binding in member.bindings:
            if binding.name not in found or not binding.selects(agent.labels, order.egress if order is not None else None):
                continue
            lists = ["selected"]
            serving = order is not None and _serves(agent, order)
            whole = egress.is_whole(policy, binding)
            lists += ["serving"] if serving else []
            lists += ["confirmed"] if serving and whole and policy is not None and _confirmed(order, policy.digest) else []
            lists += ["left_out"] if not whole and binding.spec is not None else []
            lists += ["kept"] if not whole and policy is not None and policy.in_force(binding.name) is not None else []
            for name in lists:
                found[binding.name].setdefault(name, []).append(agent.key.name)
            if order is not None and order.fact_attempt == order.attempt:
                counts[binding.name] += order.egress_facts.would_deny.get(binding.name, 0)
    return {name: Reach(**{k: tuple(v) for k, v in lists.items()}, would_deny=counts[name]) for name, lists in found.items()}


def _order(member: AgentState) -> RuntimeView | None:
    order = member.runtime
    return order if order is not None and member.agent is not None and order.agent_uid == member.agent.uid else None


def _serves(agent: AgentView, order: RuntimeView) -> bool:
    """A gateway answers for the current attempt, as far as its node says and the Agent's status knows."""
    listening = order.facts.get(ConditionType.Listening)
    placed = attempts.condition(agent.status, ConditionType.Placed).get("status") == "True"
    current = order.fact_attempt == order.attempt == agent.status.get("attempt")
    return placed and current and listening is not None and listening.status == "True"


def _confirmed(order: RuntimeView | None, digest: str) -> bool:
    return order is not None and order.egress_digest == digest == order.egress_facts.digest


# What is said.


def accepted(view: BindingView, reach: Reach) -> Said:
    del reach
    if view.binding.error is not None:
        return Said("False", Reason.InvalidSpec, view.binding.error)
    return Said("True", Reason.Accepted, "the spec can be read")


def resolved_refs(view: BindingView, reach: Reach) -> Said:
    if reach.selected:
        return Said("True", Reason.Resolved, f"selects {_agents(reach.selected)}")
    if view.binding.selector is None or view.binding.selector.empty:
        return Said("False", Reason.SelectsNothing, "spec.agentSelector is absent or empty, and so selects nothing")
    return Said("False", Reason.SelectsNothing, "no Agent of the namespace has such labels")


def programmed(view: BindingView, reach: Reach) -> Said:
    if view.binding.error is not None:
        if not reach.kept:
            return Said("False", Reason.InvalidSpec, "nothing of it is in force, since it was never readable for any of these Agents")
        return Said("False", Reason.LastGoodInForce, f"what it said before is in force for {_agents(reach.kept)}")
    if reach.left_out:
        before = "; what it said before is in force for those that had it" if reach.kept else ""
        return Said("False", Reason.TooManyRules, f"there is no room for it beside the other bindings of {_agents(reach.left_out)}{before}")
    if not reach.serving:
        return Said("True", Reason.NotRunning, "none of the selected Agents runs now")
    if len(reach.confirmed) < len(reach.serving):
        missing = tuple(name for name in reach.serving if name not in set(reach.confirmed))
        return Said("False", Reason.Programming, f"waits for the gateways of {_agents(missing)}")
    return Said("True", Reason.Programmed, f"in force for {_agents(reach.confirmed)}")


def ready(view: BindingView, reach: Reach) -> Said:
    """Whom it selects does not matter: a binding may come before its Agents."""
    for say in (accepted, programmed):
        if (said := say(view, reach)).status != "True":
            return said
    return programmed(view, reach)


def reconciling(view: BindingView, reach: Reach) -> Said | None:
    said = programmed(view, reach)
    return Said("True", said.reason, said.message) if said.reason == Reason.Programming else None


def stalled(view: BindingView, reach: Reach) -> Said | None:
    said = ready(view, reach)
    return Said("True", said.reason, said.message) if said.status != "True" and said.reason != Reason.Programming else None


CONDITIONS = (
    (ConditionType.Accepted, accepted),
    (ConditionType.ResolvedRefs, resolved_refs),
    (ConditionType.Programmed, programmed),
    (ConditionType.Ready, ready),
    (ConditionType.Reconciling, reconciling),
    (ConditionType.Stalled, stalled),
)


def status(view: BindingView, reach: Reach, now: datetime) -> dict[str, Any]:
    """The whole status. Times are kept while what they date is."""
    conditions = []
    for kind, say in CONDITIONS:
        said = say(view, reach)
        if said is not None:
            conditions.append(dated(view.status, kind, said, view.binding.generation, now))
    wanted = {
        "observedGeneration": view.binding.generation,
        "conditions": conditions,
        "agents": len(reach.selected),
        "programmed": len(reach.confirmed),
    }
    audits = view.binding.spec.mode == "Audit" if view.binding.spec is not None else view.binding.may_audit
    return {**wanted, "wouldDeny": reach.would_deny} if audits else wanted


def _agents(named: Sequence[str]) -> str:
    """`3 Agents: a, b, c`."""
    if not named:
        return "no Agent"
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return f"{len(named)} Agent{'' if len(named) == 1 else 's'}: {', '.join(named[:NAMED])}{more}"

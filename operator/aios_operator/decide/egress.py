"""What one Agent may reach: the policy that follows from the bindings, its order to the node, and what is said of it.

The policy of the order before is where the last good state of a binding is kept: it outlives the operator and every attempt.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from aios_api.egress import Binding, EgressPolicy, combine
from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import memory, moving
from aios_operator.decide.attempts import Situation
from aios_operator.decide.effects import Effect, Object, ReviseOrder
from aios_operator.decide.facts import Said, fact, said_by_node, speaks_of_attempt
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import AgentView, Port

_combined = lru_cache(maxsize=1024)(combine)
"""Agents that the same bindings select have the same policy."""


def effective(state: AgentState, agent: AgentView) -> EgressPolicy | None:
    """The policy that is to be in force; None when no binding is, and nothing is allowed."""
    order = state.runtime
    previous = order.egress if order is not None and order.agent_uid == agent.uid else None
    selected = tuple(each for each in state.bindings if each.selects(agent.labels, previous))
    if not selected:
        return None
    policy = _combined(selected)
    if not all(is_whole(policy, each) for each in selected):
        policy = combine(selected, previous)
    return policy if policy.bindings else None


def is_whole(policy: EgressPolicy | None, binding: Binding) -> bool:
    """The binding is part of the policy as it is now, with all its rules."""
    entry = policy.in_force(binding.name) if policy is not None else None
    return binding.spec is not None and entry is not None and entry.generation == binding.generation


def rendered(policy: EgressPolicy | None) -> Object | None:
    """As an order has it."""
    return policy.model_dump(mode="json", by_alias=True, exclude_none=True) if policy is not None else None


def ports(exposed: tuple[Port, ...]) -> list[Object] | None:
    """As an order has them."""
    return [{"name": each.name, "port": each.number, "protocol": each.protocol} for each in exposed] or None


def at_once(state: AgentState, agent: AgentView) -> Object:
    """The parts of a new order that may change within its attempt; those that allow nothing are left out."""
    parts = {"egress": rendered(effective(state, agent)), "expose": ports(agent.expose), "context": memory.rendered(agent.context)}
    return {name: part for name, part in parts.items() if part is not None}


def revise(state: AgentState, agent: AgentView, now: datetime) -> list[Effect]:
    """The order says what follows from bindings and spec now. A spec that can't be read exposes and keeps what it did before."""
    order = state.runtime
    if order is None or order.deleting or order.agent_uid != agent.uid:
        return []
    policy = effective(state, agent)
    expose = order.expose if agent.spec_error is not None else agent.expose
    context = order.context if agent.spec_error is not None else memory.rendered(agent.context)
    origin = moving.revised(state, agent, order, now)
    wanted = (policy.digest if policy is not None else None, expose, context, origin)
    if wanted == (order.egress_digest, order.expose, order.context, order.context_from):
        return []
    patches = memory.merge(order.context, context), memory.merge(order.context_from, origin)
    return [ReviseOrder(agent.key, order.uid, rendered(policy), ports(expose), *patches)]


def programmed(s: Situation) -> Said | None:
    """Whether the gateway enforces what the bindings say. Only there while an attempt may run."""
    order = s.order
    if not s.open or order is None:
        return None
    policy = effective(s.state, s.agent)
    listening = fact(s, ConditionType.Listening)
    if listening is None or listening.status != "True":
        return Said("False", Reason.WaitingForNode, "the gateway does not serve this attempt yet; until then nothing is reached")
    wanted = policy.digest if policy is not None else None
    if order.egress_digest != wanted or order.egress_facts.digest != wanted:
        return Said("False", Reason.Programming, "the gateway has not confirmed the policy that the ToolBindings make now")
    if policy is None:
        return Said("True", Reason.NothingAllowed, "no ToolBinding selects this Agent; it reaches nothing but its own endpoint")
    bindings = ", ".join(f"{each.name} (generation {each.generation}{_audit(each.mode)})" for each in policy.bindings)
    return Said("True", Reason.Programmed, f"{len(policy.rules)} rules are in force, of ToolBindings {bindings}")


def _audit(mode: str) -> str:
    return ", Audit" if mode == "Audit" else ""


def fenced(s: Situation) -> Said | None:
    """What the probe from inside found. Only there while an attempt may run."""
    if not s.open or s.order is None:
        return None
    known = fact(s, ConditionType.EgressFenced)
    if known is None:
        return Said("Unknown", Reason.WaitingForNode, "the fence of this attempt has not been probed from inside yet")
    return said_by_node(known)


def in_force(s: Situation) -> dict[str, Any] | None:
    """Of the status: the bindings in force. While the gateway confirms another policy than the order's, what is written stays: it is of
    the policy before."""
    order = s.order
    if not s.open or order is None or not speaks_of_attempt(s) or order.egress_facts.digest is None:
        return None
    if order.egress is not None and order.egress_facts.digest == order.egress_digest:
        bindings = [{"name": each.name, "generation": each.generation} for each in order.egress.bindings]
        return {"policyDigest": order.egress.digest, "bindings": bindings}
    written = s.agent.status.get("egress") or {}
    return dict(written) if written.get("policyDigest") == order.egress_facts.digest else {"policyDigest": order.egress_facts.digest}

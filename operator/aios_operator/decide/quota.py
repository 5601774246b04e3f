"""Quota: what an Agent takes of what its namespace is granted, whether there is enough, and what a GPUQuota says about it.

An Agent takes its part with its order and gives it back when a status says so and its claims are gone. So what is held follows from
what the API holds, at every moment and after every crash, and nobody is admitted to what another may still use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aios_api.quantity import MAX, MIB, format_bytes
from aios_api.quota import MOST_MEMORY
from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import attempts
from aios_operator.decide.effects import Effect, WriteQuotaStatus
from aios_operator.decide.facts import Said, dated
from aios_operator.decide.objects import format_mebibytes
from aios_operator.decide.states import AgentState, Amount, Grant, Order, QuotaState, Refusal
from aios_operator.decide.views import AgentView, Key, QuotaView

WAITS_FOR_QUOTA = {Reason.QuotaExhausted, Reason.LargerThanQuota, Reason.NoQuota, Reason.InvalidSpec}
NOTHING = Amount()


def wanted(agent: AgentView) -> Amount:
    """What the spec asks for."""
    return Amount(agent.gpu.mebibytes if agent.gpu else 0, 1)


def holding(state: AgentState) -> Amount:
    """What the Agent keeps from others: what its order reserves, or more when claims of an attempt before are still booked."""
    order, agent = state.runtime, state.agent
    kept = (
        order is not None
        and agent is not None
        and order.agent_uid == agent.uid
        and (attempts.holds_quota(agent.status, order) or any(claim.attempt == order.attempt for claim in state.claims))
    )
    if not kept and not state.claims:
        return NOTHING
    return booked(state).most(Amount(order.gpu.mebibytes if kept and order is not None and order.gpu else 0, 1))


def booked(state: AgentState) -> Amount:
    """What claims of the Agent have booked on GPUs."""
    allocated = [claim for claim in state.claims if claim.shares]
    return Amount(sum(share.mebibytes for claim in allocated for share in claim.shares), min(1, len(allocated)))


def holdings(states: Iterable[AgentState], orders: Iterable[Order]) -> dict[Key, Amount]:
    """Who holds what, with orders that are still under way to the server."""
    held = {state.key: amount for state in states if (amount := holding(state)) != NOTHING}
    for order in orders:
        key, gpu = order.runtime.key, order.runtime.gpu
        held[key] = held.get(key, NOTHING).most(Amount(gpu.mebibytes if gpu else 0, 1))
    return held


def oldest_first(quotas: Iterable[QuotaView]) -> tuple[QuotaView, ...]:
    """The first one counts."""
    return tuple(sorted(quotas, key=lambda quota: (quota.created, quota.name)))


# Who may hold more.


def grants(
    quotas: Mapping[str, Sequence[QuotaView]], members: Mapping[str, Iterable[AgentState]], orders: Iterable[Order], unlimited_without: bool
) -> dict[str, Grant]:
    """By namespace: what Agents may hold there by its first quota, and what they hold, orders under way included."""
    placing: dict[str, list[Order]] = {}
    for order in orders:
        placing.setdefault(order.runtime.key.namespace, []).append(order)
    return {
        namespace: Grant(next(iter(given), None), holdings(members.get(namespace, ()), placing.get(namespace, ())), unlimited_without)
        for namespace, given in quotas.items()
    }


@dataclass(frozen=True, slots=True)
class Ask:
    """An Agent, what it asks for and holds, and what its namespace may hold. Only what is limited is counted: the rest is 0 everywhere."""

    quota: QuotaView
    want: Amount
    own: Amount
    held: Amount
    ahead: tuple[Amount, ...]
    """What those ask for in addition who come first and did not get it."""

    @property
    def nominal(self) -> Amount:
        return Amount(self.quota.mebibytes or 0, self.quota.agents or 0)

    @property
    def more(self) -> Amount:
        """What it takes in addition to what it holds."""
        return self.own.most(self.want) - self.own

    @property
    def free(self) -> Amount:
        return self.nominal - self.held


class Ledger:
    """The quota of one namespace within a cycle: `judge` each Agent in its turn, and `take` for who gets a place."""

    def __init__(self, namespace: str, grant: Grant) -> None:
        self._namespace = namespace
        self._grant = grant
        self._held = dict(grant.held)
        self._sum = sum(self._held.values(), NOTHING)
        self._ahead: list[Amount] = []

    def judge(self, agent: AgentView) -> Refusal | None:
        """None when the Agent may hold what it asks for."""
        quota, want, own = self._grant.quota, wanted(agent), self._held.get(agent.key, NOTHING)
        if want.within(own):
            return None  # it holds as much already, whatever the quota has become
        if quota is None:
            return None if self._grant.unlimited_without else without_quota(self._namespace, want)
        if quota.spec_error is not None:
            message = f"GPUQuota {quota.name} can't be read, and grants nothing: {quota.spec_error}"
            return Refusal(Reason.InvalidSpec, message, f"correct GPUQuota {quota.name}: {quota.spec_error}")
        want, own, held = (_limited(amount, quota) for amount in (want, own, self._sum))
        ask = Ask(quota, want, own, held, tuple(self._ahead))
        found = next((refusal for check in CHECKS if (refusal := check(ask)) is not None), None)
        if found is not None:
            self._ahead.append(ask.more)
        return found

    def take(self, agent: AgentView) -> None:
        """The Agent holds what it asks for; what it gives back is free when its claim is gone."""
        own = self._held.get(agent.key, NOTHING)
        self._held[agent.key] = own.most(wanted(agent))
        self._sum += self._held[agent.key] - own


def _limited(amount: Amount, quota: QuotaView) -> Amount:
    return Amount(0 if quota.mebibytes is None else amount.mebibytes, 0 if quota.agents is None else amount.agents)


def without_quota(namespace: str, want: Amount) -> Refusal:
    return Refusal(
        Reason.NoQuota,
        f"namespace {namespace} has no GPUQuota, and this cluster admits no Agent without one",
        f"create a GPUQuota in namespace {namespace} with spec.memory.nominal {_memory(want.mebibytes)} and spec.agents 1, or more",
    )


def fits_whole_quota(ask: Ask) -> Refusal | None:
    """The quota would be large enough if nobody else held any of it."""
    if ask.want.within(ask.nominal):
        return None
    message = f"asks for {_said(ask.want, ask.quota)}; GPUQuota {ask.quota.name} grants {_said(ask.nominal, ask.quota)} in all"
    return Refusal(Reason.LargerThanQuota, message, raised(ask) or f"ask for at most {_memory(ask.nominal.mebibytes)}")


def fits_what_is_free(ask: Ask) -> Refusal | None:
    """Nobody else holds what the Agent needs."""
    if ask.more.within(ask.free):
        return None
    message = (
        f"asks for {_said(ask.want, ask.quota)}; of {_said(ask.nominal, ask.quota)} that GPUQuota {ask.quota.name} grants "
        f"Agents hold {_said(ask.held, ask.quota)}"
    )
    short = (ask.more - ask.free).most(NOTHING)
    freed = [_memory(short.mebibytes)] if short.mebibytes else []
    freed += [_agents(short.agents)] if short.agents else []
    change = [raised(ask), f"stop Agents of the namespace that hold {' and '.join(freed)}"]
    return Refusal(Reason.QuotaExhausted, message, ", or ".join(filter(None, change)))


CHECKS: tuple[Callable[[Ask], Refusal | None], ...] = (fits_whole_quota, fits_what_is_free)
"""In the order in which they matter to a person: the first that refuses is what is said."""


def raised(ask: Ask) -> str:
    """The smallest quota that admits this Agent, though those ahead take of it what then fits. Empty when there can be none so large."""
    more = needed_room(ask.more, ask.ahead, ask.free) - ask.free
    nominal = ask.nominal + more
    if nominal.mebibytes * MIB > MOST_MEMORY:
        return ""
    fields = [f"spec.memory.nominal to {_memory(nominal.mebibytes)}"] if more.mebibytes > 0 else []
    fields += [f"spec.agents to {nominal.agents}"] if more.agents > 0 else []
    return f"raise {' and '.join(fields)} of GPUQuota {ask.quota.name}"


def needed_room(own: Amount, ahead: Sequence[Amount], free: Amount) -> Amount:
    """How much must be free, at least `free`, so that `own` still fits when those ahead have had their turn. The least there is where
    only one of the two amounts is short. Who is last is looked at first: who does not fit into what must be
    left for those behind takes nothing."""
    everything = sum(ahead, own)
    ample = Amount(_ample(everything.mebibytes, free.mebibytes), _ample(everything.agents, free.agents))
    room = own = Amount(own.mebibytes * (not ample.mebibytes), own.agents * (not ample.agents))
    for each in reversed(ahead):
        counted = Amount(each.mebibytes * (not ample.mebibytes), each.agents * (not ample.agents))
        if counted.within(room):
            room += counted
    short = Amount(0 if ample.mebibytes else free.mebibytes, 0 if ample.agents else free.agents)
    if not short.within(room):  # more of one is free than in this reckoning, so that others ahead may fit: room for all of them
        room = Amount(everything.mebibytes * (not ample.mebibytes), everything.agents * (not ample.agents))
    return room.most(free)


def _ample(everything: int, free: int) -> int:
    """1 when there is enough for all."""
    return int(everything <= free)


def _said(amount: Amount, quota: QuotaView) -> str:
    parts = [_memory(amount.mebibytes)] if quota.mebibytes is not None else []
    return " and ".join([*parts, *([_agents(amount.agents)] if quota.agents is not None else [])])


def _memory(mebibytes: int) -> str:
    return format_mebibytes(mebibytes) if mebibytes else "0"


def _agents(number: int) -> str:
    return f"{number} Agent{'' if number == 1 else 's'}"


# What a GPUQuota says.


def plan_quotas(state: QuotaState, now: datetime) -> list[Effect]:
    """The status of each quota of a namespace that does not say yet what is so."""
    effects: list[Effect] = []
    for quota in state.quotas:
        wanted_status = status(quota, state, now)
        if wanted_status != quota.status:
            effects.append(WriteQuotaStatus(quota.namespace, quota.name, quota.uid, wanted_status))
    return effects


def status(quota: QuotaView, state: QuotaState, now: datetime) -> dict[str, Any]:
    """The whole status; amounts only of the quota that counts."""
    counts = state.quotas[0]
    said: dict[str, Any] = {"observedGeneration": quota.generation}
    if quota is not counts:
        message = f"GPUQuota {counts.name} of this namespace is older and counts"
        return {**said, "conditions": [_condition(quota, ConditionType.InForce, Said("False", Reason.OlderQuotaCounts, message), now)]}
    held = sum(map(holding, state.members), NOTHING)
    return {
        **said,
        "conditions": [_in_force(quota, now), _exceeded(quota, held, now)],
        "reserved": _amount(held),
        "used": _amount(sum(map(booked, state.members), NOTHING)),
        "waiting": _amount(sum((wanted(s.agent) for s in state.members if s.agent is not None and waits(s.agent)), NOTHING)),
    }


def waits(agent: AgentView) -> bool:
    """Its status says that it waits for quota."""
    return agent.deleting_since is None and agent.running and (agent.status.get("pending") or {}).get("reason") in WAITS_FOR_QUOTA


def _in_force(quota: QuotaView, now: datetime) -> dict[str, Any]:
    if quota.spec_error is not None:
        message = f"nobody is admitted until it is corrected: {quota.spec_error}"
        return _condition(quota, ConditionType.InForce, Said("False", Reason.InvalidSpec, message), now)
    return _condition(quota, ConditionType.InForce, Said("True", Reason.InForce, "the oldest GPUQuota of this namespace"), now)


def _exceeded(quota: QuotaView, held: Amount, now: datetime) -> dict[str, Any]:
    over = _limited(held, quota) - Amount(quota.mebibytes or 0, quota.agents or 0)
    if quota.spec_error is None and not over.within(NOTHING):
        parts = [_memory(over.mebibytes)] if over.mebibytes > 0 else []
        parts += [_agents(over.agents)] if over.agents > 0 else []
        message = f"Agents hold {' and '.join(parts)} more than granted; they keep it until they are stopped, completed or deleted"
        return _condition(quota, ConditionType.Exceeded, Said("True", Reason.QuotaExceeded, message), now)
    return _condition(quota, ConditionType.Exceeded, Said("False", Reason.WithinQuota, "Agents hold no more than is granted"), now)


def _amount(amount: Amount) -> dict[str, Any]:
    return {"memory": format_bytes(min(amount.mebibytes * MIB, MAX)), "agents": amount.agents}


def _condition(quota: QuotaView, kind: ConditionType, said: Said, now: datetime) -> dict[str, Any]:
    return dated(quota.status, kind, said, quota.generation, now)

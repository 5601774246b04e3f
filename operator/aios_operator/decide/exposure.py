"""What an Agent exposes: a Service of its name, and a NetworkPolicy that lets in what it names. The fence follows from the order."""

from __future__ import annotations

from aios_api import names
from aios_api.reasons import ConditionType, Reason
from aios_operator.decide import objects
from aios_operator.decide.attempts import Situation
from aios_operator.decide.effects import ApplyExposure, DeleteExposure, Effect, Object
from aios_operator.decide.facts import Said, fact
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import AgentView, ExposureView, Port

KINDS = ("Service", "NetworkPolicy")


def plan_exposure(state: AgentState) -> list[Effect]:
    """What must be written so that exactly the ports of the spec are exposed. A spec that can't be read changes nothing."""
    agent = state.agent
    if agent is None or agent.deleting_since is not None or agent.spec_error is not None:
        return []  # garbage collection removes what a deleted Agent owned
    effects: list[Effect] = []
    for kind in KINDS:
        found = next((each for each in state.exposures if each.kind == kind), None)
        if found is not None and found.deleting:
            continue  # its name is free when it is gone
        if found is not None and (not agent.expose or found.agent_uid != agent.uid):
            effects.append(DeleteExposure(agent.key, found.kind, found.name, found.uid))
        elif agent.expose and (found is None or not stands(found, agent)):
            body = service(agent) if kind == "Service" else network_policy(agent)
            effects.append(ApplyExposure(agent.key, found.uid if found is not None else None, body))
    return effects


def stands(found: ExposureView, agent: AgentView) -> bool:
    """It exposes what the spec says."""
    if not found.current or found.deleting or found.agent_uid != agent.uid:
        return False
    if found.kind == "Service":
        return _ordered(found.ports) == _ordered(agent.expose)
    return {(p.number, p.protocol) for p in found.ports} == {(p.number, p.protocol) for p in agent.expose}


def _ordered(ports: tuple[Port, ...]) -> tuple[Port, ...]:
    """By name: the order in which they are listed means nothing."""
    return tuple(sorted(ports, key=lambda port: port.name))


def service(agent: AgentView) -> Object:
    """Leads to the Agent's ready pod. Nothing about its address is ours to say."""
    ports = [{"name": p.name, "protocol": p.protocol, "port": p.number, "targetPort": p.number} for p in _ordered(agent.expose)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(agent, agent.key.name),
        "spec": {"type": "ClusterIP", "selector": pods_of(agent.key.name, agent.uid), "ports": ports},
    }


def network_policy(agent: AgentView) -> Object:
    """Beside the policy of the namespace, which lets nothing in: policies add up."""
    ports = [{"protocol": p.protocol, "port": p.number} for p in _ordered(agent.expose)]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(agent, names.expose_policy_name(agent.key.name)),
        "spec": {
            "podSelector": {"matchLabels": pods_of(agent.key.name, agent.uid)},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports}],
        },
    }


def pods_of(name: str, uid: str) -> dict[str, str]:
    """The labels that an Agent's pods have, and no other's may."""
    return {names.LABEL_AGENT: name, names.LABEL_AGENT_UID: uid}


def _metadata(agent: AgentView, name: str) -> Object:
    labels = {**pods_of(agent.key.name, agent.uid), names.LABEL_MANAGED_BY: names.MANAGED_BY}
    owner = objects.owner("Agent", agent.key.name, agent.uid)
    return {"namespace": agent.key.namespace, "name": name, "labels": labels, "ownerReferences": [owner]}


def exposed(s: Situation) -> Said | None:
    """Only there where something is to be exposed."""
    agent = s.agent
    if agent.spec_error is not None or not agent.expose:
        return None
    ports = ", ".join(f"{p.name} ({p.number}/{p.protocol})" for p in agent.expose)
    if all(any(each.kind == kind and stands(each, agent) for each in s.state.exposures) for kind in KINDS):
        if _is_fenced(s) and s.order is not None and not {(p.number, p.protocol) for p in agent.expose} <= s.order.openings:
            return Said("False", Reason.Exposing, f"the fence of this attempt does not let in {ports} yet")
        return Said("True", Reason.Exposed, f"Service {agent.key.name} leads to {ports}")
    if s.state.exposure_refused is not None:
        reason, message = s.state.exposure_refused
        return Said("False", reason, message)
    return Said("False", Reason.Exposing, f"Service and NetworkPolicy for {ports} are being made")


def _is_fenced(s: Situation) -> bool:
    known = fact(s, ConditionType.Fenced) if s.open else None
    return known is not None and known.status == "True"

"""Where an Agent's context is, and how it comes to the node of its next attempt.

An order says that the context is on another node (`contextFrom`); its node says when it has come, before the claim is prepared. So the
orders alone tell where it is: on the node of the last order, or, until it has come, where that order has it from. A next order is written
only over what was read last, so that nobody fetches from a node what the node after it has completed meanwhile.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from aios_operator.decide import lost
from aios_operator.decide.attempts import Situation
from aios_operator.decide.effects import Object
from aios_operator.decide.facts import objects_time
from aios_operator.decide.states import AgentState
from aios_operator.decide.views import AgentView, NodeSight, RuntimeView

STALLED_FOR = timedelta(minutes=5)
"""How long nothing may come of a context before an Agent that may start empty does: longer than an upgrade of a gateway takes, or a
restart of a node."""


def whereabouts(agent: AgentView, order: RuntimeView | None) -> str | None:
    """The node where the context is, if the Agent has one. None: it was nowhere yet."""
    if order is not None and order.agent_uid == agent.uid:
        if order.fact_attempt is None and not agent.status.get("context") and order.context_from is None:
            return None  # no claim of the Agent was ever prepared: nobody is to be asked for what can't be there
        if order.context_from is not None and not order.context_here:
            return str(order.context_from["nodeName"])
        return order.node_name
    kept = (agent.status.get("context") or {}).get("nodeName")
    return str(kept) if kept else None


def home(state: AgentState, agent: AgentView) -> str | None:
    """The only node that the Agent may run on: its context is there, can't be moved now, and is to be waited for. None: any."""
    at = whereabouts(agent, state.runtime)
    return at if at is not None and _waits(agent) and not _in_touch(state.nodes.get(at)) else None


def near(state: AgentState, agent: AgentView) -> str | None:
    """The node that is preferred among those that would do: what is in the context is there, and need not be moved. None: no matter."""
    at = whereabouts(agent, state.runtime)
    sight = state.nodes.get(at) if at is not None else None
    mute = sight is not None and sight.silent >= sight.mute_after
    return at if _has_items(agent) and not mute else None


def origin(state: AgentState, agent: AgentView, node: str) -> Object | None:
    """What a new order for `node` says of a context elsewhere. Where it is fetched is added when the order stands."""
    at = whereabouts(agent, state.runtime)
    if at is None or at == node:
        return None
    given_up = not _waits(agent) and lost.loss(state.nodes.get(at)) is not None
    return {"nodeName": at, **({"startEmpty": True} if given_up else {})}


def revised(state: AgentState, agent: AgentView, order: RuntimeView, now: datetime) -> Object | None:
    """What the order says of it now: keys and addresses as the nodes last told, and whether it is given up. What has come stays so."""
    stands = order.context_from
    if stands is None or order.context_here:
        return dict(stands) if stands is not None else None
    source, here = state.nodes.get(stands["nodeName"]), state.nodes.get(order.node_name)
    over = (at := gives_up_at(agent, order)) is not None and now >= at
    if not _waits(agent) and (over or lost.loss(source) is not None):
        return {"nodeName": stands["nodeName"], "startEmpty": True}
    found: Object = {"nodeName": stands["nodeName"]}
    if source is not None and source.door is not None:
        found |= {"address": source.door.address, "certificate": source.door.certificate}
    if here is not None and here.door is not None:
        found["receiver"] = here.door.certificate
    return found


def on_its_way(s: Situation, now: datetime) -> Object | None:
    """Of the status: how far the move is, since when nothing comes, and until when that is borne."""
    order = s.order
    if not s.open or order is None or order.context_from is None or order.context_here or order.context_from.get("startEmpty"):
        return None
    said = order.move or {}
    told: Object = {
        "fromNode": order.context_from["nodeName"],
        "receivedBytes": said.get("receivedBytes", 0),
        "totalBytes": said.get("totalBytes", 0),
    }
    if said.get("trouble"):
        before = _written(s.agent, order)
        since = before.get("stalledSince") or objects_time(now)
        told |= {"trouble": said["trouble"], "stalledSince": since}
        if not _waits(s.agent):
            told["startsEmptyAt"] = objects_time(datetime.fromisoformat(since) + STALLED_FOR)
    return told


def gives_up_at(agent: AgentView, order: RuntimeView | None) -> datetime | None:
    """When the attempt begins without its context, as the status says."""
    at = _written(agent, order).get("startsEmptyAt") if order is not None else None
    return datetime.fromisoformat(at) if at else None


def _written(agent: AgentView, order: RuntimeView) -> Object:
    written: Object = agent.status.get("contextMove") or {}
    return written if agent.status.get("attempt") == order.attempt else {}


def _waits(agent: AgentView) -> bool:
    """It is to wait for its context, and there is something in it."""
    waits = agent.context is not None and agent.context.when_node_lost == "Wait"
    return waits and _has_items(agent)


def _has_items(agent: AgentView) -> bool:
    return bool((agent.status.get("context") or {}).get("items"))


def _in_touch(sight: NodeSight | None) -> bool:
    """A context can be fetched from there."""
    return sight is not None and sight.door is not None and sight.has_lease and sight.silent < sight.mute_after

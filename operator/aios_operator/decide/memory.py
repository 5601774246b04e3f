"""What one Agent's context is to be, as an order has it, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aios_api.context import AgentContext
from aios_operator.decide.attempts import Situation
from aios_operator.decide.effects import Object
from aios_operator.decide.facts import speaks_of_attempt

DURABILITY = "NodeLocal"


def rendered(context: AgentContext | None) -> Object | None:
    """As an order has it."""
    return context.model_dump(mode="json", by_alias=True, exclude_none=True) if context is not None else None


def merge(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Object | None:
    """The merge patch (RFC 7396) that makes `after` of `before`: what is gone is null, at every depth."""
    if after is None:
        return None
    known = before or {}
    gone: Object = {name: None for name in known if name not in after}
    return gone | {
        name: merge(known.get(name) if isinstance(known.get(name), Mapping) else None, value) if isinstance(value, Mapping) else value
        for name, value in after.items()
    }


def in_force(s: Situation) -> Object | None:
    """Of the status: what the node says of the context of the current attempt. While it says nothing, what is written stays."""
    before: Mapping[str, Any] | None = s.agent.status.get("context")
    facts = s.order.context_facts if s.order is not None and speaks_of_attempt(s) else None
    if facts is None:
        return dict(before) if before else None
    assert s.order is not None, "facts are of an order"
    return {
        "durability": DURABILITY,
        "nodeName": s.order.node_name,
        **facts,
        **({"startedEmpty": True} if _started_empty(before, facts) else {}),
    }


def _started_empty(before: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> bool:
    """The context is another than the one that was spoken of before, which had something in it."""
    if before is None:
        return False
    if before.get("firstAttempt") == facts.get("firstAttempt"):
        return bool(before.get("startedEmpty"))
    return bool(before.get("items"))

"""What the node says of the current attempt, and the form in which a condition is said."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from aios_api.reasons import ConditionType
from aios_operator.decide.attempts import Situation, condition
from aios_operator.decide.views import Fact

MESSAGE_MAX = 4096
"""What the schema allows; messages of others (the kubelet's) may be longer."""


class Said(NamedTuple):
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def speaks_of_attempt(s: Situation) -> bool:
    """The facts are about the claim of the current attempt, and come from the node that it is on."""
    order = s.order
    return (
        order is not None
        and s.claim is not None
        and order.fact_claim_uid == s.claim.uid
        and order.fact_attempt == order.attempt
        and order.fact_node == order.node_name
    )


def fact(s: Situation, kind: ConditionType) -> Fact | None:
    """What the node says of the current attempt's claim; None when it says nothing, or speaks of another."""
    return s.order.facts.get(kind) if s.order is not None and speaks_of_attempt(s) else None


def said_by_node(known: Fact) -> Said:
    """The node's word as a condition of the Agent; what is neither True nor False is Unknown."""
    return Said("True" if known.status == "True" else "False" if known.status == "False" else "Unknown", known.reason, known.message)


def objects_time(moment: datetime) -> str:
    """RFC 3339 in UTC, in whole seconds, as the API has it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def dated(status: Mapping[str, Any], kind: ConditionType, said: Said, generation: int, now: datetime) -> dict[str, Any]:
    """The condition as it is written. Its time is the one in `status` while its value is, too."""
    before = condition(status, kind)
    return {
        "type": str(kind),
        "status": said.status,
        "reason": str(said.reason),
        "message": said.message if len(said.message) <= MESSAGE_MAX else said.message[: MESSAGE_MAX - 1] + "…",
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before.get("status") == said.status else objects_time(now),
    }

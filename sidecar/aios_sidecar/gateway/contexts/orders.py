"""What the Agent's spec says of its context, in the words of the store; and what the store says, in the words of the status."""

from datetime import UTC

from aios_api.context import AgentContext, ContextFacts, RetentionTier
from aios_api.quantity import parse_bytes
from aios_sidecar.context.items import Kind
from aios_sidecar.context.limits import Limits, Retention
from aios_sidecar.context.store import Description

DEFAULTS = Limits()


def limits(ordered: AgentContext | None) -> Limits:
    """The limits that `ordered` asks for; what it does not name is as everywhere."""
    if ordered is None:
        return DEFAULTS
    tiers = DEFAULTS.tiers if ordered.retention.tiers is None else tuple(map(_rule, ordered.retention.tiers))
    return Limits(
        items=ordered.limits.items,
        content_bytes=parse_bytes(ordered.limits.content),
        age_seconds=ordered.retention.age_seconds,
        sessions=ordered.limits.sessions,
        pins=ordered.limits.pins,
        tiers=tiers,
    )


def _rule(tier: RetentionTier) -> Retention:
    content = None if tier.content is None else parse_bytes(tier.content)
    return Retention(frozenset(map(Kind, tier.kinds)), tier.age_seconds, tier.items, content)


def facts(description: Description) -> ContextFacts:
    """As `AgentRuntime.status.context` has it."""
    last = description.last_append
    return ContextFacts(
        items=description.items,
        contentBytes=description.content_bytes,
        sessions=description.sessions,
        lastAppend=None if last is None else last.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        firstAttempt=description.first_attempt,
    )

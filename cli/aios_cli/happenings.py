"""The events of an Agent's life, as far as the API server still keeps them: about itself, and about the pods of its attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aios_operator.observe import parse

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Happening:
    """An event about the Agent or one of its attempts."""

    at: datetime
    warning: bool
    about: str
    reason: str
    text: str
    count: int


def happenings(agent: Raw, events: Sequence[Raw]) -> list[Happening]:
    """The events about this Agent (not a former one of its name) and the pods of its attempts, oldest first."""
    metadata = agent["metadata"]
    born = parse.time(metadata["creationTimestamp"])
    found = []
    for raw in events:
        about = raw.get("regarding") or {}
        ours = about.get("uid") == metadata["uid"] if about.get("kind") == "Agent" else _is_attempt(about, metadata["name"])
        text = (raw.get("series") or {}).get("lastObservedTime") or raw.get("deprecatedLastTimestamp") or raw.get("eventTime")
        if not ours or not text or (at := parse.time(text)) < born:
            continue
        count = (raw.get("series") or {}).get("count") or raw.get("deprecatedCount") or 1
        name = f"{about['kind']} {about['name']}"
        found.append(Happening(at, raw.get("type") == "Warning", name, raw.get("reason", ""), raw.get("note", ""), count))
    return sorted(found, key=_moment)


def _moment(happening: Happening) -> datetime:
    """The kubelet's events are dated in whole seconds: they come after what the operator said within the same second."""
    return happening.at if happening.at.microsecond else happening.at.replace(microsecond=999_999)


def _is_attempt(about: Raw, agent: str) -> bool:
    base, _, number = str(about.get("name", "")).rpartition("-")
    return about.get("kind") in ("Pod", "ResourceClaim") and base == agent and number.isdigit()

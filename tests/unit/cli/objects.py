"""Objects of one real cluster (two GPUs, Agents in every kind of trouble), and what the tests change in them."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aios_cli.picture import Picture, picture
from aios_cli.story import Evidence, Story, story

Object = dict[str, Any]

RECORDED: dict[str, list[Object]] = json.loads(Path(__file__).with_name("recorded.json").read_text())
NOW = datetime(2026, 11, 23, 5, 50, tzinfo=UTC)


def recorded(kind: str, name: str) -> Object:
    """A copy that a test may change."""
    return copy.deepcopy(next(each for each in RECORDED[kind] if each["metadata"]["name"] == name))


def agents(*names: str) -> list[Object]:
    return [recorded("agents", name) for name in names] if names else copy.deepcopy(RECORDED["agents"])


def runtimes(**used: str) -> list[Object]:
    """Every order; its node says that the Agents named use so much."""
    found = copy.deepcopy(RECORDED["runtimes"])
    for each in found:
        if each["metadata"]["name"] in used:
            each["status"]["gpu"] = {"uuid": each["spec"]["gpu"]["uuid"], "used": used[each["metadata"]["name"]]}
    return found


def quota(namespace: str, spec: Object, created: str = "2026-11-23T05:30:00Z", **status: tuple[str, int]) -> Object:
    """A GPUQuota whose status has these amounts: VRAM and Agents."""
    metadata = {"name": f"quota-of-{created}", "namespace": namespace, "uid": created, "resourceVersion": "1", "creationTimestamp": created}
    amounts = {word: {"memory": memory, "agents": agents} for word, (memory, agents) in status.items()}
    return {"metadata": metadata, "spec": spec, "status": amounts}


def look(**changes: Any) -> Picture:
    """The picture of all that was recorded, but for `changes`."""
    given = {"agents": agents(), **{kind: copy.deepcopy(RECORDED[kind]) for kind in ("slices", "claims", "pods")}}
    return picture(**{"at": NOW, "context": "prod", "namespace": "quickstart", **given, **changes})


def told(name: str, **changes: Any) -> Story:
    """The story of one recorded Agent, but for `changes` of its evidence."""
    runtime = next((copy.deepcopy(r) for r in RECORDED["runtimes"] if r["metadata"]["name"] == name), None)
    of_agent = {kind: [o for o in RECORDED[kind] if o["metadata"]["labels"]["aios.dev/agent"] == name] for kind in ("claims", "pods")}
    evidence = {
        "agent": recorded("agents", name),
        "runtime": runtime,
        "events": RECORDED["events"],
        "picture": look(),
        **of_agent,
        **changes,
    }
    return story(Evidence(**evidence), NOW)


def steps(life: Story) -> dict[str, str]:
    return {step.name: step.mark for step in life.steps}

"""What `aiosctl top` shows, made from objects as the API has them: GPUs with who booked how much, and every Agent with its standing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aios_api import names
from aios_api.quantity import MIB, mebibytes
from aios_api.reasons import ConditionType
from aios_cli.quotas import QuotaLine, quota_json, quota_lines
from aios_cli.states import Standing, State, condition, restarts, standing
from aios_operator.decide.views import ClaimView
from aios_operator.observe import parse

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has booked a share of a GPU."""

    namespace: str
    name: str
    """The Agent's, or the claim's when no Agent stands behind it."""
    mebibytes: int
    booked: bool
    """False while the operator has ordered it and kube-scheduler has not booked it yet."""
    used_mebibytes: int | None = None
    """What its pod uses of it, as the node said last; None while nothing is known."""


@dataclass(frozen=True, slots=True)
class GpuLine:
    uuid: str
    model: str
    index: int | None
    fake: bool
    taints: tuple[str, ...]
    """`key=value:effect`; with one of them it takes nobody new."""
    health: str | None
    """`Healthy`, `Faulty` or `Unmonitored`; None while its node does not say."""
    mebibytes: int
    holders: tuple[Holder, ...]

    @property
    def booked_mebibytes(self) -> int:
        return sum(holder.mebibytes for holder in self.holders)

    @property
    def used_mebibytes(self) -> int | None:
        """What its holders use, as far as that is known; None when it is known of none."""
        known = [holder.used_mebibytes for holder in self.holders if holder.used_mebibytes is not None]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class NodeLine:
    name: str
    slots: int
    slots_taken: int
    gpus_refused: str | None
    """Why the node publishes no GPU though it has some."""
    gpus: tuple[GpuLine, ...]


@dataclass(frozen=True, slots=True)
class AgentLine:
    namespace: str
    name: str
    standing: Standing
    node: str
    gpu: str
    model: str
    mebibytes: int
    """Booked, or asked for while it waits; 0 without a GPU."""
    used_mebibytes: int | None
    """Of what is booked, as the node said last; None while nothing is known."""
    attempt: int
    failed_attempts: int
    restarts: int
    """Of the containers in the pod of the current attempt; a program that crashes at once looks ready in between."""
    exceeded_share: bool
    """The current attempt was stopped for using more VRAM than its share."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One look at the cluster."""

    at: datetime
    context: str
    namespace: str | None
    """Whose Agents are listed; None lists all."""
    nodes: tuple[NodeLine, ...]
    agents: tuple[AgentLine, ...]
    """Those who need attention first, then by name."""
    unseen: tuple[str, ...]
    """What we were not allowed to read, so that it is missing here."""
    quotas: tuple[QuotaLine, ...] = ()
    """Of the namespaces that are listed."""

    @property
    def gpus(self) -> list[GpuLine]:
        return [gpu for node in self.nodes for gpu in node.gpus]


def picture(
    *,
    at: datetime,
    context: str,
    namespace: str | None,
    agents: Iterable[Raw],
    slices: Iterable[Raw],
    claims: Iterable[Raw],
    runtimes: Iterable[Raw] = (),
    pods: Iterable[Raw] = (),
    quotas: Iterable[Raw] = (),
    unseen: Sequence[str] = (),
) -> Picture:
    """All of it in one picture; what is no Agent's but holds a GPU of ours is in it too."""
    agents = list(agents)
    restarted = {(raw["metadata"]["namespace"], raw["metadata"]["name"]): restarts(raw) for raw in pods}
    views = [view for raw in claims if (view := parse.claim(raw)) is not None]
    used = _used(runtimes)
    holding = {(view.agent_uid, view.attempt): used.get(view.uid) for view in views if view.shares}
    lines = sorted((_agent(raw, restarted, holding) for raw in agents), key=_urgency)
    nodes = tuple(_nodes(slices, views, agents, used))
    return Picture(at, context, namespace, nodes, tuple(lines), tuple(unseen), tuple(quota_lines(quotas)))


def _used(runtimes: Iterable[Raw]) -> dict[str, int]:
    """By the uid of the claim: MiB that its pod uses, where its node says so."""
    said = [raw.get("status") or {} for raw in runtimes]
    return {status["claimUID"]: mebibytes(status["gpu"]["used"]) for status in said if status.get("gpu") and status.get("claimUID")}


def _urgency(line: AgentLine) -> tuple[int, str, str]:
    return list(State).index(line.standing.state), line.namespace, line.name


def _agent(raw: Raw, restarted: Mapping[tuple[str, str], int], holding: Mapping[tuple[str | None, int | None], int | None]) -> AgentLine:
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    gpu = status.get("gpu") or {}
    memory = gpu.get("memory") or (spec.get("gpu") or {}).get("memory")
    again = restarted.get((metadata["namespace"], status.get("podName", "")), 0)
    return AgentLine(
        namespace=metadata["namespace"],
        name=metadata["name"],
        standing=standing(raw, again),
        node=status.get("nodeName", ""),
        gpu=gpu.get("uuid", ""),
        model=gpu.get("model", ""),
        mebibytes=mebibytes(str(memory)) if memory else 0,
        used_mebibytes=holding.get((metadata["uid"], status.get("attempt"))),
        attempt=status.get("attempt") or 0,
        failed_attempts=status.get("failedAttempts") or 0,
        restarts=again,
        exceeded_share=condition(raw, ConditionType.WithinShare).get("status") == "False",
    )


def newest_slices(slices: Iterable[Raw]) -> list[Raw]:
    """Of each pool of our driver the newest generation, by node."""
    newest: dict[str, Raw] = {}
    for raw in slices:
        spec = raw["spec"]
        if spec.get("driver") != names.DRIVER or not spec.get("nodeName"):
            continue
        known = newest.get(spec["pool"]["name"])
        if known is None or spec["pool"]["generation"] > known["spec"]["pool"]["generation"]:
            newest[spec["pool"]["name"]] = raw
    return sorted(newest.values(), key=lambda raw: str(raw["spec"]["nodeName"]))


def _nodes(slices: Iterable[Raw], claims: Sequence[ClaimView], agents: Iterable[Raw], used: Mapping[str, int]) -> Iterable[NodeLine]:
    booked: defaultdict[tuple[str, str], list[Holder]] = defaultdict(list)
    slots: defaultdict[str, int] = defaultdict(int)
    for claim in claims:
        owner = claim.agent or (claim.namespace, claim.name)
        for share in claim.shares:
            slots[share.pool] += share.slots
            if share.mebibytes:
                booked[share.pool, share.device].append(Holder(*owner, share.mebibytes, True, used.get(claim.uid)))
    ordered = _ordered(claims, agents)
    for raw in newest_slices(slices):
        view = parse.resource_slice(raw)
        assert view is not None, "newest_slices has only slices of ours"
        devices = {device["name"]: device for device in raw["spec"].get("devices") or ()}
        gpus = [
            GpuLine(
                gpu.uuid,
                gpu.model,
                _plain(devices[gpu.device], names.ATTRIBUTE_INDEX),
                bool(_plain(devices[gpu.device], names.ATTRIBUTE_FAKE)),
                tuple(_taint(taint) for taint in devices[gpu.device].get("taints") or ()),
                _plain(devices[gpu.device], names.ATTRIBUTE_HEALTH),
                gpu.mebibytes,
                tuple(sorted([*booked[view.pool, gpu.device], *ordered[gpu.uuid]], key=lambda h: (-h.mebibytes, h.namespace, h.name))),
            )
            for gpu in view.gpus
        ]
        gpus.sort(key=lambda gpu: (gpu.index is None, gpu.index, gpu.uuid))
        yield NodeLine(view.node_name, view.slots, slots[view.pool], view.gpus_refused, tuple(gpus))


def _ordered(claims: Sequence[ClaimView], agents: Iterable[Raw]) -> defaultdict[str, list[Holder]]:
    """By GPU, what the operator has given out and no claim has booked yet."""
    allocated = {(claim.agent_uid, claim.attempt) for claim in claims if claim.shares}
    ordered: defaultdict[str, list[Holder]] = defaultdict(list)
    for raw in agents:
        metadata, status = raw["metadata"], raw.get("status") or {}
        gpu = status.get("gpu")
        if gpu and condition(raw, ConditionType.Placed).get("status") == "True" and (metadata["uid"], status["attempt"]) not in allocated:
            ordered[gpu["uuid"]].append(Holder(metadata["namespace"], metadata["name"], mebibytes(gpu["memory"]), booked=False))
    return ordered


def _taint(taint: Raw) -> str:
    return f"{taint['key']}" + (f"={taint['value']}" if taint.get("value") else "") + f":{taint['effect']}"


def _plain(device: Raw, name: str) -> Any:
    attributes = device.get("attributes") or {}
    value = attributes.get(name) or attributes.get(f"{names.DRIVER}/{name}") or {}
    return next(iter(value.values()), None)


def as_json(shown: Picture) -> dict[str, Any]:
    """The picture for programs. Sizes are bytes, times RFC 3339."""
    return {
        "time": shown.at.isoformat(),
        "context": shown.context,
        "namespace": shown.namespace,
        "nodes": [_node_json(node) for node in shown.nodes],
        "agents": [_agent_json(line) for line in shown.agents],
        "quotas": [quota_json(line) for line in shown.quotas],
        "unseen": list(shown.unseen),
    }


def _node_json(node: NodeLine) -> dict[str, Any]:
    gpus = [
        {
            "uuid": gpu.uuid,
            "model": gpu.model,
            "index": gpu.index,
            "fake": gpu.fake,
            "taints": list(gpu.taints),
            "health": gpu.health,
            "capacityBytes": gpu.mebibytes * MIB,
            "bookedBytes": gpu.booked_mebibytes * MIB,
            "usedBytes": _bytes(gpu.used_mebibytes),
            "holders": [_holder_json(holder) for holder in gpu.holders],
        }
        for gpu in node.gpus
    ]
    return {"name": node.name, "slots": node.slots, "slotsTaken": node.slots_taken, "gpusRefused": node.gpus_refused, "gpus": gpus}


def _holder_json(holder: Holder) -> dict[str, Any]:
    return {
        "namespace": holder.namespace,
        "name": holder.name,
        "bytes": holder.mebibytes * MIB,
        "usedBytes": _bytes(holder.used_mebibytes),
        "booked": holder.booked,
    }


def _bytes(mebibytes: int | None) -> int | None:
    return None if mebibytes is None else mebibytes * MIB


def _agent_json(line: AgentLine) -> dict[str, Any]:
    said = line.standing
    return {
        "namespace": line.namespace,
        "name": line.name,
        "state": said.state.value,
        "reason": str(said.reason),
        "message": said.message,
        "smallestChange": said.smallest_change or None,
        "since": said.since.isoformat() if said.since else None,
        "node": line.node or None,
        "gpu": line.gpu or None,
        "model": line.model or None,
        "memoryBytes": line.mebibytes * MIB,
        "usedBytes": _bytes(line.used_mebibytes),
        "attempt": line.attempt,
        "failedAttempts": line.failed_attempts,
        "restarts": line.restarts,
        "exceededShare": line.exceeded_share,
    }

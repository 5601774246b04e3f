"""From raw objects to views, once per event. Tolerant of what is absent, since status arrives bit by bit; strict with an Agent's spec."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aios_api import names
from aios_api.agent import parse_spec
from aios_api.context import AgentContext
from aios_api.meta import InvalidSpec
from aios_api.quantity import MIB, InvalidQuantity, mebibytes, parse_bytes, parse_milli
from aios_api.quantity import parse as parse_quantity
from aios_api.quota import parse_quota
from aios_operator.decide import objects
from aios_operator.decide.digest import spec_digest
from aios_operator.decide.requests import of_pod, of_pod_or_one
from aios_operator.decide.views import (
    AgentView,
    ClaimView,
    Ended,
    ExposureView,
    Fact,
    Gpu,
    GpuDevice,
    Key,
    NodeView,
    PodView,
    PolicyView,
    Port,
    QuotaView,
    Requests,
    RuntimeView,
    Share,
    SliceView,
    Taint,
    VramRequest,
)
from aios_operator.observe import reach

Raw = Mapping[str, Any]
TOLD_LENGTH: Final = 1024
"""Of what others say, in what we say."""


def time(text: str) -> datetime:
    """An RFC 3339 time of the API, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _key(metadata: Raw) -> Key:
    return Key(metadata["namespace"], metadata["name"])


def _since(metadata: Raw) -> datetime | None:
    return time(metadata["deletionTimestamp"]) if metadata.get("deletionTimestamp") else None


def _owner(metadata: Raw, kind: str) -> str:
    return next((o["uid"] for o in metadata.get("ownerReferences") or () if o.get("controller") and o["kind"] == kind), "")


def _agent_of(metadata: Raw) -> tuple[Key, str, int] | None:
    labels = metadata.get("labels") or {}
    name, uid, attempt = (labels.get(label) for label in (names.LABEL_AGENT, names.LABEL_AGENT_UID, names.LABEL_ATTEMPT))
    if not (name and uid and attempt and attempt.isdigit()):
        return None
    return Key(metadata["namespace"], name), uid, int(attempt)


def agent(raw: Raw) -> AgentView:
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    error: str | None = None
    priority = 0
    deadline: int | None = None
    expose: tuple[Port, ...] = ()
    context: AgentContext | None = None
    gpu: VramRequest | None = None
    requests = Requests(pods=1)
    try:
        parsed = parse_spec(spec)
        priority, deadline, context = parsed.priority, parsed.active_deadline_seconds, parsed.context
        expose = tuple(Port(each.name, each.port, each.protocol) for each in parsed.expose or ())
        if parsed.gpu is not None:
            gpu = VramRequest(mebibytes(parsed.gpu.memory), tuple(parsed.gpu.models or ()))
        requests = of_pod(spec["template"]["spec"])
    except (InvalidSpec, InvalidQuantity) as wrong:
        error = str(wrong)
    except (KeyError, TypeError, AttributeError):
        error = "spec.template.spec must be a pod spec"
    return AgentView(
        key=_key(metadata),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        created=time(metadata["creationTimestamp"]),
        deleting_since=_since(metadata),
        finalizers=tuple(metadata.get("finalizers") or ()),
        template=spec.get("template") or {},
        gpu=gpu,
        restart_policy=spec.get("restartPolicy") or "Always",
        running=spec.get("operatingMode", "Running") != "Stopped",
        priority=priority,
        digest=spec_digest(spec),
        requests=requests,
        spec_error=error,
        status=raw.get("status") or {},
        active_deadline_seconds=deadline,
        labels=metadata.get("labels") or {},
        expose=expose,
        context=context,
    )


def runtime(raw: Raw) -> RuntimeView:
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    gpu = spec.get("gpu")
    policy, digest = reach.policy(spec.get("egress"))
    return RuntimeView(
        key=_key(metadata),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        owner_uid=_owner(metadata, "Agent"),
        agent_uid=spec["agentUID"],
        attempt=spec["attempt"],
        digest=spec["templateDigest"],
        node_name=spec["nodeName"],
        gpu=Gpu(gpu["uuid"], gpu["model"], mebibytes(gpu["memory"])) if gpu else None,
        deleting=bool(metadata.get("deletionTimestamp")),
        generation=metadata.get("generation", 0),
        fact_attempt=status.get("attempt"),
        fact_node=status.get("nodeName"),
        fact_claim_uid=status.get("claimUID"),
        facts={c["type"]: Fact(c["status"], c["reason"], c["message"]) for c in status.get("conditions") or ()},
        egress=policy,
        egress_digest=digest,
        expose=tuple(Port(each["name"], each["port"], each.get("protocol", "TCP")) for each in spec.get("expose") or ()),
        egress_facts=reach.facts(status.get("egress")),
        openings=frozenset((each["port"], each["protocol"]) for each in status.get("exposed") or ()),
        context=spec.get("context"),
        context_facts=status.get("context"),
        context_from=spec.get("contextFrom"),
        move=status.get("move") if (status.get("attempt"), status.get("nodeName")) == (spec["attempt"], spec["nodeName"]) else None,
    )


def claim(raw: Raw) -> ClaimView | None:
    """None for a claim that is not ours and holds nothing of our driver."""
    metadata = raw["metadata"]
    ours = _agent_of(metadata)
    results = (((raw.get("status") or {}).get("allocation") or {}).get("devices") or {}).get("results") or ()
    shares = tuple(_share(result) for result in results if result["driver"] == names.DRIVER)
    if ours is None and not shares:
        return None
    key, uid, attempt = ours or (None, None, None)
    return ClaimView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        agent=key,
        agent_uid=uid,
        attempt=attempt,
        shares=shares,
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def _share(result: Raw) -> Share:
    consumed = result.get("consumedCapacity") or {}
    memory, slots = consumed.get(names.CAPACITY_MEMORY), consumed.get(names.CAPACITY_SLOTS)
    return Share(
        result["pool"],
        result["device"],
        mebibytes=mebibytes(str(memory)) if memory is not None else 0,
        slots=parse_bytes(str(slots)) if slots is not None else 0,
    )


def pod(raw: Raw) -> PodView | None:
    """None for a pod that is not an Agent's."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    ours = _agent_of(metadata)
    if ours is None:
        return None
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    refused = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable" and not status.get("nominatedNodeName")
    begun = conditions.get("PodReadyToStartContainers") or {}
    target = conditions.get("DisruptionTarget") or {}
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return PodView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        agent=ours[0],
        agent_uid=ours[1],
        attempt=ours[2],
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        node_name=spec.get("nodeName"),
        unschedulable_since=time(scheduled["lastTransitionTime"]) if refused and scheduled.get("lastTransitionTime") else None,
        unschedulable_message=scheduled.get("message", "") if refused else "",
        bound_since=time(scheduled["lastTransitionTime"])
        if scheduled.get("status") == "True" and scheduled.get("lastTransitionTime")
        else None,
        nudged=_moment((metadata.get("annotations") or {}).get(names.ANNOTATION_NUDGED)),
        waiting=_waiting(statuses),
        ended=_ended(statuses),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        deleting=bool(metadata.get("deletionTimestamp")),
        requests=of_pod_or_one(spec),
        at_once=bool(metadata.get("deletionTimestamp")) and metadata.get("deletionGracePeriodSeconds") == 0,
        gone_since=time(begun["lastTransitionTime"])
        if status.get("phase") == "Running" and begun.get("status") == "False" and begun.get("lastTransitionTime")
        else None,
        disruption=(target.get("reason", ""), target.get("message", "")) if target.get("status") == "True" else None,
    )


def _moment(text: str | None) -> datetime | None:
    """A time that we wrote into an annotation; None when somebody else has made it unreadable."""
    try:
        return time(text) if text else None
    except ValueError:
        return None


def _brief(text: str) -> str:
    """The end of it, where an error stands: what a container says is told in several conditions and events of ours."""
    return text if len(text) <= TOLD_LENGTH else f"…{text[1 - TOLD_LENGTH :]}"


def _waiting(statuses: list[Raw]) -> tuple[str, str] | None:
    for each in statuses:
        waiting = (each.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return waiting["reason"], f"container {each['name']}: {(waiting.get('message') or waiting['reason'])[:TOLD_LENGTH]}"
    return None


def _ended(statuses: list[Raw]) -> Ended | None:
    for each in statuses:
        ended = (each.get("state") or {}).get("terminated") or (each.get("lastState") or {}).get("terminated")
        if ended and ended.get("exitCode"):
            return Ended(each["name"], int(ended["exitCode"]), ended.get("reason") or "", _brief(ended.get("message") or ""))
    return None


def node(raw: Raw) -> NodeView:
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    offered = status.get("allocatable") or {}
    return NodeView(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()),
        unschedulable=bool(spec.get("unschedulable")),
        taints=_taints(spec),
        labels=metadata.get("labels") or {},
        allocatable=Requests(
            parse_milli(str(offered.get("cpu", 0))), parse_bytes(str(offered.get("memory", 0))), parse_bytes(str(offered.get("pods", 0)))
        ),
        networks=frozenset((*_addresses(status), *(spec.get("podCIDRs") or ()))),
    )


def _addresses(status: Raw) -> Iterator[str]:
    return (each["address"] for each in status.get("addresses") or () if each["type"] in ("InternalIP", "ExternalIP"))


def _taints(raw: Raw) -> tuple[Taint, ...]:
    return tuple(Taint(t["key"], t.get("value", ""), t["effect"]) for t in raw.get("taints") or ())


def resource_slice(raw: Raw) -> SliceView | None:
    """None for a slice of another driver, or one that speaks of no single node."""
    metadata, spec = raw["metadata"], raw["spec"]
    if spec.get("driver") != names.DRIVER or not spec.get("nodeName"):
        return None
    gpus: list[GpuDevice] = []
    slots, contract, refused = 0, None, None
    for device in spec.get("devices") or ():
        attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
        kind = _attribute(attributes, names.ATTRIBUTE_KIND)
        if kind == names.KIND_RUNTIME:
            slots = parse_bytes(str((capacity.get(names.CAPACITY_SLOTS) or {}).get("value", 0)))
            contract, refused = _attribute(attributes, names.ATTRIBUTE_CONTRACT), _attribute(attributes, names.ATTRIBUTE_REFUSED)
        elif kind == names.KIND_GPU:
            total = parse_bytes(str((capacity.get(names.CAPACITY_MEMORY) or {}).get("value", 0))) // MIB
            uuid, model = _attribute(attributes, names.ATTRIBUTE_UUID), _attribute(attributes, names.ATTRIBUTE_MODEL)
            gpus.append(GpuDevice(device["name"], uuid, model or "", total, _taints(device)))
    return SliceView(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        node_name=spec["nodeName"],
        pool=spec["pool"]["name"],
        pool_generation=spec["pool"]["generation"],
        gpus=tuple(gpus),
        slots=slots,
        contract=contract,
        gpus_refused=refused,
    )


def _attribute(attributes: Raw, name: str) -> Any:
    value = attributes.get(name) or attributes.get(f"{names.DRIVER}/{name}") or {}
    return next(iter(value.values()), None)


def policy(raw: Raw) -> PolicyView | ExposureView | None:
    """None for a NetworkPolicy that is not ours."""
    metadata = raw["metadata"]
    if metadata["name"] != objects.POLICY_NAME:
        return reach.expose_policy(raw)
    if (metadata.get("labels") or {}).get(names.LABEL_MANAGED_BY) != names.MANAGED_BY:
        return None
    wanted = objects.network_policy(metadata["namespace"])["spec"]
    return PolicyView(metadata["namespace"], metadata["uid"], metadata["resourceVersion"], _same(raw.get("spec") or {}, wanted))


def quota(raw: Raw) -> QuotaView:
    metadata = raw["metadata"]
    limit: int | None = None
    agents: int | None = None
    error: str | None = None
    try:
        spec = parse_quota(raw.get("spec") or {})
        limit = int(parse_quantity(spec.memory.nominal) // MIB) if spec.memory is not None else None
        agents = spec.agents
    except InvalidSpec as wrong:
        error = str(wrong)
    return QuotaView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        created=time(metadata["creationTimestamp"]),
        mebibytes=limit,
        agents=agents,
        spec_error=error,
        status=raw.get("status") or {},
    )


def _same(found: Raw, wanted: Raw) -> bool:
    """Equal but for empty lists, which the API server may drop."""

    def without_empty(spec: Raw) -> str:
        return json.dumps({key: value for key, value in spec.items() if value not in ([], None)}, sort_keys=True)

    return without_empty(found) == without_empty(wanted)

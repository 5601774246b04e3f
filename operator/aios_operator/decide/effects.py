"""What planners want done: typed values that the executor performs. Each carries its precondition (uid), so that acting on a stale
view changes nothing it should not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from aios_operator.decide.states import Exclusion, Refusal
from aios_operator.decide.views import Key

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """The Agent of this uid carries our finalizer before anything is made for it."""

    key: Key
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Nothing of the Agent is left, or the time for its removal is over: the API may forget it."""

    key: Key
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class ApplyRuntime:
    """The order. `uid` is that of the AgentRuntime that exists; None creates one and refuses one that exists."""

    key: Key
    uid: str | None
    body: Object
    why: str
    """For the log: what led to this attempt."""


@dataclass(frozen=True, slots=True)
class ReviseOrder:
    """What is in force at once within the attempt: these parts of the AgentRuntime of this uid. None removes."""

    key: Key
    uid: str
    egress: Object | None
    expose: list[Object] | None
    context: Object | None
    """As a merge patch; so is the next."""
    context_from: Object | None


@dataclass(frozen=True, slots=True)
class ApplyExposure:
    """The Agent's Service, or the NetworkPolicy that lets in. `uid` is that of the one that exists; None creates it."""

    key: Key
    uid: str | None
    body: Object


@dataclass(frozen=True, slots=True)
class DeleteExposure:
    key: Key
    kind: Literal["Service", "NetworkPolicy"]
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class CreateClaim:
    key: Key
    body: Object
    digest: str
    """Of the spec that the claim was made from: a refusal by the API server is remembered for it."""


@dataclass(frozen=True, slots=True)
class CreatePod:
    key: Key
    body: Object
    digest: str


@dataclass(frozen=True, slots=True)
class ApplyPolicy:
    """The NetworkPolicy of a namespace with Agents."""

    namespace: str
    body: Object


@dataclass(frozen=True, slots=True)
class DeletePod:
    key: Key
    name: str
    uid: str
    at_once: bool = False
    """Without its kubelet, which is out of reach: the API forgets the pod now."""


@dataclass(frozen=True, slots=True)
class NudgePod:
    """The kubelet looks at the pod again now: it tries a preparation that failed only after a minute, but any change of the pod at once."""

    key: Key
    name: str
    uid: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeleteClaim:
    key: Key
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class DeleteRuntime:
    key: Key
    uid: str


@dataclass(frozen=True, slots=True)
class DeleteNodeLease:
    """The Lease of a node that is gone goes as well. Where the node agent renews it after all, it makes it anew."""

    namespace: str
    node: str


@dataclass(frozen=True, slots=True)
class DeletePolicy:
    namespace: str
    uid: str


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """The whole status of the Agent of this uid is `status`."""

    key: Key
    uid: str
    status: Object


@dataclass(frozen=True, slots=True)
class WriteQuotaStatus:
    """The whole status of the GPUQuota of this uid is `status`."""

    namespace: str
    name: str
    uid: str
    status: Object


@dataclass(frozen=True, slots=True)
class WriteBindingStatus:
    """The whole status of the ToolBinding of this uid is `status`."""

    namespace: str
    name: str
    uid: str
    status: Object


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """A line in the Agent's events."""

    key: Key
    uid: str
    warning: bool
    reason: str
    action: str
    note: str


@dataclass(frozen=True, slots=True)
class Exclude:
    """Remember that kube-scheduler refused the Agent's place. Kept in memory: after a restart it may be tried once more."""

    key: Key
    exclusion: Exclusion


@dataclass(frozen=True, slots=True)
class Wait:
    """The Agent has no place: the agent planner reports `refusal`. None: it waits no longer."""

    key: Key
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class NeedsPlace:
    """The Agent wants a next attempt: the cluster planner is to find its place."""

    key: Key


@dataclass(frozen=True, slots=True)
class PlanAgainAt:
    """Nothing will happen by itself that the planner waits for but time: plan this Agent again then."""

    key: Key
    at: datetime


@dataclass(frozen=True, slots=True)
class PublishRanges:
    """Gateways read in the ConfigMap that these ranges are the cluster's own."""

    namespace: str
    cidrs: tuple[str, ...]


Write = (
    AddFinalizer
    | RemoveFinalizer
    | ApplyRuntime
    | ReviseOrder
    | ApplyExposure
    | DeleteExposure
    | CreateClaim
    | CreatePod
    | ApplyPolicy
    | DeletePod
    | NudgePod
    | DeleteClaim
    | DeleteRuntime
    | DeletePolicy
    | DeleteNodeLease
    | PublishRanges
    | WriteStatus
    | WriteQuotaStatus
    | WriteBindingStatus
)
"""What changes the API."""

Effect = Write | RecordEvent | Exclude | Wait | NeedsPlace | PlanAgainAt

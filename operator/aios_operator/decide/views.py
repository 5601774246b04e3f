"""Frozen views of what the API holds: the only things that planners see.

A view keeps what a decision needs and drops the rest, so that a thousand Agents cost megabytes. Planners share views and never
change them; the store replaces a view when its object changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from aios_api.context import AgentContext
from aios_api.egress import Binding, EgressPolicy

MIB = 1 << 20


class Key(NamedTuple):
    """An Agent, and everything that belongs to it."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Requests:
    """What kube-scheduler counts against a node."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    pods: int = 0

    def __add__(self, other: Requests) -> Requests:
        return Requests(self.cpu_milli + other.cpu_milli, self.memory_bytes + other.memory_bytes, self.pods + other.pods)


@dataclass(frozen=True, slots=True)
class VramRequest:
    """A share of one GPU, in the steps in which it is booked. Empty `models` accepts any."""

    mebibytes: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Port:
    """A port that is exposed."""

    name: str
    number: int
    protocol: Literal["TCP", "UDP"]


@dataclass(frozen=True, slots=True)
class AgentView:
    """An Agent as its user wrote it. When `spec_error` is set the spec can't be read, and `template` and `gpu` mean nothing."""

    key: Key
    uid: str
    resource_version: str
    generation: int
    created: datetime
    deleting_since: datetime | None
    finalizers: tuple[str, ...]
    template: Mapping[str, Any]
    gpu: VramRequest | None
    restart_policy: Literal["Always", "OnFailure", "Never"]
    running: bool
    priority: int
    digest: str
    requests: Requests
    spec_error: str | None
    status: Mapping[str, Any]
    active_deadline_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """By which bindings select it."""
    expose: tuple[Port, ...] = ()
    context: AgentContext | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """A condition that the node wrote."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """A share of one GPU, chosen or booked."""

    uuid: str
    model: str
    mebibytes: int


@dataclass(frozen=True, slots=True)
class EgressFacts:
    """What the gateway says: the digest of the policy in force (None: none), and its counts of this attempt."""

    digest: str | None = None
    would_deny: Mapping[str, int] = field(default_factory=dict)
    """By binding."""


@dataclass(frozen=True, slots=True)
class RuntimeView:
    """An AgentRuntime: the order that is in force, and the node's facts about `fact_claim_uid`."""

    key: Key
    uid: str
    resource_version: str
    owner_uid: str
    agent_uid: str
    attempt: int
    digest: str
    node_name: str
    gpu: Gpu | None
    deleting: bool
    generation: int = 0
    """Of what is ordered; 0 while it is on its way to the server."""
    fact_attempt: int | None = None
    fact_node: str | None = None
    fact_claim_uid: str | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)
    egress: EgressPolicy | None = None
    """The policy that is ordered; None: nothing is allowed, or what stands there is not one."""
    egress_digest: str | None = None
    """As it stands there; empty when it is not the policy's."""
    expose: tuple[Port, ...] = ()
    egress_facts: EgressFacts = field(default_factory=EgressFacts)
    openings: frozenset[tuple[int, str]] = frozenset()
    """Port and protocol of each opening in the fence."""
    context: Mapping[str, Any] | None = None
    """As it stands there."""
    context_facts: Mapping[str, Any] | None = None
    context_from: Mapping[str, Any] | None = None
    """As it stands there: the context is on another node."""
    move: Mapping[str, Any] | None = None
    """What the node says of the move of the context to it, for this attempt."""

    @property
    def context_here(self) -> bool:
        """The context is on the node of the order, as far as the API knows: none is elsewhere, or it has come."""
        return self.context_from is None or bool(self.move and self.move.get("here"))


@dataclass(frozen=True, slots=True)
class Share:
    """What a claim takes of one device. Exactly one of the two amounts is not 0."""

    pool: str
    device: str
    mebibytes: int = 0
    slots: int = 0


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A ResourceClaim that is ours (`agent` is set) or holds devices of our driver."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    agent: Key | None
    agent_uid: str | None
    attempt: int | None
    shares: tuple[Share, ...]
    """Empty until kube-scheduler has allocated the claim."""
    deleting: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended. `reason` is the kubelet's word, such as Error, OOMKilled or StartError."""

    container: str
    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of an Agent. `waiting` and `ended` speak of the first container that explains the pod's state."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    agent: Key
    agent_uid: str
    attempt: int
    phase: str
    """Pending, Running, Succeeded, Failed or Unknown."""
    ready: bool
    node_name: str | None
    unschedulable_since: datetime | None
    """Since when kube-scheduler says that it can't bind the pod; None when it does not say so, or makes room by preemption."""
    unschedulable_message: str
    bound_since: datetime | None
    """When kube-scheduler bound it."""
    nudged: datetime | None
    """When the kubelet was last asked to look at it again."""
    waiting: tuple[str, str] | None
    """Reason and message of a container that can't start."""
    ended: Ended | None
    """A container that ended badly."""
    reason: str
    message: str
    deleting: bool
    requests: Requests
    at_once: bool = False
    """It is being deleted with no time left to end: the API keeps it no longer."""
    gone_since: datetime | None = None
    """Since when the kubelet has nothing of a pod whose containers ran: its node rebooted, or lost them in another way."""
    disruption: tuple[str, str] | None = None
    """Reason and message of its condition DisruptionTarget: who in the cluster takes it away (a drain, a taint, the kubelet …)."""


@dataclass(frozen=True, slots=True)
class Taint:
    """Of a node, or of a device."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A Node, as kube-scheduler sees it."""

    name: str
    uid: str
    resource_version: str
    ready: bool
    unschedulable: bool
    taints: tuple[Taint, ...]
    labels: Mapping[str, str]
    allocatable: Requests
    networks: frozenset[str] = frozenset()
    """Its own addresses, and the ranges of its pods."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the gateway of a node gives contexts to those of other nodes, and the certificate by which it is known."""

    address: str
    certificate: str


@dataclass(frozen=True, slots=True)
class NodeSight:
    """What is known of a node where an Agent is, or was, as of the last read of the Leases of node agents."""

    name: str
    view: NodeView | None
    """None: there is no Node of that name."""
    has_lease: bool
    silent: timedelta
    """For how long its Lease has not changed; without one, since when something was against the node."""
    mute_after: timedelta
    """Silent for so long, its gateway answers nobody."""
    lost_after: timedelta
    """More than that: silent for so long and not ready, it is given up."""
    door: Door | None = None


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A GPU that a node publishes."""

    device: str
    uuid: str
    model: str
    mebibytes: int
    taints: tuple[Taint, ...] = ()


@dataclass(frozen=True, slots=True)
class SliceView:
    """A ResourceSlice of our driver: what one node offers. `contract` is None when it publishes no `runtime` device."""

    name: str
    uid: str
    resource_version: str
    node_name: str
    pool: str
    pool_generation: int
    gpus: tuple[GpuDevice, ...]
    slots: int
    contract: int | None
    gpus_refused: str | None


@dataclass(frozen=True, slots=True)
class PolicyView:
    """Our NetworkPolicy of one namespace; `current` when it says what ours must say."""

    namespace: str
    uid: str
    resource_version: str
    current: bool


@dataclass(frozen=True, slots=True)
class ExposureView:
    """A Service, or a NetworkPolicy that lets in, of one Agent."""

    kind: Literal["Service", "NetworkPolicy"]
    namespace: str
    name: str
    uid: str
    resource_version: str
    agent: Key
    agent_uid: str
    ports: tuple[Port, ...]
    current: bool
    """It says for these ports what ours says."""
    deleting: bool


@dataclass(frozen=True, slots=True)
class BindingView:
    """A ToolBinding."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    binding: Binding
    deleting: bool
    """It counts no longer."""
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QuotaView:
    """A GPUQuota. None of a limit: as much as there is. When `spec_error` is set the limits mean nothing, and nobody is admitted by it."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    created: datetime
    mebibytes: int | None
    agents: int | None
    spec_error: str | None
    status: Mapping[str, Any]

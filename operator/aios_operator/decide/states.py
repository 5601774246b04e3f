"""What planners are given: views put together for an Agent, a namespace or the whole cluster, with what only the operator knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar

from aios_api.egress import Binding
from aios_operator.decide.lost import Leaving
from aios_operator.decide.views import (
    AgentView,
    BindingView,
    ClaimView,
    ExposureView,
    Key,
    NodeSight,
    NodeView,
    PodView,
    PolicyView,
    QuotaView,
    Requests,
    RuntimeView,
    SliceView,
    Taint,
)


@dataclass(frozen=True, slots=True)
class BindingsState:
    """What the binding planner sees: the bindings of a namespace, and all Agents there that exist."""

    bindings: tuple[BindingView, ...]
    members: tuple[AgentState, ...]


@dataclass(frozen=True, slots=True)
class Amount:
    """What quota counts: VRAM, and Agents that hold a place."""

    mebibytes: int = 0
    agents: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.mebibytes + other.mebibytes, self.agents + other.agents)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.mebibytes - other.mebibytes, self.agents - other.agents)

    def within(self, other: Amount) -> bool:
        """Not more of either."""
        return self.mebibytes <= other.mebibytes and self.agents <= other.agents

    def most(self, other: Amount) -> Amount:
        """The larger of each."""
        return Amount(max(self.mebibytes, other.mebibytes), max(self.agents, other.agents))


@dataclass(frozen=True, slots=True)
class Grant:
    """What a namespace may hold, and who holds how much of it. `quota` is the one that counts."""

    quota: QuotaView | None
    held: Mapping[Key, Amount]
    unlimited_without: bool
    """Whether Agents are admitted when there is no quota."""


@dataclass(frozen=True, slots=True)
class QuotaState:
    """What the quota planner sees: all quotas of a namespace, the one that counts first, and all its Agents."""

    quotas: tuple[QuotaView, ...]
    members: tuple[AgentState, ...]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """kube-scheduler refused an Agent's place on `node`: not there again before `until`."""

    LONGEST: ClassVar[timedelta] = timedelta(seconds=60)

    node: str
    until: datetime

    def holds(self, now: datetime) -> bool:
        """Not when `until` is further away than it ever was: the clock was set back since."""
        return now < self.until <= now + self.LONGEST


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no place, the sentence that the user reads, and the smallest change that would help."""

    reason: str
    message: str
    smallest_change: str
    at: datetime | None = field(default=None, compare=False)
    """When the cluster planner said so."""
    digest: str = field(default="", compare=False)
    """Of the spec that it speaks of."""


@dataclass(frozen=True, slots=True)
class OrderRefusal:
    """The claim or the pod of `attempt` could not be created: `Forbidden` (403: quota, Pod Security, a policy; it may pass later), or
    `NameTaken` (409, and the object of that name is not ours)."""

    attempt: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class AgentState:
    """All that concerns one Agent: what the agent planner sees of the world."""

    key: Key
    agent: AgentView | None
    runtime: RuntimeView | None
    claims: tuple[ClaimView, ...] = ()
    pods: tuple[PodView, ...] = ()
    policy: PolicyView | None = None
    """The NetworkPolicy of the Agent's namespace."""
    quota: QuotaView | None = None
    """The GPUQuota that counts in the Agent's namespace."""
    refusal: Refusal | None = None
    """What the cluster planner last said, while the Agent waits for a place."""
    template_refused: tuple[str, str] | None = None
    """Digest and message: the API server found the pod or claim made from the template of that digest invalid (422)."""
    order_refused: OrderRefusal | None = None
    """The API server refused the claim or the pod of this attempt for another reason."""
    gpu_taints: tuple[Taint, ...] = ()
    """Of the GPU that the order names."""
    bindings: tuple[Binding, ...] = ()
    """Those that may select the Agent: each that does is among them."""
    exposures: tuple[ExposureView, ...] = ()
    """What there is of Service and NetworkPolicy for its ports."""
    exposure_refused: tuple[str, str] | None = None
    """Reason and message: the API server does not let these be made."""
    nodes: Mapping[str, NodeSight] = field(default_factory=dict)
    """Those of its order, its pods, and an attempt before that may still speak. Empty while nothing is heard of nodes."""
    order_stood: timedelta | None = None
    """For how long its order was there at the last read of the Leases; None when no read began since."""
    vanished: tuple[Leaving, ...] = ()
    """Attempts whose pods are gone without their kubelet's word, and whose nodes were not heard since."""
    known_over: frozenset[int] = frozenset()
    """Such attempts whose nodes were."""


@dataclass(frozen=True, slots=True)
class NamespaceState:
    """What the namespace planner sees."""

    namespace: str
    has_agents: bool
    policy: PolicyView | None


@dataclass(frozen=True, slots=True)
class Order:
    """An order that stands and whose pod is not bound yet: it takes its place before kube-scheduler has booked it."""

    runtime: RuntimeView
    requests: Requests
    allocated: bool
    """Its claim is allocated already, so that the claim counts, and of the order only `requests`."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the cluster planner sees: everything that offers or takes a place."""

    nodes: Mapping[str, NodeView]
    slices: Iterable[SliceView]
    claims: Iterable[ClaimView]
    """All that hold devices of our driver, ours or not."""
    orders: Iterable[Order]
    pods: Iterable[PodView]
    """Pods of Agents that are bound and have not ended."""
    foreign: Mapping[str, Requests]
    """Per node, what pods that are not ours request."""
    waiting: Iterable[AgentState]
    """Agents that need a place, in any order."""
    grants: Mapping[str, Grant]
    """For the namespace of each that waits or is unsettled."""
    exclusions: Mapping[Key, tuple[Exclusion, ...]] = field(default_factory=dict)
    refusals: Mapping[Key, Refusal] = field(default_factory=dict)
    """What this planner last said of those who wait."""
    unsettled: Iterable[AgentState] = ()
    """Others that need one and can't be given it now: they have changed, or are written, since they were planned. What would be theirs is
    left for them."""

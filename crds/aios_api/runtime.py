"""`AgentRuntime`: the operator's order to a node (spec), the node's facts (status). Internal: people read `Agent`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from aios_api.agent import Conditions, Exposed, Memory, PlacedGPU
from aios_api.context import AgentContext, ContextFacts
from aios_api.egress import MAX_BINDINGS, BindingName, EgressPolicy
from aios_api.meta import UID, Attempt, AttemptName, Count, Message, Model, Name, Time
from aios_api.schema import Schema, list_type, rule, rules

IN_FORCE_AT_ONCE = ("egress", "expose", "context", "contextFrom")
"""What may change within an attempt: neither claim nor pod follows from it."""


def _order_rules(schema: Schema) -> None:
    """The rules, and which fields make an attempt: all but `IN_FORCE_AT_ONCE`, so that one that is added later does."""
    required = schema["required"]
    fixed = [name for name in schema["properties"] if name not in ("agentUID", "attempt", *IN_FORCE_AT_ONCE)]
    same = [
        f"self.{name} == oldSelf.{name}"
        if name in required
        else f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
        for name in fixed
    ]
    several = rules(
        rule("self.agentUID == oldSelf.agentUID", "agentUID must not change: another Agent is another order", path=".agentUID"),
        rule(
            f"self.attempt > oldSelf.attempt || (self.attempt == oldSelf.attempt && {' && '.join(same)})",
            f"attempt must grow when anything but {', '.join(IN_FORCE_AT_ONCE)} changes: claim and pod of an attempt follow from it",
            path=".attempt",
        ),
    )
    schema.update(several)


Certificate = Annotated[str, Field(min_length=1, max_length=2048, pattern="^[A-Za-z0-9+/=]+$")]


class ContextOrigin(Model):
    """A context that is on another node than the one that is ordered, and how it comes here. The attempt's number fences it."""

    node_name: Name = Field(alias="nodeName", description="The node where it is.")
    start_empty: bool | None = Field(
        default=None, alias="startEmpty", description="true: it is given up, and the agent begins without it. Absent: it is waited for."
    )
    address: Annotated[str, Field(min_length=1, max_length=300)] | None = Field(
        default=None, description="Where the gateway of that node gives it. Absent while that is not known."
    )
    certificate: Certificate | None = Field(default=None, description="The certificate that this gateway must show, DER in base64.")
    receiver: Certificate | None = Field(default=None, description="The certificate that the gateway must show which may fetch it.")


class AgentRuntimeSpec(Model):
    """The decision. Claim and pod of `attempt` follow from it; within an attempt only what is in force at once changes."""

    model_config = ConfigDict(json_schema_extra=_order_rules)

    agent_uid: UID = Field(alias="agentUID", description="The Agent that this order is for.")
    attempt: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(description="Grows with every new decision; never used twice.")
    template_digest: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        alias="templateDigest", description="Of the template and the GPU share that this attempt runs."
    )
    node_name: Name = Field(alias="nodeName", description="The node that is to run it.")
    claim_name: AttemptName = Field(alias="claimName", description="The ResourceClaim of this attempt.")
    pod_name: AttemptName = Field(alias="podName", description="The pod of this attempt.")
    gpu: PlacedGPU | None = Field(default=None, description="The share that is to be booked. Absent means no GPU.")
    egress: EgressPolicy | None = Field(default=None, description="What the agent may reach. Absent: nothing.")
    expose: Exposed | None = Field(default=None, description="Ports that the fence lets in. Absent: none.")
    context: AgentContext | None = Field(default=None, description="What is kept in the agent's context, and how windows are made.")
    context_from: ContextOrigin | None = Field(
        default=None,
        alias="contextFrom",
        description="Where the agent's context is, when it is not on this node. Absent: here, or nowhere.",
    )


class WouldDeny(Model):
    """What a binding in Audit mode let through."""

    binding: BindingName = Field(description="The ToolBinding.")
    count: Count = Field(description="Connections and requests that no rule allows.")


class EgressFacts(Model):
    """What the gateway says of the agent's egress. Counts are of this attempt."""

    policy_digest: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, alias="policyDigest", description="Of the policy that is in force. Absent: none is loaded, and nothing allowed."
    )
    since: Time | None = Field(default=None, description="When it came into force.")
    denied: Count | None = Field(default=None, description="Connections and requests that were denied.")
    would_deny: list[WouldDeny] | None = Field(
        default=None,
        alias="wouldDeny",
        max_length=MAX_BINDINGS,
        description="By binding in Audit mode: what was let through though no rule allows it.",
        json_schema_extra=list_type(keys=["binding"]),
    )


class UsedGPU(Model):
    """What the pod's processes use of the share."""

    uuid: UID = Field(description="The GPU, as the driver names it.")
    used: Memory = Field(
        description="VRAM, in whole MiB, with what contexts take. For people: it is written every ten seconds at most, on average, and "
        "only when it has changed by a twentieth of the share or from or to nothing. What holds the Agent to its share reads the driver."
    )


class OpenPort(Model):
    """A port on which the fence lets in."""

    port: Annotated[int, Field(ge=1, le=65_535)] = Field(description="The port of the pod.")
    protocol: Literal["TCP", "UDP"] = Field(description="TCP or UDP.")


Way = Annotated[str, Field(max_length=128)]
Ways = Annotated[list[Way], Field(max_length=64, json_schema_extra=list_type())]


class Probe(Model):
    """What trying the fence from inside has found. It is written on change, and at most once an hour when nothing changes."""

    time: Time = Field(description="When it was tried.")
    pod_uid: UID = Field(alias="podUID", description="The pod from whose network namespace it was tried.")
    tried: Ways = Field(description="Each way: whose address, by which protocol, the address and the port.")
    leaked: Ways = Field(description="Those of them on which a packet left the pod. Its containers are stopped for it.")
    trouble: Message | None = Field(default=None, description="Why the probe could not tell. Absent when it could.")


class ContextMove(Model):
    """How far the context of `spec.contextFrom` is on its way here."""

    from_node: Name = Field(alias="fromNode", description="The node that it comes from.")
    here: bool = Field(description="true: it is here, or an empty one where that was ordered. The claim is prepared only then.")
    received_bytes: Count = Field(alias="receivedBytes", description="How much of its copy has come; told every ten seconds at most.")
    total_bytes: Count = Field(alias="totalBytes", description="How large the copy is. 0: not known yet.")
    trouble: Message | None = Field(default=None, description="Why nothing comes now. Absent while something does.")


class AgentRuntimeStatus(Model):
    """Facts about one prepared claim, each with what it is about; written by the node agent of `spec.nodeName`."""

    conditions: Conditions | None = Field(
        default=None, description="Prepared, Fenced, Listening; with VRAM also EnforcementVerified and WithinShare."
    )
    node_name: Name | None = Field(default=None, alias="nodeName", description="The node that speaks.")
    attempt: Attempt | None = Field(default=None, description="The attempt that it speaks of.")
    claim_uid: UID | None = Field(default=None, alias="claimUID", description="The claim that is prepared.")
    pod_uid: UID | None = Field(default=None, alias="podUID", description="The pod whose network namespace is fenced.")
    contract_version: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, alias="contractVersion", description="The contract that the node agent speaks."
    )
    exposed: list[OpenPort] | None = Field(
        default=None,
        max_length=16,
        description="Ports on which the fence is open now. Absent: none.",
        json_schema_extra=list_type(keys=["port", "protocol"]),
    )
    probe: Probe | None = Field(default=None, description="Whether the fence holds, tried from inside the pod.")
    gpu: UsedGPU | None = Field(default=None, description="The use of the share. Absent without one, and while it is not known.")
    egress: EgressFacts | None = Field(default=None, description="What the gateway says of the agent's way out.")
    context: ContextFacts | None = Field(default=None, description="What it says of the agent's context. Absent while there is none.")
    move: ContextMove | None = Field(default=None, description="The move of the context to this node. Absent where none is ordered.")

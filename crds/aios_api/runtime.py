"""`AgentRuntime`: the operator's order to a node (spec), the node's facts (status). Internal: people read `Agent`."""

from typing import Annotated

from pydantic import ConfigDict, Field

from aios_api.agent import Conditions, Memory, PlacedGPU
from aios_api.meta import UID, Attempt, AttemptName, Model, Name
from aios_api.schema import rule, rules

_ORDER_RULES = rules(
    rule("self.agentUID == oldSelf.agentUID", "agentUID must not change: another Agent is another order", path=".agentUID"),
    rule(
        "self.attempt > oldSelf.attempt || self == oldSelf",
        "attempt must grow when anything else changes: claim and pod of an attempt follow from its order",
        path=".attempt",
    ),
)


class AgentRuntimeSpec(Model):
    """The decision. Claim and pod of `attempt` follow from it; it does not change within an attempt."""

    model_config = ConfigDict(json_schema_extra=_ORDER_RULES)

    agent_uid: UID = Field(alias="agentUID", description="The Agent that this order is for.")
    attempt: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(description="Grows with every new decision; never used twice.")
    template_digest: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        alias="templateDigest", description="Of the template and the GPU share that this attempt runs."
    )
    node_name: Name = Field(alias="nodeName", description="The node that is to run it.")
    claim_name: AttemptName = Field(alias="claimName", description="The ResourceClaim of this attempt.")
    pod_name: AttemptName = Field(alias="podName", description="The pod of this attempt.")
    gpu: PlacedGPU | None = Field(default=None, description="The share that is to be booked. Absent means no GPU.")


class UsedGPU(Model):
    """What the pod's processes use of the share."""

    uuid: UID = Field(description="The GPU, as the driver names it.")
    used: Memory = Field(
        description="VRAM, in whole MiB, with what contexts take. It is written at most every ten seconds, and only when it has changed by "
        "a twentieth of the share or from or to nothing: for people. What holds the Agent to its share reads the driver itself."
    )


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
    gpu: UsedGPU | None = Field(default=None, description="The use of the share. Absent without one, and while it is not known.")

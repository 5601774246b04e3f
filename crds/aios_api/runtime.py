"""`AgentRuntime`: the operator's order to a node (spec), the node's facts (status). Internal: people read `Agent`."""

from pydantic import Field

from aios_api.agent import Model, PlacedGPU
from aios_api.meta import Condition


class AgentRuntimeSpec(Model):
    """The decision. Claim and pod of `attempt` follow from it."""

    agent_uid: str = Field(alias="agentUID")
    attempt: int
    template_digest: str = Field(alias="templateDigest")
    node_name: str = Field(alias="nodeName")
    claim_name: str = Field(alias="claimName")
    pod_name: str = Field(alias="podName")
    gpu: PlacedGPU | None = None


class AgentRuntimeStatus(Model):
    """Facts about one prepared claim, each with what it is about."""

    node_name: str | None = Field(default=None, alias="nodeName")
    attempt: int | None = None
    claim_uid: str | None = Field(default=None, alias="claimUID")
    pod_uid: str | None = Field(default=None, alias="podUID")
    contract_version: int | None = Field(default=None, alias="contractVersion")
    conditions: list[Condition] | None = None

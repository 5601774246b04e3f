"""`Agent`: what a user asks for, and what a person reads back."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aios_api.meta import Condition, Time


class Model(BaseModel):
    """Every part of our API: unknown fields are refused, names are camelCase on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class AgentGPU(Model):
    """A share of one GPU."""

    memory: str = Field(description="VRAM of the share, a Kubernetes quantity of at least 1Mi, such as 16Gi. Booked on one GPU, in whole MiB (rounded up).")
    models: list[str] | None = Field(default=None, description="GPU models to accept, as published by the node (kubectl get resourceslices); absent accepts any.")


class AgentSpec(Model):
    template: dict[str, Any] = Field(description="The pod to run.")
    gpu: AgentGPU | None = Field(default=None, description="The share of a GPU that the Agent holds while it runs; absent means no GPU.")
    restart_policy: Literal["Always", "OnFailure", "Never"] = Field(default="Always", alias="restartPolicy")
    operating_mode: Literal["Running", "Stopped"] = Field(default="Running", alias="operatingMode")


class PlacedGPU(Model):
    uuid: str
    model: str
    memory: str


class Pending(Model):
    """Why the Agent waits for a place, and what would end the wait."""

    reason: str
    message: str
    smallest_change: str = Field(alias="smallestChange")
    since: Time


class Failure(Model):
    """The last attempt that failed."""

    attempt: int
    reason: str
    message: str
    time: Time


class AgentStatus(Model):
    observed_generation: int | None = Field(default=None, alias="observedGeneration")
    conditions: list[Condition] | None = None
    attempt: int | None = None
    node_name: str | None = Field(default=None, alias="nodeName")
    pod_name: str | None = Field(default=None, alias="podName")
    gpu: PlacedGPU | None = None
    pending: Pending | None = None
    failed_attempts: int | None = Field(default=None, alias="failedAttempts", description="Attempts that failed in a row; the back-off grows with it; 0 again after ten minutes of Ready.")
    last_failure: Failure | None = Field(default=None, alias="lastFailure")

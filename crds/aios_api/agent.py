"""`Agent`: what a user asks for, and what a person reads back."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema

from aios_api import names
from aios_api.context import AgentContext, ContextStatus
from aios_api.meta import (
    UID,
    Attempt,
    AttemptName,
    Condition,
    Count,
    Generation,
    InvalidSpec,
    Message,
    Model,
    Name,
    Time,
    Word,
    field_errors,
)
from aios_api.schema import list_type, rule, rules
from aios_api.template import pod_template, probe_rules

GPUModel = Annotated[str, Field(min_length=1, max_length=64)]
Memory = Annotated[str, Field(min_length=1, max_length=32)]
Conditions = Annotated[list[Condition], Field(max_length=24, json_schema_extra=list_type(keys=["type"]))]

_MEMORY_RULES = rules(
    rule("isQuantity(self)", "memory must be a Kubernetes quantity such as 16Gi", reason="FieldValueInvalid"),
    rule(
        "!isQuantity(self) || !quantity(self).isLessThan(quantity('1Mi'))",
        "memory must be at least 1Mi; leave spec.gpu out for an Agent without a GPU",
        reason="FieldValueInvalid",
    ),
    rule("!isQuantity(self) || !quantity(self).isGreaterThan(quantity('8Pi'))", "memory must be at most 8Pi", reason="FieldValueInvalid"),
)


class AgentGPU(Model):
    """A share of one GPU."""

    memory: Memory = Field(
        description="VRAM of the share: a quantity of at least 1Mi, such as 16Gi. It is booked on one GPU, in whole MiB, rounded up.",
        json_schema_extra=_MEMORY_RULES,
    )
    models: list[GPUModel] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="GPU models to accept, as nodes publish them (see model in kubectl get resourceslices -o yaml). Absent accepts any.",
        json_schema_extra=list_type(unique=True),
    )


_EXPOSE_RULES = rules(
    rule(
        "self.all(one, self.exists_one(other, other.port == one.port && other.protocol == one.protocol))",
        "expose must have each port and protocol once",
        reason="FieldValueInvalid",
    ),
)
_OWN_PORT_RULES = rules(
    rule(f"self != {names.AGENT_PORT}", f"port must not be {names.AGENT_PORT}: there the agent finds its own endpoint, on its loopback")
)


class ExposedPort(Model):
    """A port of the agent that others may reach."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z]([-a-z0-9]*[a-z0-9])?$")] = Field(
        description="How the Service calls it."
    )
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(
        description="Where the agent listens, and the port of the Service.", json_schema_extra=_OWN_PORT_RULES
    )
    protocol: Literal["TCP", "UDP"] = Field(default="TCP", description="TCP or UDP.")


Exposed = Annotated[list[ExposedPort], Field(max_length=16, json_schema_extra=list_type(keys=["name"]) | _EXPOSE_RULES)]


class AgentSpec(Model):
    """What the user asks for."""

    model_config = ConfigDict(json_schema_extra=rules(*probe_rules()))

    template: Annotated[dict[str, Any], WithJsonSchema(pod_template())]
    gpu: AgentGPU | None = Field(
        default=None, description="The share of a GPU that the Agent holds from its start to its end. Absent means no GPU."
    )
    restart_policy: Literal["Always", "OnFailure", "Never"] = Field(
        default="Always",
        alias="restartPolicy",
        description="When the agent is started again after it ended: Always, OnFailure (exit code other than 0) or Never. "
        "What ends for good is Completed, and releases its place.",
    )
    operating_mode: Literal["Running", "Stopped"] = Field(
        default="Running",
        alias="operatingMode",
        description="Running wants a pod; Stopped gives pod and GPU share back and keeps the Agent.",
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None,
        alias="activeDeadlineSeconds",
        description="How long the Agent may run, in seconds, counted from when the first pod of this spec was bound to its node; "
        "waits between two attempts count, the wait for the first place does not. Then the Agent is as if Stopped, with the condition "
        "DeadlineExceeded. A change is in force at once, also for a pod that runs and after the deadline. The time begins anew with a "
        "changed template, gpu or restartPolicy, and with Stopped and Running again. Absent means no limit.",
    )
    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        default=0,
        description="Who waits gets quota and place first by higher priority, then by age. It is in force at once, and takes nothing from "
        "who holds a place.",
    )
    expose: Exposed | None = Field(
        default=None,
        description="Ports on which the agent is reached, by a Service of the Agent's name. Nothing else comes in. It is in force at once.",
    )
    context: AgentContext | None = Field(
        default=None, description="What is kept of what the agent appends, and how windows are made of it. Absent: as the defaults say."
    )


class PlacedGPU(Model):
    """The GPU that was chosen, and how much of it."""

    uuid: UID = Field(description="The GPU, as the driver names it.")
    model: GPUModel = Field(description="Its model, as its node publishes it.")
    memory: Memory = Field(description="The VRAM that is booked, in whole MiB.")


class BookedGPU(PlacedGPU):
    """The share, and what holds the Agent to it."""

    enforcement: Literal["Watch"] | None = Field(
        default=None,
        description="Watch: what the pod uses is read all the time, and its container is killed soon after it uses more than its share. "
        "Absent while nothing is known to hold the Agent to its share; the condition EnforcementVerified says why.",
    )


class Pending(Model):
    """Why the Agent waits for a place, and what would end the wait."""

    reason: Word = Field(description="Why, in one word; docs/reference/reasons.md explains each.")
    message: Message = Field(description="Why, with the numbers of this Agent and this cluster.")
    smallest_change: Message = Field(alias="smallestChange", description="The smallest change that would end the wait.")
    since: Time = Field(description="When the wait began.")


class CountedRun(Model):
    """The present run, which spec.activeDeadlineSeconds limits."""

    start_time: Time = Field(alias="startTime", description="When its first pod was bound to its node.")
    template_digest: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        alias="templateDigest", description="Of the template, GPU share and restart policy that it is a run of."
    )


class LeavingAttempt(Model):
    """An attempt whose node is out of touch, so that it may still run and speak there."""

    node_name: Name = Field(alias="nodeName", description="Its node.")
    attempt: Attempt = Field(description="Its number.")


class Failure(Model):
    """The last attempt that failed."""

    attempt: Attempt = Field(description="Its number.")
    reason: Word = Field(description="Why, in one word; docs/reference/reasons.md explains each.")
    message: Message = Field(description="Which container, which exit code, or what was refused.")
    time: Time = Field(description="When it failed.")


class BindingInForce(Model):
    """A ToolBinding that is in force for the Agent."""

    name: Name = Field(description="The ToolBinding.")
    generation: Generation = Field(description="Its generation that is in force.")


class AgentEgress(Model):
    """What decides where the agent may go now."""

    policy_digest: Annotated[str, Field(max_length=64)] = Field(
        alias="policyDigest", description="Of the policy that the gateway has confirmed."
    )
    bindings: list[BindingInForce] | None = Field(
        default=None,
        max_length=64,
        description="The ToolBindings that it was compiled from. A binding whose last update is broken is here with its generation before.",
        json_schema_extra=list_type(keys=["name"]),
    )


class ContextOnItsWay(Model):
    """The agent's context is moved to the node of the current attempt, which starts when it is there."""

    from_node: Name = Field(alias="fromNode", description="The node that it comes from.")
    received_bytes: Count = Field(alias="receivedBytes", description="How much of its copy has come.")
    total_bytes: Count = Field(alias="totalBytes", description="How large the copy is. 0: not known yet.")
    trouble: Message | None = Field(default=None, description="Why nothing comes now.")
    stalled_since: Time | None = Field(default=None, alias="stalledSince", description="Since when nothing comes.")
    starts_empty_at: Time | None = Field(
        default=None,
        alias="startsEmptyAt",
        description="When the attempt begins without it, if nothing comes until then (spec.context.whenNodeLost StartEmpty).",
    )


class AgentStatus(Model):
    """What a person reads back; written by the operator."""

    conditions: Conditions | None = Field(
        default=None,
        description="Accepted, QuotaReserved, Placed, Prepared, Ready, EgressProgrammed, EgressFenced, Completed; Exposed where ports are "
        "exposed; with VRAM EnforcementVerified and WithinShare; with a deadline DeadlineExceeded; GPUHealthy when the GPU is not; "
        "Reconciling and Stalled for tools that wait.",
    )
    observed_generation: Generation | None = Field(
        default=None, alias="observedGeneration", description="The generation of the spec that this status speaks of."
    )
    attempt: Attempt | None = Field(
        default=None, description="The number of the current attempt; claim and pod are named <agent>-<attempt>."
    )
    node_name: Name | None = Field(default=None, alias="nodeName", description="The node of the current attempt.")
    pod_name: AttemptName | None = Field(default=None, alias="podName", description="The pod of the current attempt.")
    gpu: BookedGPU | None = Field(default=None, description="The share that is booked, and how it is enforced.")
    egress: AgentEgress | None = Field(
        default=None, description="The ToolBindings in force. Absent while nothing is allowed, or no gateway has confirmed a policy."
    )
    context: ContextStatus | None = Field(default=None, description="The context, as the node last told. Absent while there is none.")
    context_move: ContextOnItsWay | None = Field(
        default=None, alias="contextMove", description="Set while the context is on its way to the node of the current attempt."
    )
    pending: Pending | None = Field(default=None, description="Set while the Agent waits for a place.")
    run: CountedRun | None = Field(default=None, description="The present run. Absent before its first pod is bound, and while stopped.")
    leaving: LeavingAttempt | None = Field(
        default=None,
        description="An attempt before, on a node that is out of touch. The next one is made when that node must have fallen silent.",
    )
    failed_attempts: Attempt | None = Field(
        default=None,
        alias="failedAttempts",
        description="Attempts that failed in a row; the back-off grows with it. 0 again after ten minutes of Ready.",
    )
    last_failure: Failure | None = Field(default=None, alias="lastFailure", description="The last attempt that failed.")


def parse_spec(spec: object) -> AgentSpec:
    """The spec as a model. Raises `InvalidSpec`, whose message names the fields as the user wrote them."""
    try:
        return AgentSpec.model_validate(spec)
    except ValidationError as error:
        raise InvalidSpec(field_errors(error)) from None

"""`GPUQuota`: what the Agents of a namespace may hold together, and how much of it they do."""

from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError

from aios_api.agent import Conditions, Memory
from aios_api.meta import Generation, InvalidSpec, Model, field_errors
from aios_api.quantity import InvalidQuantity, parse
from aios_api.schema import rule, rules

MOST_MEMORY = 4 << 60
"""What `nominal` may be at most: sums and differences with it stay far from where quantities end."""

Count = Annotated[int, Field(ge=0, le=1_000_000)]

_NOMINAL_RULES = rules(
    rule("isQuantity(self)", "nominal must be a Kubernetes quantity such as 160Gi", reason="FieldValueInvalid"),
    rule("!isQuantity(self) || !quantity(self).isLessThan(quantity('0'))", "nominal must not be negative", reason="FieldValueInvalid"),
    rule("!isQuantity(self) || !quantity(self).isGreaterThan(quantity('4Ei'))", "nominal must be at most 4Ei", reason="FieldValueInvalid"),
)
_SPEC_RULES = rules(
    rule("has(self.memory) || has(self.agents)", "memory or agents must be set: a quota without either limits nothing", path=".memory")
)


class QuotaMemory(Model):
    """VRAM of all GPUs together."""

    nominal: Memory = Field(
        description="VRAM that Agents of the namespace may hold together: a quantity such as 160Gi; 0 allows Agents without a GPU only. "
        "It is counted in whole MiB, a part of one not at all.",
        json_schema_extra=_NOMINAL_RULES,
    )


class GPUQuotaSpec(Model):
    """What the namespace may hold."""

    model_config = ConfigDict(json_schema_extra=_SPEC_RULES)

    memory: QuotaMemory | None = Field(default=None, description="VRAM. Absent: as much as there is.")
    agents: Count | None = Field(
        default=None, description="Agents that may hold a place at once, with a GPU or without. Absent: as many as there are."
    )


class QuotaAmount(Model):
    """VRAM and Agents."""

    memory: Memory = Field(description="VRAM of these Agents together. A sum beyond what a quantity can say is written as 2^63-1.")
    agents: Count = Field(description="How many Agents.")


class GPUQuotaStatus(Model):
    """How much is held; written by the operator. Amounts are those of the quota that is in force, and absent otherwise."""

    conditions: Conditions | None = Field(default=None, description="InForce and Exceeded.")
    observed_generation: Generation | None = Field(
        default=None, alias="observedGeneration", description="The generation of the spec that this status speaks of."
    )
    reserved: QuotaAmount | None = Field(
        default=None, description="What Agents hold, from admission to release: between two attempts as well."
    )
    used: QuotaAmount | None = Field(default=None, description="Of that, what their claims have booked on GPUs now.")
    waiting: QuotaAmount | None = Field(default=None, description="What Agents ask for that wait for quota.")


def parse_quota(spec: object) -> GPUQuotaSpec:
    """The spec as a model. Raises `InvalidSpec`, whose message names the fields as the user wrote them."""
    try:
        parsed = GPUQuotaSpec.model_validate(spec)
        if parsed.memory is not None:
            parse(parsed.memory.nominal)
    except ValidationError as error:
        raise InvalidSpec(field_errors(error)) from None
    except InvalidQuantity as error:
        raise InvalidSpec(f"spec.memory.nominal: {error}") from None
    return parsed

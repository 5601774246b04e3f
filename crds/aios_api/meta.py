"""What all kinds share: time and conditions."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Time = str


class Condition(BaseModel):
    """A `metav1.Condition`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    observed_generation: int | None = Field(default=None, alias="observedGeneration")
    last_transition_time: Time = Field(alias="lastTransitionTime")

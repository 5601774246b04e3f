"""What all kinds share: the strict model, time, words, messages, conditions."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

MAX_MESSAGE = 4096


class Model(BaseModel):
    """Every part of our API: unknown fields are refused, names are camelCase on the wire."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _clip(value: object) -> object:
    """A message of others (the kubelet's, a program's) may be of any length; ours are as long as the schema allows."""
    return value if not isinstance(value, str) or len(value) <= MAX_MESSAGE else value[: MAX_MESSAGE - 1] + "…"


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339, in UTC."""
Message = Annotated[str, BeforeValidator(_clip), Field(max_length=MAX_MESSAGE)]
"""A sentence for a person. What is longer than the schema allows is cut at its end."""
Word = Annotated[str, Field(min_length=1, max_length=128, pattern="^[A-Za-z][A-Za-z0-9]*$")]
"""A CamelCase word that programs compare: see `aios_api.reasons`."""
Name = Annotated[str, Field(min_length=1, max_length=253)]
AttemptName = Annotated[str, Field(min_length=1, max_length=63)]
"""`<agent>-<attempt>`: a host name and a label value."""
UID = Annotated[str, Field(min_length=1, max_length=64)]
Attempt = Annotated[int, Field(ge=0, le=2**31 - 1)]
GENERATION_MAX = 2**53
Generation = Annotated[int, Field(ge=0, le=GENERATION_MAX)]
"""A schema's bounds are floating-point numbers on the API server: a larger one is rounded out of the integers, and refuses every write."""


Count = Annotated[int, Field(ge=0, le=2**53)]


class Condition(Model):
    """A `metav1.Condition`."""

    type: Word = Field(description="What is true or not.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is true.")
    reason: Word = Field(description="Why, in one word; docs/reference/reasons.md explains each.")
    message: Message = Field(description="Why, for a person.")
    observed_generation: Generation | None = Field(
        default=None, alias="observedGeneration", description="The generation of the spec that this speaks of."
    )
    last_transition_time: Time = Field(alias="lastTransitionTime", description="When the status last changed.")


class InvalidSpec(ValueError):
    """The spec is not one of this version's; the message names each field and says what must be true."""


def field_errors(error: ValidationError, root: str = "spec") -> str:
    """What is wrong with a spec, or with another `root`, field by field."""
    return "; ".join(f"{_path((root, *e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")

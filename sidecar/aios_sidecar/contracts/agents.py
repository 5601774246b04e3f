"""Who an agent is, and what it may know of itself."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from aios_api.agent import PlacedGPU
from aios_api.context import AgentContext
from aios_api.meta import Condition


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, alias_generator=to_camel)


class AgentIdentity(_Record):
    """Who speaks through an agent's listeners."""

    namespace: str
    name: str
    uid: str
    attempt: Annotated[int, Field(ge=1)]


class Share(_Record):
    """The agent's part of its GPU, in bytes, for programs; `gpu.memory` is the same as a quantity."""

    memory_bytes: Annotated[int, Field(gt=0)]
    gpu_memory_bytes: Annotated[int, Field(gt=0)]


class AgentRecord(_Record):
    """All that an agent may know of itself; the body of `GET /v1/agent`."""

    identity: AgentIdentity
    node: str
    gpu: PlacedGPU | None = None
    share: Share | None = None
    conditions: Annotated[tuple[Condition, ...], Field(strict=False, max_length=16)] = ()
    context: AgentContext | None = None
    """What is kept in its context, and how windows are made; None: as the defaults say."""

    @model_validator(mode="after")
    def _share_of_a_gpu(self) -> Self:
        if (self.gpu is None) != (self.share is None):
            raise ValueError("gpu and share must be given together or both be absent")
        return self

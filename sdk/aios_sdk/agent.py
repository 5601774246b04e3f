"""What an agent may know of itself."""

from dataclasses import dataclass
from typing import Any, Self

from aios_sdk.answers import Part


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is. `attempt` counts its pods; everything else stays the same over all of them."""

    namespace: str
    name: str
    uid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class GPU:
    """The GPU that the agent has a share of; `memory` is the share, as a Kubernetes quantity."""

    uuid: str
    model: str
    memory: str


@dataclass(frozen=True, slots=True)
class Share:
    """The share in numbers: `memory_bytes` of the GPU's `gpu_memory_bytes` are the agent's."""

    memory_bytes: int
    gpu_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that the platform says of the agent, such as `Fenced`; `status` is True, False or Unknown."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: str


@dataclass(frozen=True, slots=True)
class Agent:
    """This agent, as the platform sees it now. `gpu` and `share` are None without a GPU."""

    identity: Identity
    node: str
    gpu: GPU | None
    share: Share | None
    conditions: tuple[Condition, ...]

    @classmethod
    def from_answer(cls, answer: Any) -> Self:
        """Read the body of `GET /v1/agent`. What later versions add is passed over; what is missing raises UnexpectedAnswerError."""
        body = Part("", answer)
        identity, gpu, share = body.part("identity"), body.optional_part("gpu"), body.optional_part("share")
        return cls(
            identity=Identity(identity.text("namespace"), identity.text("name"), identity.text("uid"), identity.whole("attempt")),
            node=body.text("node"),
            gpu=GPU(gpu.text("uuid"), gpu.text("model"), gpu.text("memory")) if gpu else None,
            share=Share(share.whole("memoryBytes"), share.whole("gpuMemoryBytes")) if share else None,
            conditions=tuple(
                Condition(c.text("type"), c.text("status"), c.text("reason"), c.text("message"), c.text("lastTransitionTime"))
                for c in body.parts("conditions")
            ),
        )

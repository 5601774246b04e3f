"""What an agent may know of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from aios_sdk.errors import UnexpectedAnswerError

T = TypeVar("T")


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
        body = _Part("", answer)
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


class _Part:
    """A JSON object and where it stands, so that an error can name the field."""

    def __init__(self, path: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise UnexpectedAnswerError(f"{path or 'the answer'} must be an object, not {type(value).__name__}")
        self._path = f"{path}." if path else ""
        self._value = value

    def text(self, key: str) -> str:
        return self._typed(key, str, "a string")

    def whole(self, key: str) -> int:
        return self._typed(key, int, "a whole number")

    def part(self, key: str) -> "_Part":
        return _Part(self._path + key, self._value.get(key))

    def optional_part(self, key: str) -> "_Part | None":
        return None if self._value.get(key) is None else self.part(key)

    def parts(self, key: str) -> list["_Part"]:
        items = self._typed(key, list, "a list")
        return [_Part(f"{self._path}{key}[{index}]", item) for index, item in enumerate(items)]

    def _typed(self, key: str, kind: type[T], wanted: str) -> T:
        value = self._value.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UnexpectedAnswerError(f"{self._path}{key} must be {wanted}, not {type(value).__name__}")
        return value

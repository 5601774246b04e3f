"""What the rooms of the sidecar know of one another: the GPUs of a node, who an agent is, and the messages by which listeners change hands.

`node`, `vram` and `gateway` import this file, `handover.py`, which carries the messages, and `cgroups.py`, and never each other.
One JSON message each:

    gateway → node    hello · held (each agent it serves, with its listeners) · synced · serving (the answer to each serve and update: which
                      policy is in force) · egress (what an agent was denied so far) · context (what is in an agent's context) ·
                      door (where it gives contexts to other nodes) · moved (how far a move of a context to this node is)
    node → gateway    hello · serve (record, policy and listeners) · update (record or policy changed) · stop · fresh (until when all this
                      holds) · fetch, forgo (a context that is to be here) · offer, withdraw (one that another gateway may fetch)

Both sides open with `hello`. The gateway then names what it serves; after `synced` the node knows what survived: it adopts listeners that
it lacks, stops what it no longer knows, and serves everything it has. Every message may be repeated; the last one is true. A link that
ends says nothing about the agents: both sides keep their listeners and the gateway keeps serving until the moment that the last `fresh`
named. From then on it is mute: an agent whose node is cut off may be at work elsewhere by then.

The node agent and the worker of a GPU speak over a socket pair, in the same way:

    node → worker     booked (every share of the GPU; sent at each change and at each start of a worker)
    worker → node     reading (who uses how much now) · unread (why it can't be told now) · excess (who is above his share for too long)
                      vitals (what the driver says of the GPU's health; at each start and change) · fault (it reported an error)

A worker ends when its socket does. Its end says nothing about the agents either; the next worker is told what is booked.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from aios_api.agent import PlacedGPU
from aios_api.context import AgentContext, ContextFacts
from aios_api.egress import MAX_BINDINGS, EgressPolicy
from aios_api.meta import Condition

MIB: Final = 1 << 20
HANDOVER_VERSION: Final = 5
"""Of the messages below. A peer that says another one is refused: the two images of one release belong together."""
MESSAGE_LIMIT_BYTES: Final = 64 * 1024
ADDRESS_LENGTH: Final = 300
CERTIFICATE_LENGTH: Final = 2048
LISTENERS_LIMIT: Final = 2


@dataclass(frozen=True, slots=True)
class GPU:
    """One GPU that can be shared, as the driver library describes it."""

    uuid: str
    model: str
    index: int
    memory_mib: int
    """What agents can be given at most: total less what the driver reserves and what is kept back, rounded down."""
    fake: bool = False
    """True when the library is our fake: nothing is enforced on it, and whoever publishes it must say so."""


@dataclass(frozen=True, slots=True)
class WithheldGPU:
    """A GPU that the library counts and that can't be offered, and why."""

    index: int
    reason: str
    uuid: str | None = None
    """None when the library does not even say which one it is."""


@dataclass(frozen=True, slots=True)
class InventoryReport:
    """What there is now. No GPUs is a state with a reason, not an error."""

    gpus: tuple[GPU, ...] = ()
    withheld: tuple[WithheldGPU, ...] = ()
    absent: str | None = None
    """Why the library can't be asked at all; None when it answered."""
    driver_version: str | None = None


class Inventory(Protocol):
    """Knows the GPUs of this node."""

    async def read(self) -> InventoryReport:
        """What the driver says now. Does not block the event loop and does not raise."""

    async def close(self) -> None:
        """Give the driver library back."""


class Workers(Protocol):
    """One worker for each GPU of the node, kept running."""

    async def run(self, hear: "Callable[[str, WorkerMessage], None]") -> None:
        """Until cancelled. `hear` is told what each worker says, with the uuid of its GPU; a worker that can't say anything is `Unread`."""

    def book(self, booked: "dict[str, Booked]") -> None:
        """These shares are booked, by the uuid of the GPU; on any other GPU there are none."""


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


ListenerKind = Literal["socket", "loopback"]
ClaimUID = Annotated[str, Field(pattern=r"^[0-9a-f-]{1,64}$")]
ListenerKinds = Annotated[tuple[ListenerKind, ...], Field(strict=False, max_length=LISTENERS_LIMIT)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WithListeners(_Message):
    """A message that travels with descriptors."""

    listeners: ListenerKinds = ()
    """What the descriptors beside the message are, in their order. Filled in by `Link.send`."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.listeners)) != len(self.listeners):
            raise ValueError("listeners must name each kind once")
        return self


class Hello(_Message):
    """First message of both sides."""

    type: Literal["hello"] = "hello"
    contract: int = HANDOVER_VERSION


class Held(WithListeners):
    """The gateway serves this agent on these listeners; the descriptors are duplicates of them."""

    type: Literal["held"] = "held"
    claim_uid: ClaimUID


class Synced(_Message):
    """The gateway has named every agent that it serves."""

    type: Literal["synced"] = "synced"


class Serving(_Message):
    """The gateway accepts connections on these kinds of listeners, and nothing is open that the policy forbids."""

    type: Literal["serving"] = "serving"
    claim_uid: ClaimUID
    kinds: ListenerKinds = ()
    policy_digest: str | None = None
    """Of the policy in force; None when there is none, and so nothing allowed."""


class WouldDeny(_Message):
    """What a binding in Audit mode let through although no rule allows it."""

    binding: str
    count: Annotated[int, Field(ge=0)]


class EgressCounts(_Message):
    """What an agent asked for in vain, since the gateway began to serve it. Sent when it changed, every five seconds at most."""

    type: Literal["egress"] = "egress"
    claim_uid: ClaimUID
    denied: Annotated[int, Field(ge=0)]
    would_deny: Annotated[tuple[WouldDeny, ...], Field(strict=False, max_length=MAX_BINDINGS)] = ()


class ContextCounts(_Message):
    """What is in an agent's context. Sent when it changed, every ten seconds at most."""

    type: Literal["context"] = "context"
    claim_uid: ClaimUID
    facts: ContextFacts


class ContextDoor(_Message):
    """Where this gateway gives contexts to those of other nodes, and the certificate by which it is known there. New at each start."""

    type: Literal["door"] = "door"
    address: Annotated[str, Field(max_length=ADDRESS_LENGTH)]
    certificate: Annotated[str, Field(max_length=CERTIFICATE_LENGTH)]


class FetchStage(StrEnum):
    """How far a move may go."""

    COPY = "Copy"
    """A copy may be made; the agent goes on where it is."""
    TAKE = "Take"
    """Nothing of an attempt before is left: the source hands over, and what came since is fetched."""
    RELEASE = "Release"
    """The API server knows that the context is here: there, nothing of it need be left."""


class FetchContext(_Message):
    """The context of this agent is on another node and is to be here for this attempt, or the attempt begins without."""

    type: Literal["fetch"] = "fetch"
    identity: AgentIdentity
    node: str
    start_empty: bool = False
    address: Annotated[str, Field(max_length=ADDRESS_LENGTH)] | None = None
    certificate: Annotated[str, Field(max_length=CERTIFICATE_LENGTH)] | None = None
    """None: that node has not said it yet."""
    stage: Annotated[FetchStage, Field(strict=False)] = FetchStage.COPY


class ForgoContext(_Message):
    """No order asks for that any more."""

    type: Literal["forgo"] = "forgo"
    uid: str


class OfferContext(_Message):
    """The gateway with this certificate may fetch the agent's context for this attempt."""

    type: Literal["offer"] = "offer"
    identity: AgentIdentity
    certificate: Annotated[str, Field(max_length=CERTIFICATE_LENGTH)]


class WithdrawContext(_Message):
    """Nobody may fetch the agent's context any more."""

    type: Literal["withdraw"] = "withdraw"
    uid: str


class MovedContext(_Message):
    """How far a move to this node is. Sent when it changed, bytes every ten seconds at most."""

    type: Literal["moved"] = "moved"
    uid: str
    attempt: int
    here: bool = False
    """The context is here, or an empty one where that was ordered: the attempt may begin."""
    received_bytes: int = 0
    total_bytes: int = 0
    trouble: Annotated[str, Field(max_length=1024)] | None = None
    """Why nothing comes now."""


class ReclaimContext(_Message):
    """What is to become of the agent's context once the agent is gone. The last one is true, also for a context that begins later."""

    type: Literal["reclaim"] = "reclaim"
    identity: AgentIdentity
    erase: bool


class ReclaimableContext(_Message):
    """A context here is to be erased once its agent is gone."""

    type: Literal["reclaimable"] = "reclaimable"
    namespace: str
    name: str
    uid: str


class EraseContext(_Message):
    """The agent is gone, and what is here of it goes."""

    type: Literal["erase"] = "erase"
    uid: str


class ErasedContext(_Message):
    """Nothing of the agent is here any more."""

    type: Literal["erased"] = "erased"
    uid: str
    items: int | None = None
    """None: what was there could not be counted."""
    files: int = 0


class Serve(WithListeners):
    """Serve this agent on exactly these listeners from now on; connections that are open stay, as far as the policy allows them."""

    type: Literal["serve"] = "serve"
    claim_uid: ClaimUID
    record: AgentRecord
    policy: EgressPolicy | None = None
    """None: there is none yet, and nothing is allowed."""


class Update(_Message):
    """The record or the policy of an agent changed; its listeners did not."""

    type: Literal["update"] = "update"
    claim_uid: ClaimUID
    record: AgentRecord
    policy: EgressPolicy | None = None
    """As in `serve`."""


class Stop(_Message):
    """The agent is gone: close its listeners and end its connections."""

    type: Literal["stop"] = "stop"
    claim_uid: ClaimUID


class Fresh(_Message):
    """The API server was heard: what the gateway was told before this is so, and may be acted on for a while."""

    type: Literal["fresh"] = "fresh"
    until_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """By `machine_seconds`. A moment and not a duration, so that a message that waited to be read says no more than it did."""


def machine_seconds() -> float:
    """Since this machine started, the time that it slept included: the same clock in all processes of a node."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class BookedShare(_Message):
    """One claim's share of a GPU."""

    claim_uid: ClaimUID
    pod_uid: str | None = None
    """Whose processes use it; None before the pod's first container."""
    booked_bytes: Annotated[int, Field(gt=0)]


class Booked(_Message):
    """All shares of the GPU."""

    type: Literal["booked"] = "booked"
    shares: Annotated[tuple[BookedShare, ...], Field(strict=False)] = ()


class Use(_Message):
    """What one claim's pod uses of the GPU."""

    claim_uid: ClaimUID
    booked_bytes: int
    allowed_bytes: int
    """Booked, and the contexts of its processes."""
    used_bytes: int
    processes: int
    containers: Annotated[tuple[str, ...], Field(strict=False)]
    """The ids of those that use it."""


ContextSource = Literal["Calibrated", "Setting"]


class Reading(_Message):
    """What the driver said a moment ago."""

    type: Literal["reading"] = "reading"
    capacity_bytes: int
    """What can be booked."""
    used_bytes: int
    unattributed_bytes: int
    uses: Annotated[tuple[Use, ...], Field(strict=False)]
    context_bytes: int
    """What each process may use beside its share."""
    context_source: ContextSource
    """Whether that was measured on this GPU with this driver, or is as the administrator set it."""


class Unread(_Message):
    """Nothing can be told of the GPU now."""

    type: Literal["unread"] = "unread"
    reason: str


class Excess(_Message):
    """A claim's pod uses more than it may, for longer than the grace."""

    type: Literal["excess"] = "excess"
    use: Use
    seconds: float


class Recovery(StrEnum):
    """What the driver asks to be done with a GPU."""

    NoAction = "NoAction"
    Drain = "Drain"
    DrainAndReset = "DrainAndReset"
    Reset = "Reset"
    Reboot = "Reboot"


class Vitals(_Message):
    """What the driver says of the GPU's health, and whether it will say more."""

    type: Literal["vitals"] = "vitals"
    deaf: str | None = None
    """Why errors can't be heard; None while they are."""
    recovery: Recovery | None = None
    """None: this driver does not tell."""
    rows_failed: bool = False
    """Whether rows of memory could not be remapped: the driver's sign for a GPU that is to be replaced."""


class FaultGroup(StrEnum):
    """What follows from an error of a GPU."""

    Application = "Application"
    """A program's own: it may have ended; the GPU goes on."""
    Notice = "Notice"
    """Nothing."""
    Degraded = "Degraded"
    """No new Agent until the GPU was reset; those on it go on."""
    Broken = "Broken"
    """Nobody can use it until it was reset."""
    Unknown = "Unknown"
    """Told to people; nothing else follows."""


class Fault(_Message):
    """The driver reported an error."""

    type: Literal["fault"] = "fault"
    xid: int
    group: FaultGroup
    what: str
    """In a few words, for a person."""
    claims: Annotated[tuple[ClaimUID, ...], Field(strict=False)] = ()
    """Those whose pods had processes on the GPU just before or after. The driver does not say whose error it was."""
    others: bool = False
    """Whether processes of nobody who booked a share were there too."""


WorkerMessage = Reading | Unread | Excess | Vitals | Fault
Message = (
    Hello
    | Held
    | Synced
    | Serving
    | EgressCounts
    | ContextCounts
    | Serve
    | Update
    | Stop
    | Fresh
    | ContextDoor
    | FetchContext
    | ForgoContext
    | OfferContext
    | WithdrawContext
    | MovedContext
    | ReclaimContext
    | ReclaimableContext
    | EraseContext
    | ErasedContext
)
_MESSAGES: Final[TypeAdapter[Message]] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
_WORKER_MESSAGES: Final[TypeAdapter[WorkerMessage | Booked]] = TypeAdapter(Annotated[WorkerMessage | Booked, Field(discriminator="type")])


class ProtocolError(Exception):
    """The peer said what the contract does not know."""


def encode(message: Message | WorkerMessage | Booked) -> bytes:
    """One packet. Raises ValueError when it would be longer than the contract allows."""
    packet = message.model_dump_json(by_alias=True, exclude_none=True).encode()
    if len(packet) > MESSAGE_LIMIT_BYTES:
        raise ValueError(f"a {message.type} message of {len(packet)} bytes: at most {MESSAGE_LIMIT_BYTES} fit")
    return packet


def decode(packet: bytes) -> Message:
    """The message in `packet`; ProtocolError when it is not exactly one that the contract knows."""
    return _decode(_MESSAGES, packet)


def decode_worker(packet: bytes) -> WorkerMessage | Booked:
    """As `decode`, between the node agent and a worker."""
    return _decode(_WORKER_MESSAGES, packet)


Known = TypeVar("Known")


def _decode(known: TypeAdapter[Known], packet: bytes) -> Known:
    if len(packet) > MESSAGE_LIMIT_BYTES:
        raise ProtocolError(f"a packet of {len(packet)} bytes: at most {MESSAGE_LIMIT_BYTES} are allowed")
    try:
        return known.validate_json(packet)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ProtocolError(f"not a message of the contract: {'.'.join(map(str, first['loc'])) or 'packet'}: {first['msg']}") from None

"""The messages by which node agent and gateway speak, and listeners change hands.

    gateway → node    hello · held (each agent it serves, with its listeners) · synced · serving (the answer to each serve and update: which
                      policy is in force) · egress (what an agent was denied so far) · context (what is in an agent's context) ·
                      door (where it gives contexts to other nodes) · moved (how far a move of a context to this node is) ·
                      reclaimable (a context that is to go with its agent) · erased
    node → gateway    hello · serve (record, policy and listeners) · update (record or policy changed) · stop · fresh (until when all this
                      holds) · fetch, forgo (a context that is to be here) · offer, withdraw (one that another gateway may fetch) ·
                      reclaim (whether a context goes with its agent) · erase (it has gone)

Both sides open with `hello`. The gateway then names what it serves; after `synced` the node knows what survived: it adopts listeners that
it lacks, stops what it no longer knows, and serves everything it has. Every message may be repeated; the last one is true. A link that
ends says nothing about the agents: both sides keep their listeners and the gateway keeps serving until the moment that the last `fresh`
named. From then on it is mute: an agent whose node is cut off may be at work elsewhere by then.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from aios_api.context import ContextFacts
from aios_api.egress import MAX_BINDINGS, EgressPolicy
from aios_sidecar.contracts import packets
from aios_sidecar.contracts.agents import AgentIdentity, AgentRecord
from aios_sidecar.contracts.packets import ClaimUID, Packet, Part

HANDOVER_VERSION: Final = 5
"""Of the messages below. A peer that says another one is refused: the two images of one release belong together."""
ADDRESS_LENGTH: Final = 300
CERTIFICATE_LENGTH: Final = 2048
LISTENERS_LIMIT: Final = 2
ListenerKind = Literal["socket", "loopback"]
ListenerKinds = Annotated[tuple[ListenerKind, ...], Field(strict=False, max_length=LISTENERS_LIMIT)]


class WithListeners(Packet):
    """A message that travels with descriptors."""

    listeners: ListenerKinds = ()
    """What the descriptors beside the message are, in their order. Filled in by `Link.send`."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.listeners)) != len(self.listeners):
            raise ValueError("listeners must name each kind once")
        return self


class Hello(Packet):
    """First message of both sides."""

    type: Literal["hello"] = "hello"
    contract: int = HANDOVER_VERSION


class Held(WithListeners):
    """The gateway serves this agent on these listeners; the descriptors are duplicates of them."""

    type: Literal["held"] = "held"
    claim_uid: ClaimUID


class Synced(Packet):
    """The gateway has named every agent that it serves."""

    type: Literal["synced"] = "synced"


class Serving(Packet):
    """The gateway accepts connections on these kinds of listeners, and nothing is open that the policy forbids."""

    type: Literal["serving"] = "serving"
    claim_uid: ClaimUID
    kinds: ListenerKinds = ()
    policy_digest: str | None = None
    """Of the policy in force; None when there is none, and so nothing allowed."""


class WouldDeny(Part):
    """What a binding in Audit mode let through although no rule allows it."""

    binding: str
    count: Annotated[int, Field(ge=0)]


class EgressCounts(Packet):
    """What an agent asked for in vain, since the gateway began to serve it. Sent when it changed, every five seconds at most."""

    type: Literal["egress"] = "egress"
    claim_uid: ClaimUID
    denied: Annotated[int, Field(ge=0)]
    would_deny: Annotated[tuple[WouldDeny, ...], Field(strict=False, max_length=MAX_BINDINGS)] = ()


class ContextCounts(Packet):
    """What is in an agent's context. Sent when it changed, every ten seconds at most."""

    type: Literal["context"] = "context"
    claim_uid: ClaimUID
    facts: ContextFacts


class ContextDoor(Packet):
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


class FetchContext(Packet):
    """The context of this agent is on another node and is to be here for this attempt, or the attempt begins without."""

    type: Literal["fetch"] = "fetch"
    identity: AgentIdentity
    node: str
    start_empty: bool = False
    address: Annotated[str, Field(max_length=ADDRESS_LENGTH)] | None = None
    certificate: Annotated[str, Field(max_length=CERTIFICATE_LENGTH)] | None = None
    """None: that node has not said it yet."""
    stage: Annotated[FetchStage, Field(strict=False)] = FetchStage.COPY


class ForgoContext(Packet):
    """No order asks for that any more."""

    type: Literal["forgo"] = "forgo"
    uid: str


class OfferContext(Packet):
    """The gateway with this certificate may fetch the agent's context for this attempt."""

    type: Literal["offer"] = "offer"
    identity: AgentIdentity
    certificate: Annotated[str, Field(max_length=CERTIFICATE_LENGTH)]


class WithdrawContext(Packet):
    """Nobody may fetch the agent's context any more."""

    type: Literal["withdraw"] = "withdraw"
    uid: str


class MovedContext(Packet):
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


class ReclaimContext(Packet):
    """What is to become of the agent's context once the agent is gone. The last one is true, also for a context that begins later."""

    type: Literal["reclaim"] = "reclaim"
    identity: AgentIdentity
    erase: bool


class ReclaimableContext(Packet):
    """A context here is to be erased once its agent is gone."""

    type: Literal["reclaimable"] = "reclaimable"
    namespace: str
    name: str
    uid: str


class EraseContext(Packet):
    """The agent is gone, and what is here of it goes."""

    type: Literal["erase"] = "erase"
    uid: str


class ErasedContext(Packet):
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


class Update(Packet):
    """The record or the policy of an agent changed; its listeners did not."""

    type: Literal["update"] = "update"
    claim_uid: ClaimUID
    record: AgentRecord
    policy: EgressPolicy | None = None
    """As in `serve`."""


class Stop(Packet):
    """The agent is gone: close its listeners and end its connections."""

    type: Literal["stop"] = "stop"
    claim_uid: ClaimUID


class Fresh(Packet):
    """The API server was heard: what the gateway was told before this is so, and may be acted on for a while."""

    type: Literal["fresh"] = "fresh"
    until_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """By `machine_seconds`. A moment and not a duration, so that a message that waited to be read says no more than it did."""


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


def decode(packet: bytes) -> Message:
    """The message in `packet`; ProtocolError when it is not exactly one of these."""
    return packets.decode(_MESSAGES, packet)

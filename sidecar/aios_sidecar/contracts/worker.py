"""What the node agent and the worker of a GPU say to each other, over a socket pair.

    node → worker     booked (every share of the GPU; sent at each change and at each start of a worker)
    worker → node     reading (who uses how much now) · unread (why it can't be told now) · excess (who is above his share for too long)
                      vitals (what the driver says of the GPU's health; at each start and change) · fault (it reported an error)

A worker ends when its socket does. Its end says nothing about the agents either; the next worker is told what is booked.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final, Literal, Protocol

from pydantic import Field, TypeAdapter

from aios_sidecar.contracts import packets
from aios_sidecar.contracts.packets import ClaimUID, Packet, Part


class BookedShare(Part):
    """One claim's share of a GPU."""

    claim_uid: ClaimUID
    pod_uid: str | None = None
    """Whose processes use it; None before the pod's first container."""
    booked_bytes: Annotated[int, Field(gt=0)]


class Booked(Packet):
    """All shares of the GPU."""

    type: Literal["booked"] = "booked"
    shares: Annotated[tuple[BookedShare, ...], Field(strict=False)] = ()


class Use(Part):
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


class Reading(Packet):
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


class Unread(Packet):
    """Nothing can be told of the GPU now."""

    type: Literal["unread"] = "unread"
    reason: str


class Excess(Packet):
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


class Vitals(Packet):
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


class Fault(Packet):
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
_WORKER_MESSAGES: Final[TypeAdapter[WorkerMessage | Booked]] = TypeAdapter(Annotated[WorkerMessage | Booked, Field(discriminator="type")])


def decode(packet: bytes) -> WorkerMessage | Booked:
    """The message in `packet`; ProtocolError when it is not exactly one of these."""
    return packets.decode(_WORKER_MESSAGES, packet)


class Workers(Protocol):
    """One worker for each GPU of the node, kept running."""

    async def run(self, hear: Callable[[str, WorkerMessage], None]) -> None:
        """Until cancelled. `hear` is told what each worker says, with the uuid of its GPU; a worker that can't say anything is `Unread`."""

    def book(self, booked: dict[str, Booked]) -> None:
        """These shares are booked, by the uuid of the GPU; on any other GPU there are none."""

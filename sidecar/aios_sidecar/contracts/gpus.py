"""The GPUs of a node, and who knows them."""

from dataclasses import dataclass
from typing import Final, Protocol

MIB: Final = 1 << 20


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

"""What an error that the driver reports means for a GPU, and for the programs on it. Pure.

The numbers are the driver's Xids. Which group one is in follows the action that NVIDIA's catalogue of Xids names for it (docs.nvidia.com,
"Analyzing Xid Errors with the Xid Catalog", for Ampere and newer): restart the application, ignore, reset the GPU, restart the machine.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from aios_sidecar.contracts.worker import FaultGroup, Recovery


@dataclass(frozen=True, slots=True)
class Meaning:
    """Of one Xid."""

    group: FaultGroup
    what: str
    """In a few words, for a person."""


_ENGINES: Final = (
    *((39 + n, f"an error of copy engine {n}") for n in range(3)),
    *((70 + n, f"an error of copy engine {3 + n}") for n in range(3)),
    *((75 + n, f"an error of copy engine {6 + n}") for n in range(3)),
    (85, "an error of copy engine 9"),
    *((126 + n, f"an error of copy engine {10 + n}") for n in range(10)),
    *((number, "an error of a video decoder") for number in (68, 83, 84, 88, 89, 96, 97, 98)),
    *((number, "an error of an image decoder") for number in (82, *range(99, 106))),
    *((number, "an error of the optical flow unit") for number in (86, 139)),
)

_APPLICATION: Final[Mapping[int, str]] = {
    8: "the GPU stopped processing for it",
    11: "an invalid command stream",
    13: "an exception in a kernel",
    25: "an illegal command stream",
    31: "an access to memory that is not mapped",
    32: "a corrupted command stream",
    43: "a fault of its own that ended it",
    45: "its work was removed from the GPU when it ended",
    60: "an exception of the video processor",
    69: "an error of the graphics engine's class",
    80: "corrupted data sent to the GPU",
    94: "a memory error, contained to it",
    137: "an illegal access over NVLink",
    **dict(_ENGINES),
}

_NOTICE: Final[Mapping[int, str]] = {
    14: "an injected error",
    37: "a firmware error of the driver",
    38: "a firmware error of the driver",
    44: "a fault while contexts were switched",
    63: "rows of memory are remapped at the next reset",
    66: "an illegal access by the driver",
    67: "an illegal access by the driver",
    92: "many corrected memory errors",
    93: "the limit of writes to the InfoROM",
    106: "a test message",
    107: "a test message",
    108: "an NVLink translation error",
    121: "corrected errors on the link to the CPU",
    141: "an error of CUDA's fast path",
    154: "the recovery action changed",
    157: "a resource could not be retired",
    160: "a channel was retired",
    161: "a channel could not be retired",
    162: "power smoothing is on again",
    163: "power smoothing is off",
    164: "power smoothing wears out",
    165: "power smoothing is worn out",
    171: "details of an uncorrectable memory error",
    172: "details of an uncorrectable memory error",
}

_DEGRADED: Final[Mapping[int, str]] = {
    48: "an uncorrectable memory error",
    64: "rows of memory could not be remapped",
    74: "an NVLink error",
    109: "switching contexts took too long",
    136: "an NVLink could not be trained",
    **dict.fromkeys(range(144, 151), "an NVLink error"),
    155: "an NVLink went down",
    156: "a resource is retired at the next reset",
}
"""The catalogue asks for a reset, and programs that run are right in what they compute, or were ended by the driver: they may go on
until then. 48: its guidelines let work complete before the reset; where the error was not contained, 95 follows."""

_BROKEN: Final[Mapping[int, str]] = {
    46: "the GPU stopped processing",
    62: "its micro-controller halted",
    79: "it has fallen off the bus",
    95: "a memory error that was not contained",
    110: "a security fault",
    119: "its system processor gives no answer",
    120: "an error of its system processor",
    140: "memory errors that could not be recovered",
    143: "it could not be initialized",
    151: "its keys could not be rotated",
    158: "a fatal timeout",
}

MEANINGS: Final[Mapping[int, Meaning]] = {
    xid: Meaning(group, what)
    for group, xids in (
        (FaultGroup.Application, _APPLICATION),
        (FaultGroup.Notice, _NOTICE),
        (FaultGroup.Degraded, _DEGRADED),
        (FaultGroup.Broken, _BROKEN),
    )
    for xid, what in xids.items()
}


def meaning(xid: int, ignored: Collection[int] = ()) -> Meaning:
    """What this Xid means; one that is `ignored` is no more than noticed, one that nobody told us of is unknown."""
    known = MEANINGS.get(xid, Meaning(FaultGroup.Unknown, "not known to this version"))
    return Meaning(FaultGroup.Notice, known.what) if xid in ignored else known


_RECOVERIES: Final[Mapping[int, Recovery]] = {
    0: Recovery.NoAction,
    1: Recovery.Reset,
    2: Recovery.Reboot,
    3: Recovery.Drain,
    4: Recovery.DrainAndReset,
    6: Recovery.Reset,
    7: Recovery.Reboot,
}
"""NVML's numbers. 5, recovering an IMEX domain, is about memory that is shared between nodes, which no Agent has."""


def recovery(action: int) -> Recovery:
    """What the driver asks to be done, by NVML's number. One that is not known asks for nothing that could be said."""
    return _RECOVERIES.get(action, Recovery.NoAction)

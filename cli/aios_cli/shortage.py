"""Who holds what an Agent waits for: the quota of its namespace, or the GPUs that it could be on."""

from __future__ import annotations

from collections.abc import Iterator

from aios_cli.picture import GpuLine, Picture
from aios_operator.decide.objects import format_mebibytes
from aios_operator.decide.quota import WAITS_FOR_QUOTA
from aios_operator.decide.views import VramRequest

NAMED = 5
"""GPUs, or Agents; of more only the number is told."""


def who_holds(namespace: str, reason: str, wanted: VramRequest | None, picture: Picture | None) -> Iterator[str]:
    """A line for each; none when it could not be read."""
    if picture is None:
        return
    if reason in WAITS_FOR_QUOTA:
        yield from _quota(namespace, picture)
    elif wanted is not None:
        yield from _gpus(wanted, picture)


def room(line: GpuLine) -> str:
    """What is free of a GPU, and who has booked the rest."""
    free = max(line.mebibytes - line.booked_mebibytes, 0)
    others = ", ".join(f"{h.namespace}/{h.name} {format_mebibytes(h.mebibytes)}" for h in line.holders) or "nobody"
    return f"{format_mebibytes(free)} of its {format_mebibytes(line.mebibytes)} are free; booked by {others}"


def _gpus(wanted: VramRequest, picture: Picture) -> Iterator[str]:
    """Those that would do, with most room first."""
    fitting = [gpu for gpu in picture.gpus if not wanted.models or gpu.model in wanted.models]
    fitting.sort(key=lambda gpu: gpu.booked_mebibytes - gpu.mebibytes)
    for line in fitting[:NAMED]:
        yield f"{line.model} {line.uuid}: {room(line)}"
    if len(fitting) > NAMED:
        yield f"and {len(fitting) - NAMED} more GPUs (aiosctl top -A)"


def _quota(namespace: str, picture: Picture) -> Iterator[str]:
    shares = sorted({(-h.mebibytes, h.name) for gpu in picture.gpus for h in gpu.holders if h.namespace == namespace})
    for line in picture.quotas:
        if line.namespace == namespace and not line.error:
            parts = [] if line.mebibytes is None else [f"{_size(line.reserved.mebibytes)} of {_size(line.mebibytes)} VRAM"]
            parts += [] if line.agents is None else [f"{line.reserved.agents} of {line.agents} Agents"]
            holders = ", ".join(f"{name} {format_mebibytes(-size)}" for size, name in shares[:NAMED])
            others = f" and {len(shares) - NAMED} more" if len(shares) > NAMED else ""
            yield f"GPUQuota {line.name}: {' and '.join(parts)} are held" + (f"; VRAM by {holders}{others}" if shares else "")


def _size(mebibytes: int) -> str:
    return format_mebibytes(mebibytes) if mebibytes else "0"

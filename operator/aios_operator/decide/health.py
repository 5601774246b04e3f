"""What is known against a GPU: the taints of its device, as its node publishes them.

A GPU whose slice is gone has no taints, and nothing is concluded from that: slices vanish whenever the kubelet or the driver restarts.
"""

from __future__ import annotations

from collections.abc import Iterable

from aios_api.names import TAINT_UNHEALTHY
from aios_operator.decide.views import GpuDevice, SliceView, Taint

TAKES_NOBODY = ("NoSchedule", "NoExecute")
"""The effects with which a device takes nobody new. Others only inform."""
ENDS = "NoExecute"
"""The effect with which a device also lets nobody stay."""


def newest(slices: Iterable[SliceView]) -> tuple[SliceView, ...]:
    """Of each pool the slice that counts: an older generation is about to be removed."""
    found: dict[str, SliceView] = {}
    for each in slices:
        if each.pool not in found or each.pool_generation > found[each.pool].pool_generation:
            found[each.pool] = each
    return tuple(found.values())


def taints_of(slices: Iterable[SliceView], uuid: str) -> tuple[Taint, ...]:
    """What these slices say against that GPU; nothing when none of them has it."""
    return next((gpu.taints for each in newest(slices) for gpu in each.gpus if gpu.uuid == uuid), ())


def takes_nobody(gpu: GpuDevice) -> bool:
    return bool(closing(gpu.taints))


def closing(taints: Iterable[Taint]) -> tuple[Taint, ...]:
    """Those that keep Agents away."""
    return tuple(taint for taint in taints if taint.effect in TAKES_NOBODY)


def ending(taints: Iterable[Taint]) -> tuple[Taint, ...]:
    """Those that also end who is there."""
    return tuple(taint for taint in taints if taint.effect == ENDS)


def why(taints: Iterable[Taint]) -> str:
    """`is unhealthy: xid79` for taints of the node agent; those of others by their names."""
    taints = tuple(taints)
    ours = [taint.value for taint in taints if taint.key == TAINT_UNHEALTHY]
    if ours:
        return f"is unhealthy: {', '.join(filter(None, ours)) or 'its node says no more'}"
    return f"carries the taint {', '.join(str(taint) for taint in taints)}"

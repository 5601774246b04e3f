"""What the GPU side is told by its environment, read once at its start."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


class InvalidSettings(ValueError):
    """A variable of the environment that must be set differently; the message names it."""


@dataclass(frozen=True)
class VramSettings:
    """Of all workers of a node."""

    worker_mib: int = 0
    """What a worker itself uses on its GPU. It asks the driver and computes nothing there, so it has no context and uses nothing."""
    margin_mib: int = 512
    """Kept back of each GPU (AIOS_GPU_MARGIN_MIB) for contexts, which are not part of any booked share: about one. A node whose Agents
    run several CUDA processes each on one GPU needs as much for each of them, or an allocation inside a share may fail."""
    calibrate: bool = True
    """Whether what a context takes is measured (AIOS_CALIBRATE_CONTEXT, true or false): a bare one is made on each GPU, once for each
    driver. It needs the driver's libcuda.so.1 and room for one context."""
    context_slack_mib: int = 128
    """Granted beside a measured context: the driver enlarges it for the first kernels that a program loads."""
    context_mib: int = 512
    """What each process of an Agent may use beyond the share, for its context, where it was not measured (AIOS_CONTEXT_MIB). Contexts take
    0.25 to 0.8 GiB by GPU and driver. Too small shoots the innocent."""
    contexts: int = 8
    """For how many processes of an Agent that is granted (AIOS_CONTEXTS): as many as loaders and engines commonly start."""
    read_seconds: float = 0.25
    """Between two readings. With the grace it bounds the time to the shot: at most 1.25 s and the shot itself, within 2 s."""
    grace_seconds: float = 1.0
    """How long an excess may last. Frameworks free and allocate within milliseconds; four readings are no accident."""
    stale_seconds: float = 1.0
    """Readings further apart than this don't prove that an excess lasted."""
    silent_seconds: float = 10.0
    """A worker that says nothing for so long is replaced: it hangs in the driver. Longer than a sleeping GPU takes to wake."""
    vitals_seconds: float = 2.0
    """Between two questions for the GPU's health. Errors are heard at each reading; this is for what the driver does not report."""
    ignored_xids: tuple[int, ...] = ()
    """Errors of a GPU that are noticed and have no consequence here (AIOS_IGNORED_XIDS, separated by commas): those that a fleet knows
    to be harmless."""
    look_seconds: float = 5.0
    """Between two looks at which GPUs there are; as often as they are published."""

    @property
    def withheld_mib(self) -> int:
        """Of each GPU: capacity published is total, less what the driver reserves, less this."""
        return self.worker_mib + self.margin_mib


def from_environment(environment: Mapping[str, str] | None = None) -> VramSettings:
    """The settings that the environment describes. Raises InvalidSettings."""
    given = os.environ if environment is None else environment
    defaults = VramSettings()
    return VramSettings(
        margin_mib=_number(given, "AIOS_GPU_MARGIN_MIB", defaults.margin_mib, 0),
        calibrate=_yes(given, "AIOS_CALIBRATE_CONTEXT", defaults.calibrate),
        context_mib=_number(given, "AIOS_CONTEXT_MIB", defaults.context_mib, 0),
        contexts=_number(given, "AIOS_CONTEXTS", defaults.contexts, 1),
        ignored_xids=_numbers(given, "AIOS_IGNORED_XIDS"),
    )


def _yes(given: Mapping[str, str], name: str, default: bool) -> bool:
    text = given.get(name) or str(default).lower()
    if text not in ("true", "false"):
        raise InvalidSettings(f"{name} must be true or false, not {text!r}")
    return text == "true"


def _numbers(given: Mapping[str, str], name: str) -> tuple[int, ...]:
    texts = [text.strip() for text in given.get(name, "").split(",") if text.strip()]
    if not all(text.isascii() and text.isdigit() and 1 <= int(text) <= 999 for text in texts):
        raise InvalidSettings(f"{name} must be whole numbers from 1 to 999, separated by commas, not {given[name]!r}")
    return tuple(sorted({int(text) for text in texts}))


def _number(given: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = given.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= 1 << 20:
        raise InvalidSettings(f"{name} must be a whole number from {least} to {1 << 20}, not {text!r}")
    return int(text)

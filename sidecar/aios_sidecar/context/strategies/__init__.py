"""Which units are shown when not all fit: the strategies of `aios_api.context`, as pure functions over candidates.

A candidate is a unit with its cost; a room is what may be filled. Every strategy gives back what it took and says, of each unit, why.
None of them orders anything: a window is in the order of the log."""

from aios_sidecar.context.strategies.choose import Candidate, Chosen, Room, choose
from aios_sidecar.context.strategies.tiers import PRESETS, choose_by_tiers

__all__ = ["PRESETS", "Candidate", "Chosen", "Room", "choose", "choose_by_tiers"]

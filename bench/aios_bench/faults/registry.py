"""All scenarios, by name."""

from __future__ import annotations

from aios_bench.faults import operator_crashes
from aios_bench.faults.scenario import Scenario

_MODULES = (operator_crashes,)

SCENARIOS: dict[str, Scenario] = {each.name: each for module in _MODULES for each in module.SCENARIOS}

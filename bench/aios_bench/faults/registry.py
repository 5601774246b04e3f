"""All scenarios, by name."""

from __future__ import annotations

from aios_bench.faults import api_server, chart_upgrades, context_kills, last_gib, node_faults, operator_crashes
from aios_bench.faults.scenario import Scenario

_MODULES = (operator_crashes, last_gib, context_kills, node_faults, chart_upgrades, api_server)

SCENARIOS: dict[str, Scenario] = {each.name: each for module in _MODULES for each in module.SCENARIOS}

"""All scenarios, by name."""

from __future__ import annotations

from aios_bench.faults import api_server, context_kills, last_gib, node_agent_api, node_faults, operator_crashes, suspension, upheavals
from aios_bench.faults.scenario import Scenario

_MODULES = (operator_crashes, last_gib, context_kills, node_faults, upheavals, api_server, node_agent_api, suspension)

SCENARIOS: dict[str, Scenario] = {each.name: each for module in _MODULES for each in module.SCENARIOS}

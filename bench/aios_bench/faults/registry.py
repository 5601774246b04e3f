"""All scenarios, by name."""

from __future__ import annotations

from aios_bench.faults.api import api_server, last_gib, operator_crashes, suspension
from aios_bench.faults.cluster import upheavals
from aios_bench.faults.node import api_server as node_api_server
from aios_bench.faults.node import context_kills
from aios_bench.faults.node import faults as node_faults
from aios_bench.faults.scenario import Scenario

_MODULES = (operator_crashes, last_gib, context_kills, node_faults, upheavals, api_server, node_api_server, suspension)

SCENARIOS: dict[str, Scenario] = {each.name: each for module in _MODULES for each in module.SCENARIOS}

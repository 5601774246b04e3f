"""Scenarios in their small form: nothing lost, nothing doubled, nobody unfenced."""

import pytest

from aios_bench.faults.registry import SCENARIOS
from aios_bench.faults.scenario import Place

SEED = 1


def of(*places: Place) -> list[str]:
    """The scenarios of these places."""
    return [scenario.name for scenario in SCENARIOS.values() if scenario.place in places]


def keeps_what_was_promised(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Skips, with the reason, where the scenario can't be run."""
    caplog.set_level("CRITICAL")  # the operator says much about each fault
    if (reason := SCENARIOS[name].lacking()) is not None:
        pytest.skip(reason)
    outcome = SCENARIOS[name].run(SEED)
    assert outcome.faults_injected > 0
    print(f"{name}: {outcome.faults_injected} faults")

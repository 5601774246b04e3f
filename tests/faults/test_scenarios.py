"""Every scenario in its small form: nothing lost, nothing doubled, nobody unfenced."""

from typing import Any

import pytest

from aios_bench.faults.registry import SCENARIOS
from aios_bench.faults.scenario import Failed, Outcome, Scenario

SEED = 1


def one_after_the_other(name: str) -> Any:
    """What plays a node has the machine's pods for itself: of two processes that test, one takes these."""
    return pytest.param(name, marks=pytest.mark.xdist_group("node") if SCENARIOS[name].place == "node" else ())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [one_after_the_other(name) for name in SCENARIOS])
def test_nothing_is_lost_left_over_or_doubled(name: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level("CRITICAL")  # the operator says much about each fault
    if (reason := SCENARIOS[name].lacking()) is not None:
        pytest.skip(reason)
    outcome = SCENARIOS[name].run(SEED)
    assert outcome.faults_injected > 0
    print(f"{name}: {outcome.faults_injected} faults")


def test_what_is_broken_names_the_seed_and_the_command_that_shows_it_again():
    broken = Scenario("odd", "It loses something.", "api", lambda seed, size: Outcome(1, objects_lost=2, notes=("Pod a-1 is gone",)))
    with pytest.raises(
        Failed, match=r"seed 7: \{'objects_lost': 2\}\nPod a-1 is gone\nreplay: aiosctl bench faults --scenario odd --seed 7"
    ):
        broken.run(7)


def test_what_ends_without_a_word_is_named():
    def ends(seed: int, size: str) -> Outcome:
        raise ProcessLookupError

    with pytest.raises(Failed, match=r"odd, seed 7: ProcessLookupError\(\)\nreplay"):
        Scenario("odd", "It ends.", "api", ends).run(7)

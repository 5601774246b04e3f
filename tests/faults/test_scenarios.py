"""Every scenario of an API or a whole cluster in its small form, and what is told of one that finds something broken."""

import pytest

from aios_bench.faults.scenario import Failed, Outcome, Scenario
from faults.small import keeps_what_was_promised, of


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", of("api", "cluster"))
def test_nothing_is_lost_left_over_or_doubled(name: str, caplog: pytest.LogCaptureFixture):
    keeps_what_was_promised(name, caplog)


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

"""Every scenario of a node in its small form. Apart from the others: of two processes that test, one has the machine's pods for itself."""

import pytest

from faults.small import keeps_what_was_promised, of


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", of("node"))
def test_nothing_is_lost_left_over_or_doubled(name: str, caplog: pytest.LogCaptureFixture):
    keeps_what_was_promised(name, caplog)

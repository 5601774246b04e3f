"""A gateway that is killed at any write loses nothing that it acknowledged, and keeps nothing in part."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.stepping import CHANGES

TESTS = Path(__file__).parents[1]
SCENARIOS = [("appends", ["ab", "c", "defg", "h"]), ("erasure", ["3"]), ("moving", ["ab", "c", "defg", "h", "i"])]


@pytest.mark.skipif(not CHANGES, reason="the numbers of system calls are known for x86_64 and aarch64 only")
@pytest.mark.parametrize(("scenario", "told"), SCENARIOS)
def test_killed_at_every_write_exactly_what_was_acknowledged_is_there(tmp_path, scenario, told):
    run = subprocess.run(
        [sys.executable, "-m", "faults.context_kills", scenario, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["faults"] == []
    assert result["told"] == told, "the last child was not killed and did all of it"
    assert result["kills"] > 30, "each write of the scenario was one point"
    print(f"{scenario}: {result['kills']} kills")

"""The gateway is killed at every write to a context: what was acknowledged is there, and nothing is there in part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial

from aios_bench.faults.checkout import TESTS
from aios_bench.faults.scenario import Outcome, Scenario

LEAST_KILLS = 30
STORIES = {
    "appends": (["ab", "c", "defg", "h"], "The gateway is killed before each of its writes while an agent appends to its context."),
    "erasure": (["3"], "The gateway is killed before each of its writes while items are erased from a context."),
    "moving": (["ab", "c", "defg", "h", "i"], "Either end is killed before each of its writes while a context moves to another node."),
    "reclaiming": (["kept", "gone"], "The gateway is killed before each of its writes while the context of an agent that is gone goes."),
    "giving": (["h", "i"], "The gateway that gives a context to another node's over the channel is killed before each of its writes."),
    "fetching": (["h", "i"], "The gateway that fetches a context from another node's is killed before each of its writes."),
}
"""What tests/faults/context_kills.py can be asked for; with each, what a child that was not killed acknowledged."""


def killed(story: str, seed: int, size: str) -> Outcome:
    """Exhaustive: seed and size change nothing. A program of its own does it, because children are made by fork, which wants one thread."""
    del seed, size
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-m", "faults.context_kills", story, folder],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
    if run.returncode != 0:
        raise AssertionError(f"faults.context_kills {story} ended with {run.returncode}: {run.stderr.strip()}")
    told = json.loads(run.stdout)
    wanted, _ = STORIES[story]
    if told["told"] != wanted:
        raise AssertionError(f"the last child, which is not killed, must acknowledge {wanted}, not {told['told']}")
    if told["kills"] <= LEAST_KILLS:
        raise AssertionError(f"each write of {story} must be a point of its own: more than {LEAST_KILLS}, not {told['kills']}")
    return Outcome(told["kills"], context_items_lost=len(told["faults"]), notes=tuple(told["faults"]))


SCENARIOS = tuple(
    Scenario(f"gateway-killed-at-every-write-of-{story}", about, "node", partial(killed, story)) for story, (_, about) in STORIES.items()
)

"""The example agent that is asked for something said early, against the gateway's real handler."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.gateway.contexts.desk import Desk
from aios_sidecar.gateway.contexts.metrics import ContextMetrics
from unit.sdk.test_whoami import Gateway

PROGRAM = Path(__file__).parents[3] / "examples" / "agent" / "remember.py"


@pytest.fixture
def url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        desk = Desk(partial(SqliteStore, Path(directory, "contexts")), ContextMetrics(CollectorRegistry()))
        gateway = Gateway(Path(directory), desk)
        yield gateway.url
        gateway.end()
        desk.close()


def told(url: str) -> str:
    done = subprocess.run([sys.executable, str(PROGRAM)], env={"AIOS_URL": url}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recency_has_forgotten_what_a_question_finds(url: str):
    lines = told(url).splitlines()
    assert lines[2].split() == ["sliding", "importance", "sliding,", "and", "the", "question"]
    answers = next(line for line in lines if line.startswith("the answer"))
    assert answers.split() == ["the", "answer:", "OUT", "the", "answer:", "IN", "the", "answer:", "IN"]
    assert told(url).splitlines()[4] == lines[4], "the turns are appended once, however often it is run"

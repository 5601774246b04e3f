"""`aiosctl top` and `aiosctl explain` as a person has them, on the real cluster."""

import json
import os
import subprocess
import sys

from e2e.support import Space

SIZE = 1 << 30


def aiosctl(space: Space, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(space.cluster.kubeconfig), "COLUMNS": "120"}
    program = [sys.executable, "-c", "from aios_cli.main import main; main(prog_name='aiosctl')"]
    return subprocess.run([*program, *arguments], env=environment, capture_output=True, text=True, timeout=60)


def test_top_shows_who_booked_what_and_who_waits(space: Space):
    space.apply(space.agent("a", memory="24Gi"), space.agent("giant", memory="4Ti"))
    space.ready("a")
    space.wait("giant", "Placed", "False")
    answer = aiosctl(space, "top", "--json", "-n", space.name)
    assert answer.returncode == 0, answer.stderr
    shown = json.loads(answer.stdout)
    holders = [holder for node in shown["nodes"] for gpu in node["gpus"] for holder in gpu["holders"]]
    (holder,) = [each for each in holders if (each["namespace"], each["name"]) == (space.name, "a")]
    assert (holder["bytes"], holder["booked"]) == (24 * SIZE, True)
    agents = {agent["name"]: agent for agent in shown["agents"]}
    assert agents["a"]["state"] == "ready"
    assert agents["giant"]["smallestChange"].startswith("lower spec.gpu.memory to ")
    seen = aiosctl(space, "top", "--once", "-n", space.name).stdout
    assert "█ a 24Gi" in seen
    assert "→ lower spec.gpu.memory to " in seen


def test_explain_tells_the_life_and_its_exit_code_says_how_it_stands(space: Space):
    space.apply(
        space.agent("a", memory="24Gi"), space.agent("giant", memory="4Ti"), space.agent("no", code="exit(3)", restartPolicy="Never")
    )
    space.ready("a")
    space.wait("giant", "Placed", "False")
    space.wait("no", "Completed")
    answer = aiosctl(space, "explain", "a", "-n", space.name, "--json")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    expected = ["applied", "accepted", "placed", "scheduled", "prepared", "fenced", "listening", "started", "ready"]
    steps = [step for step in told["steps"] if step["step"] in expected]
    assert [step["step"] for step in steps] == expected
    assert {step["mark"] for step in steps} == {"done"}
    assert all(step["time"] for step in steps)
    waits = aiosctl(space, "explain", "giant", "-n", space.name)
    assert waits.returncode == 3
    assert "what would help: lower spec.gpu.memory to " in waits.stdout
    failed = aiosctl(space, "explain", "no", "-n", space.name)
    assert failed.returncode == 1
    assert "exit code 3" in failed.stdout
    missing = aiosctl(space, "explain", "nobody", "-n", space.name)
    assert missing.returncode == 1
    assert f"there is no Agent nobody in namespace {space.name}" in missing.stderr

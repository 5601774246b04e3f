"""Runs the tiers of tests and prints one summary: what passed, what was skipped and why, what each tier took of its budget.

    python tests/run.py check unit property        these tiers
    python tests/run.py --quick unit property      the same on all cores at once
    python tests/run.py generate                   write the generated files anew

Every tier is one command; a tier that this machine can't run says so in one line and does not fail the run.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
GENERATORS = (
    ["-m", "aios_api.generate"],
    ["-m", "aios_sidecar.node._proto.generate"],
    ["docs/reference/generate_metrics.py"],
    ["docs/reference/generate_openapi.py"],
    ["docs/reference/generate_faults.py"],
)


@dataclass
class Outcome:
    """What one tier did. `ok` is None when the machine can't run it; `reason` says why in one line."""

    tier: str
    seconds: float
    ok: bool | None
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)


def python(*arguments: str) -> int:
    return subprocess.call([sys.executable, *arguments], cwd=ROOT)


def tool(name: str, *arguments: str) -> int:
    return subprocess.call([str(BIN / name), *arguments], cwd=ROOT)


def check() -> tuple[bool, list[str]]:
    """Lint, format, types, layers, generated files: all of them run, so that one pass shows every fault."""
    steps: tuple[tuple[str, Callable[[], int]], ...] = (
        ("ruff check", lambda: tool("ruff", "check", "--quiet", ".")),
        ("ruff format", lambda: tool("ruff", "format", "--quiet", "--check", ".")),
        ("mypy --strict", lambda: tool("mypy", "--no-error-summary")),
        ("import-linter", lambda: tool("lint-imports", "--no-logo")),
        *((f"{arguments[-1]} --check", lambda a=arguments: python(*a, "--check")) for arguments in GENERATORS),
    )
    failed = []
    for name, step in steps:
        began = time.monotonic()
        code = step()
        print(f"  {'ok  ' if code == 0 else 'FAIL'} {name} ({time.monotonic() - began:.1f} s)", flush=True)
        if code != 0:
            failed.append(name)
    return not failed, failed


def build() -> tuple[bool | None, list[str]]:
    """What the later tiers need and a clean machine lacks: Debian packages, cluster binaries, native programs, images."""
    code = python("-m", "aios_localcluster.prepare", "--for-tests")
    if code == 3:
        return None, ["the cluster can't run on this machine (reason above)"]
    return code == 0, [] if code == 0 else ["preparing the cluster failed"]


def pytest(tier: str, *options: str) -> Outcome:
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", f"tests/{tier}", "-rs", "--no-header", *(["-vv"] if tier in SLOW else []), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    last = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|skipped|error)", line)), "")
    number = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    reasons = sorted({re.sub(r"^SKIPPED \[\d+\] \S+ ", "", line).strip() for line in lines if line.startswith("SKIPPED")})
    failed = number.get("failed", 0) + number.get("error", 0)
    ok = None if code == 5 or (code == 0 and not number.get("passed")) else code == 0
    return Outcome(
        tier,
        time.monotonic() - began,
        ok,
        number.get("passed", 0),
        failed if code in (0, 5) or failed else 1,
        number.get("skipped", 0),
        reasons,
    )


BUDGET_MINUTES = {"unit": 3, "property": 3, "api": 4, "node": 5, "e2e": 12, "faults": 8, "build": 22}
"""On two cores. Unit and property tests share their three minutes."""


SLOW = ("node", "e2e", "faults")
"""Tiers in which a person who waits wants to see each test."""


SIDE_BY_SIDE = {"property": ("-n", "2", "--dist", "worksteal"), "faults": ("-n", "2", "--dist", "loadfile")}
"""Tiers in which much is waited for: of property tests the fuzzers take a fixed time each, and of faults one file starts a cluster again
and again while another plays nodes one by one."""


def run(tier: str, *options: str) -> Outcome:
    print(f"\n── {tier} " + "─" * (70 - len(tier)), flush=True)
    if tier in ("check", "build"):
        began = time.monotonic()
        ok, reasons = check() if tier == "check" else build()
        return Outcome(tier, time.monotonic() - began, ok, reasons=reasons)
    return pytest(tier, *(options or SIDE_BY_SIDE.get(tier, ())))


def summary(outcomes: list[Outcome]) -> None:
    print("\n── summary " + "─" * 61)
    for outcome in outcomes:
        word = {True: "ok", False: "FAILED", None: "skipped"}[outcome.ok]
        budget = f" of {BUDGET_MINUTES[outcome.tier]} min" if outcome.tier in BUDGET_MINUTES else ""
        counts = (
            f"  {outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped"
            if outcome.tier not in ("check", "build")
            else ""
        )
        print(f"  {outcome.tier:<10}{word:<9}{outcome.seconds:6.0f} s{budget}{counts}")
        if outcome.tier in BUDGET_MINUTES and outcome.seconds > 60 * BUDGET_MINUTES[outcome.tier]:
            print("             · longer than its budget on two cores: make it faster, or the machine is slower than that")
        for reason in outcome.reasons[:6]:
            print(f"             · {reason}")
    print(
        f"\n{sum(o.passed for o in outcomes)} passed, {sum(o.failed for o in outcomes)} failed, {sum(o.skipped for o in outcomes)} skipped"
    )


def main(tiers: list[str]) -> int:
    if tiers == ["generate"]:
        return max(python(*arguments) for arguments in GENERATORS)
    if not shutil.which("make"):
        print("make is missing: apt-get install make")
        return 2
    options = ("-n", "auto") if "--quick" in tiers else ()
    outcomes = [run(tier, *options) for tier in tiers if tier != "--quick"]
    summary(outcomes)
    return 0 if all(outcome.ok is not False for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What every bench returns, and the one JSON form in which results are kept."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("kubeaios", "kopf", "kubernetes", "grpcio", "h11", "pydantic")


@dataclass(frozen=True)
class Options:
    """What a person chooses. `quick` is a small run that only shows that the bench works."""

    kubeconfig: Path
    quick: bool = False
    agents: int = 200
    """How many Agents a bench of many applies."""
    kwok_nodes: int = 25
    """How many simulated nodes such a bench has for them."""
    dataset: Path | None = None
    """Dialogues with questions, for the quality of windows."""
    budgets: tuple[int, ...] = (500, 2000, 8000)
    """Of those windows, in tokens."""
    embeddings: Path | None = None
    """A directory with a table of vectors, mixed into the search for answers."""
    runs: int = 1
    """How often such a bench is run; figures are medians then."""
    pods: int = 20_000
    """How many pods of others there are (bench foreign)."""
    scenario: str | None = None
    """Which faults (bench faults); None: all of them."""
    seed: int = 1
    """Of which faults there are when; further runs have the seeds after it."""
    size: str = "small"
    """Of those scenarios: `small`, as CI runs them, or `long`."""
    minutes: float = 30
    """How long a soak lasts once all Agents are there."""


@dataclass(frozen=True)
class Result:
    """`figures` is flat, name → number, units in the names; `samples` are the raw values behind them."""

    figures: Mapping[str, float]
    method: str
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further parts of the document, beside those that every bench has."""
    table: Sequence[str] = ()
    """What a person reads beside the figures."""
    broken: str = ""
    """What had to be so and was not: all is printed and written, and the command fails."""


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of the samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def machine() -> dict[str, str | int]:
    memory_kib = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory_kib / 2**20),
        "processor": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        found["commit"] = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["commit"] = "unknown"
    return found


def write(name: str, result: Result, path: Path, note: str = "") -> None:
    """The result is at `path` as JSON, complete or not at all. `note`: what else a reader must know of the machine at that time."""
    document = {
        "bench": name,
        "figures": dict(result.figures),
        **result.more,
        "method": result.method,
        **({"note": note} if note else {}),
        "machine": machine(),
        "versions": {**versions(), **result.versions},
        "samples": {key: list(values) for key, values in result.samples.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(path)

"""What `aiosctl bench faults` runs, and what becomes of it in the reference."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from aios_bench.faults import bench
from aios_bench.faults.cluster import gaps
from aios_bench.faults.registry import SCENARIOS
from aios_bench.faults.scenario import Outcome, Scenario
from aios_bench.result import Options

ROOT = Path(__file__).parents[3]
ODD = Scenario("odd", "Something odd.", "api", lambda seed, size: Outcome(seed + (10 if size == "long" else 0)))
BROKEN = Scenario("broken", "It loses.", "api", lambda seed, size: Outcome(1, objects_lost=1))


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_faults", ROOT / "docs/reference/generate_faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SCENARIOS", {each.name: each for each in (ODD, BROKEN)})
    monkeypatch.setattr(bench.logging, "disable", lambda: None)


def options(scenario: str, **more: Any) -> Options:
    return Options(Path("/nowhere/kubeconfig"), scenario=scenario, **more)


def test_the_faults_of_every_seed_are_added_up(only_ours: None):
    figures = bench.bench(options("odd", seed=3, runs=4, size="long")).figures
    assert (figures["scenarios"], figures["runs"], figures["faults_injected"], figures["objects_lost"]) == (1, 4, 13 + 14 + 15 + 16, 0)


def test_what_is_broken_ends_the_bench_with_the_command_that_shows_it(only_ours: None):
    with pytest.raises(ValueError, match="replay: aiosctl bench faults --scenario broken --seed 5"):
        bench.bench(options("broken", seed=5))


def test_a_name_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"--scenario must be one of .*failover.*gateway.*, not nothing"):
        bench.bench(options("nothing"))


def test_a_gap_is_its_95th_percentile_and_failed_calls_are_a_sum():
    measured = gaps.Gaps()
    for seconds in range(1, 101):
        measured.add("failover", seconds)
        measured.count("failed_calls", 2)
    assert measured.figures() == {"failover_s_p95": 95, "failed_calls": 200}


def test_a_figure_stands_beside_its_target_and_is_said_to_miss_it():
    lines = gaps.against_targets({"failover_s_p95": 17.5, "gateway_restart_gap_s_p95": 2.1, "undisturbed_start_s_p95": 99})
    assert [line.split() for line in lines] == [
        ["failover_s_p95", "17.5", "s", "at", "most", "20", "s"],
        ["gateway_restart_gap_s_p95", "2.1", "s", "at", "most", "2", "s,", "which", "it", "MISSES"],
    ]


def test_the_results_that_are_kept_have_every_scenario_that_there_is():
    kept = json.loads((ROOT / "bench/results/faults.json").read_text())
    assert sorted(row["name"] for row in kept["scenarios"]) == sorted(SCENARIOS)
    assert kept["figures"]["scenarios"] == len(SCENARIOS)


def test_the_reference_has_a_row_for_each_scenario_and_says_what_was_lost():
    numbers = dict.fromkeys(("orphans", "double_identities", "unfenced_starts", "context_items_lost", "bytes_misbooked"), 0)
    rows = [{"name": name, "about": "It is so.", "place": "node", "faults_injected": 7, "objects_lost": 0, **numbers} for name in SCENARIOS]
    rows[0] |= {"objects_lost": 2, "bytes_misbooked": 5}
    made = generator()
    calls = dict.fromkeys(("gateway_restart_failed_calls", "gateway_update_failed_calls", "node_agent_restart_failed_calls"), 0)
    figures = {
        "scenarios": len(rows),
        "runs": len(rows),
        "faults_injected": 7,
        "objects_lost": 2,
        **numbers,
        **dict.fromkeys(made.GAPS, 1.5),
        **calls,
    }
    burst = {"figures": {"agents": 1000, "seconds_to_first_decision": 3.7}}
    soaked = {f"{name}_{what}": 1 for name in made.PROGRAMS.values() for what in ("memory_growth_percent", "descriptors_growth", "rss_mib")}
    soaked |= dict.fromkeys(("minutes", "agents_simulated", "agents_real", "agents_that_came", "context_items_appended"), 20)
    soak = {"figures": {**figures, **soaked, "orphans": 3}, "faults": {"etcd killed": 4}}
    page = made.page(
        {"figures": figures, "scenarios": rows, "samples": {name.removesuffix("_s_p95"): [1.5] for name in made.GAPS}}, burst, soak
    )
    assert "first decision | 1.5 | 20 |" in page
    assert "for comparison: from apply to Ready without a fault | 1.5 |  |" in page
    assert page.count("| nothing |") == len(rows) - 1
    assert "| 2 objects lost, 5 bytes misbooked |" in page
    assert "etcd killed (4). Lost, left over or doubled: 2 objects lost, 3 left over;" in page
    assert all(f"`{name}`" in page for name in SCENARIOS)

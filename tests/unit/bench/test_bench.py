"""What benches write down, what they leave behind, and what a person reads who has no cluster."""

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from aios_bench import burst, start
from aios_bench.operating import cpu_seconds
from aios_bench.result import Options, Result, percentile, write
from aios_cli.main import main
from aios_kube.errors import AlreadyExists
from aios_kube.fake import FakeCluster
from aios_kube.resources import NAMESPACES


@pytest.mark.parametrize(("percent", "expected"), [(50, 10), (95, 19), (100, 20), (1, 1)])
def test_a_percentile_is_a_sample(percent: float, expected: float):
    assert percentile([float(number) for number in range(20, 0, -1)], percent) == expected


def test_a_result_says_how_where_and_with_what_it_was_measured(tmp_path: Path):
    write("start", Result({"a_s": 1.5}, "by hand", {"a_s": [1.5]}), tmp_path / "deep" / "start.json")
    written = json.loads((tmp_path / "deep" / "start.json").read_text())
    assert (written["bench"], written["figures"], written["samples"]) == ("start", {"a_s": 1.5}, {"a_s": [1.5]})
    assert written["machine"]["cores"] > 0
    assert "kubeaios" in written["versions"]
    assert written["method"] == "by hand"


def test_a_bench_that_finds_something_broken_prints_and_writes_all_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(start, "bench", lambda _: Result({"orphans": 2}, "by hand", broken="two are left over"))
    path = tmp_path / "start.json"
    said = CliRunner().invoke(main, ["bench", "start", "--json", str(path)])
    assert said.exit_code == 1
    assert "two are left over" in said.output
    assert json.loads(path.read_text())["figures"] == {"orphans": 2}


def test_the_shares_of_the_steps_are_of_the_whole():
    seen = {"a": {"applied": 0.0, "planned": 1.0, "scheduled": 2.0, "prepared": 3.0, "hooked": 3.5, "ready": 4.0}}
    figures = start.summarise(start.Moments(seen), ["a"], ["a"]).figures
    assert figures["apply_to_ready_p50_s"] == 4.0
    assert [figures[f"{step}_share_percent"] for step in start.STEPS] == [25.0, 25.0, 25.0, 12.5, 12.5]


async def test_a_run_leaves_no_namespace_and_the_next_one_can_begin():
    cluster = FakeCluster()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ended badly"):
            async with start.namespace(cluster, poll_seconds=0):
                raise RuntimeError("the run ended badly")
        assert cluster.all(NAMESPACES) == []


async def test_the_namespace_of_another_run_is_left_alone():
    cluster = FakeCluster()
    async with start.namespace(cluster, poll_seconds=0):
        with pytest.raises(AlreadyExists):
            async with start.namespace(cluster):
                pass
        assert len(cluster.all(NAMESPACES)) == 1


def test_figures_of_several_runs_are_medians_and_every_run_is_kept_with_the_load_beside_it(monkeypatch: pytest.MonkeyPatch):
    bound = iter((9.0, 30.0, 10.0))

    async def measure(cluster: None, agents: list[str]) -> tuple[dict[str, float], dict[str, list[float]]]:
        return {"seconds_to_bound": next(bound)}, {"apply_to_bound_s": [float(len(agents))]}

    monkeypatch.setattr(burst, "a_cluster", lambda nodes: nullcontext())
    monkeypatch.setattr(burst, "measure", measure)
    result = burst.bench(Options(Path("unused"), agents=7, runs=3))
    assert (result.figures["seconds_to_bound"], result.figures["runs"]) == (10.0, 3)
    assert result.samples["seconds_to_bound"] == [9.0, 30.0, 10.0]
    assert [len(result.samples[name]) for name in ("load_before", "load_after")] == [3, 3]
    assert result.samples["apply_to_bound_s_of_run_3"] == [7.0]


def test_the_time_of_the_cpus_is_that_of_the_processes_named_and_of_no_other():
    before, until = cpu_seconds("in-no-cgroup", os.getpid()), time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert cpu_seconds("in-no-cgroup", os.getpid()) >= before + 0.05
    assert cpu_seconds("in-no-cgroup") == 0


def test_without_a_cluster_the_message_says_what_is_needed(tmp_path: Path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    said = CliRunner().invoke(main, ["bench", "start", "--kubeconfig", str(kubeconfig)])
    assert said.exit_code == 1
    assert "The bench needs a cluster with KubeAIOS" in said.output


def test_a_bench_that_does_not_exist_is_answered_with_those_that_do():
    said = CliRunner().invoke(main, ["bench", "nothing"])
    assert said.exit_code == 2
    assert "NAME must be one of: binding, burst, context, " in said.output

"""What `make demo` prints once the cluster is there: the quickstart as a newcomer sees it."""

import re
from collections.abc import Iterator

import pytest

from aios_localcluster import demo
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import kubectl


@pytest.fixture
def teams(cluster: LocalCluster) -> Iterator[LocalCluster]:
    yield cluster
    for space in (demo.RESEARCH, demo.SUPPORT):
        kubectl(cluster, "-n", space, "delete", "agents", "--all", "--timeout=60s")
        kubectl(cluster, "delete", "namespace", space, "--wait=false")
    kubectl(cluster, "delete", "namespace", "models", "--wait=false")


def test_the_tour_shows_who_runs_who_waits_and_who_took_too_much(teams: LocalCluster, capsys: pytest.CaptureFixture[str]):
    demo.tour(teams, print, fake=True)
    seen = capsys.readouterr().out
    print(seen)
    for name in ("answerer", "coder", "greedy", "researcher", "scribe"):
        assert re.search(rf"^\w+ +{name} +True +Ready ", seen, re.MULTILINE), name
    assert re.search(r"^support +translator +False +QuotaExhausted ", seen, re.MULTILINE)
    assert "asks for 8Gi; of 12Gi that GPUQuota team grants Agents hold 8Gi" in seen
    assert "what would help: raise spec.memory.nominal to 16Gi of GPUQuota team" in seen
    assert '"namespace": "research", "name": "researcher"' in seen
    assert seen.count("Connection refused") + seen.count("Permission denied") + seen.count("unreachable") == 2, "no way out"
    assert "You asked: hello" in seen, "a model by its name"
    assert len(re.findall(r"^403 \w+: ", seen, re.MULTILINE)) == 2, "refused elsewhere, and once the binding has changed"
    assert "+ https://api.openai.com:443   (models, model)" in seen
    assert re.search(r"^the answer: OUT +the answer: IN +the answer: IN$", seen, re.MULTILINE), "what three strategies remember"
    assert "attempt 1 used 6Gi of GPU-" in seen
    assert "3584Mi more than its share of 2Gi and 512Mi for contexts; its container was killed at" in seen
    restarts = dict(re.findall(r"^(\w+)-1 +1/1 +Running +(\d+)", seen, re.MULTILINE))
    assert restarts == {"coder": "0", "greedy": "1", "researcher": "0", "scribe": "0"}
    assert "8 of 12 GiB" in seen, "top shows what the team holds"
    assert re.search(r"researcher 24Gi, uses 17", seen)

"""A soak's figures are about processes that lived through the whole of what is compared, and about what is there and should not be."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from aios_bench.faults.scenario import Outcome
from aios_bench.soak import agents
from aios_bench.soak.agents import Population
from aios_bench.soak.bench import broken
from aios_bench.soak.check import unready
from aios_bench.soak.memory import Memories
from aios_bench.soak.watch import Processes, Sample
from aios_bench.start import SPACE
from aios_kube.errors import Unreachable
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENTS


def lives(**samples: list[Sample]) -> Processes:
    return Processes("group", {(name.replace("_", "-"), number): each for number, (name, each) in enumerate(samples.items())})


def life(began: int, ended: int, first_kib: int, last_kib: int, descriptors: tuple[int, int] = (10, 10)) -> list[Sample]:
    middle = (began + ended) / 2
    return [Sample(at, *((first_kib, descriptors[0]) if at < middle else (last_kib, descriptors[1]))) for at in range(began, ended)]


def test_growth_is_that_of_the_worst_process_of_each_program():
    processes = lives(aios_operator=life(0, 100, 1000, 1100), aios_node=life(0, 100, 1000, 950, (10, 13)))
    assert processes.growth(0, 100) == {
        "operator_memory_growth_percent": 10.0,
        "operator_descriptors_growth": 0.0,
        "node_memory_growth_percent": -5.0,
        "node_descriptors_growth": 3.0,
    }


def test_who_was_started_or_soon_ended_in_between_tells_nothing_of_growth():
    assert lives(aios_operator=life(30, 100, 1000, 2000), aios_node=life(0, 40, 1000, 2000)).growth(0, 100) == {}


def test_an_operator_that_comes_to_lead_has_not_grown_by_that():
    waits, leads = life(0, 60, 1000, 1050), [replace(each, leads=True) for each in life(60, 100, 3000, 3000, (50, 50))]
    assert lives(aios_operator=waits + leads).growth(0, 100) == {"operator_memory_growth_percent": 5.0, "operator_descriptors_growth": 0.0}
    assert lives(aios_operator=waits[30:] + leads).growth(30, 100) == {
        "operator_memory_growth_percent": 0.0,
        "operator_descriptors_growth": 0.0,
    }


def test_sizes_are_of_those_that_run_at_the_end():
    assert lives(aios_operator=life(0, 100, 1024, 2048), aios_node=life(0, 50, 1024, 4096)).memory_mib(100) == {"operator_rss_mib": 2.0}


def test_each_minute_is_that_of_the_process_that_had_lived_longest_and_was_there_at_the_end():
    lived = life(0, 60, 1024, 2048, (10, 12))
    processes = Processes("group", {("aios-node", 1): lived, ("aios-node", 2): life(50, 60, 4096, 4096), ("aios-operator", 3): lived[:20]})
    assert processes.by_minute(60) == {"node_rss_mib": [1.0, 2.0], "node_descriptors": [10.0, 12.0]}


def test_a_soak_fails_by_what_was_lost_and_by_memory_that_grew():
    others = {f"{program}_memory_growth_percent": 0.0 for program in ("gateway", "node", "worker")}
    growth = {**others, "operator_memory_growth_percent": 9.9, "operator_descriptors_growth": 3.0}
    assert broken(Outcome(faults_injected=7, notes=("all is well",)), growth, 4) == ""
    assert broken(Outcome(orphans=2), growth, 4) == "with seed 4 the soak found {'orphans': 2}"
    assert "operator_memory_growth_percent" in broken(Outcome(), growth | {"operator_memory_growth_percent": 10.1}, 4)
    assert "node_descriptors_growth" in broken(Outcome(), growth | {"node_descriptors_growth": 6.0}, 4)
    assert "gateway_memory_growth_percent" in broken(Outcome(), {n: by for n, by in growth.items() if "gateway" not in n}, 4), "unseen"


def log(agent: str, attempt: int, start: int, *said: object) -> list[str]:
    file = f"== /var/log/pods/{SPACE}_{agent}-{attempt}_0123-45/main/{start}.log"
    return [file, *(f"2026-01-01T00:00:00Z stdout F {json.dumps(each)}" for each in said)]


def test_what_an_agent_was_told_of_in_one_life_it_must_find_in_the_next():
    memories = Memories()
    memories.read(log("real-1", 1, 0, {"resumed": 0}, {"acknowledged": 1}, {"acknowledged": 40}, {"appended": 40, "lost": 0}))
    assert memories.outcome().broken == {}
    memories.read([*log("real-1", 1, 1, {"resumed": 41}, {"acknowledged": 42}), *log("real-2", 1, 0, {"resumed": 0}, {"acknowledged": 9})])
    assert memories.outcome().broken == {}, "one that was not heard of may be there"
    memories.read(log("real-1", 2, 0, {"resumed": 22}, {"acknowledged": 23}, {"appended": 10, "lost": 3}))
    assert memories.outcome().broken == {"context_items_lost": 20 + 3}
    assert memories.appended == 50
    assert memories.outcome().notes == ("real-1 did not find 20 items that an earlier life of it had been told of",)


def test_a_log_that_is_read_again_counts_once_and_what_is_gone_from_the_node_stays_known():
    memories = Memories()
    for acknowledged in (5, 12):
        memories.read(log("real-1", 1, 0, {"resumed": 0}, {"acknowledged": acknowledged}, {"appended": acknowledged, "lost": 1}))
    memories.read([])
    assert (memories.appended, memories.outcome().context_items_lost) == (12, 1)
    memories.read(log("real-1", 1, 1, {"refused": "no"}))
    assert memories.outcome().notes == ("real-1 was refused: no",)


def test_who_is_absent_or_not_ready_is_missing():
    def agent(name: str, status: str) -> dict[str, object]:
        return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}}

    assert unready([agent("a", "True"), agent("b", "False")], {"a", "b", "c"}) == {"b", "c"}


async def test_who_is_being_replaced_when_the_soak_ends_is_replaced_to_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(agents, "CHURN_SECONDS", 0.0)
    monkeypatch.setattr(agents, "OUTAGE_SECONDS", 0.0)
    cluster = FakeCluster()

    async def apply(agent: Any) -> None:
        await cluster.create(AGENTS, agent, field_manager="soak")

    ground: Any = SimpleNamespace(client=cluster, apply=apply)
    population = Population(ground, ("127.0.0.1", 1), random.Random(1))
    await population.settle_in(3, 0)
    away = [1000]

    def refuse(call: Any) -> Unreachable | None:
        if call.verb == "delete":
            population.ending = True
            away[0] -= 1
        return Unreachable("the server is away") if away[0] > 0 else None

    cluster.refuse.append(refuse)
    await population.churn()
    assert away[0] <= 0
    assert {each["metadata"]["name"] for each in cluster.all(AGENTS)} == population.names
    assert len(population.names) == 3

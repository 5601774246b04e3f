"""`aiosctl bench faults`: what was lost, left over or doubled in every scenario, and how long each program is missed when it is killed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import fields
from typing import Any

from aios_bench.faults.cluster import gaps
from aios_bench.faults.cluster.ground import running
from aios_bench.faults.registry import SCENARIOS
from aios_bench.faults.scenario import Failed, Outcome, Scenario
from aios_bench.result import Options, Result

ROUNDS = {"small": 5, "long": 20}
"""How often each program is killed and replaced on the cluster."""
METHOD = "Each scenario in its {size} form, once for each of {runs} seeds from {seed}; it says itself what it does. {gaps}"
GAPS = (
    "On the running local cluster, {rounds} times each: failover_s from kill -9 of the deciding operator, whose pod is deleted, to the "
    "other one's first order for an Agent applied meanwhile. gateway_restart_gap_s: kill -9 of the gateway; gateway_update_gap_s: its "
    "pod is replaced; each the longest time that an Agent, which asks its endpoint 50 times a second on new connections, was without "
    "an answer, from the beginning of the first call that failed or waited. node_agent_restart_gap_s: from kill -9 of the node agent "
    "to Ready of an Agent applied then (undisturbed_start_s: without a fault); node_agent_restart_longest_call_s: what the Agent that "
    "calls notices of the kill and of a replacement."
)


def bench(options: Options) -> Result:
    """Raises ValueError for a scenario that there isn't, and with what failed."""
    scenarios, parts = _chosen(options.scenario)
    logging.disable()  # what is disturbed says much about it
    reasons = {each.name: each.lacking() for each in scenarios}
    scenarios = [each for each in scenarios if reasons[each.name] is None]
    outcomes = _run(scenarios, options)
    total = sum(outcomes.values(), Outcome())
    figures: dict[str, float] = {"scenarios": len(scenarios), "runs": len(scenarios) * options.runs}
    figures |= {each.name: getattr(total, each.name) for each in fields(Outcome) if each.name != "notes"}
    table = [f"{each.name:<44} {outcomes[each.name].faults_injected:>6} faults   {each.about}" for each in scenarios]
    table += [f"{name:<44} not run: {reason}" for name, reason in reasons.items() if reason is not None]
    rounds = 3 if options.quick else ROUNDS[options.size]
    cluster = running(options.kubeconfig) if parts else None
    measured, said = gaps.Gaps(), ""
    if cluster is not None:
        measured = asyncio.run(gaps.measure(cluster, parts, rounds))
        said = GAPS.format(rounds=rounds)
        table += gaps.against_targets(measured.figures())
    elif parts:
        table.append(f"No local cluster with a node runs at {options.kubeconfig}: how long programs are missed was not measured.")
    return Result(
        figures={**figures, **measured.figures()},
        samples=measured.seconds,
        method=METHOD.format(size=options.size, runs=options.runs, seed=options.seed, gaps=said).strip(),
        more={"scenarios": [_row(each, outcomes[each.name]) for each in scenarios]},
        table=table,
    )


def _chosen(name: str | None) -> tuple[list[Scenario], list[str]]:
    """The scenarios, and the parts of what is measured on the cluster."""
    if name is None:
        return list(SCENARIOS.values()), list(gaps.PARTS)
    if name not in (*SCENARIOS, *gaps.PARTS):
        raise ValueError(f"--scenario must be one of {', '.join(sorted((*SCENARIOS, *gaps.PARTS)))}, not {name}")
    return ([SCENARIOS[name]], []) if name in SCENARIOS else ([], [name])


def _run(scenarios: list[Scenario], options: Options) -> dict[str, Outcome]:
    outcomes, failed = {}, []
    for scenario in scenarios:
        outcome = Outcome()
        for seed in range(options.seed, options.seed + options.runs):
            try:
                outcome += scenario.run(seed, options.size)
            except Failed as failure:
                failed.append(str(failure))
        outcomes[scenario.name] = outcome
    if failed:
        raise ValueError("\n".join(failed))
    return outcomes


def _row(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    numbers = {each.name: getattr(outcome, each.name) for each in fields(Outcome) if each.name != "notes"}
    return {"name": scenario.name, "about": scenario.about, "place": scenario.place, **numbers}

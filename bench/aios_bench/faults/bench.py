"""`aiosctl bench faults`: every scenario once for each of so many seeds, and what was lost, left over or doubled in all of them."""

from __future__ import annotations

import logging
from dataclasses import fields

from aios_bench.faults.registry import SCENARIOS
from aios_bench.faults.scenario import Failed, Outcome
from aios_bench.result import Options, Result


def bench(options: Options) -> Result:
    """Raises ValueError for a scenario that there isn't, and with what failed."""
    if options.scenario is not None and options.scenario not in SCENARIOS:
        raise ValueError(f"--scenario must be one of {', '.join(sorted(SCENARIOS))}, not {options.scenario}")
    logging.disable()  # what is disturbed says much about it
    chosen = [SCENARIOS[options.scenario]] if options.scenario is not None else list(SCENARIOS.values())
    total, runs, table, failed = Outcome(), 0, [], []
    for scenario in chosen:
        outcome = Outcome()
        for seed in range(options.seed, options.seed + options.runs):
            runs += 1
            try:
                outcome += scenario.run(seed)
            except Failed as failure:
                failed.append(str(failure))
        table.append(f"{scenario.name:<40} {outcome.faults_injected:>6} faults   {scenario.about}")
        total += outcome
    if failed:
        raise ValueError("\n".join(failed))
    numbers = {each.name: float(getattr(total, each.name)) for each in fields(Outcome) if each.name != "notes"}
    return Result(
        figures={"scenarios": len(chosen), "runs": runs, **numbers},
        method="Each scenario in its small form, once for each seed; what it injects and what it counts is said by itself.",
        table=table,
    )

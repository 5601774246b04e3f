"""`aiosctl bench soak`: many Agents come and go for half an hour while faults are injected: what grows, and what was lost."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields

from aios_bench.faults.cluster.ground import Ground, on
from aios_bench.faults.scenario import Outcome
from aios_bench.result import Options, Result
from aios_bench.soak import check
from aios_bench.soak.agents import Population
from aios_bench.soak.disturb import Disturber
from aios_bench.soak.memory import Memories
from aios_bench.soak.watch import Processes, Witness
from aios_bench.start import end
from aios_localcluster import ClusterSettings, LocalCluster, kubeaios

CLUSTER = "bench-soak"
REAL = 20
BEGIN_SECONDS = 600
"""By then all Agents must be there."""
HARD_PART = 1 / 3
"""For this part of the time our own programs are killed; after it they live on, so that growth can be seen."""
MOST_GROWTH_PERCENT = 10
MOST_DESCRIPTORS = 5
"""More at the end than at the beginning: a connection or two may be under way."""
PROGRAMS = ("gateway", "node", "operator", "worker")
"""Of each a process must have lived through what is compared."""
WARM_SECONDS = 30
"""After its start a Python program grows as it first does each thing it does."""


@contextlib.contextmanager
def a_cluster(kwok_nodes: int) -> Iterator[LocalCluster]:
    """One real node with KubeAIOS on fake GPUs, and simulated ones."""
    with LocalCluster(ClusterSettings(name=CLUSTER, kwok_nodes=kwok_nodes)) as cluster:
        kubeaios.install(cluster, print, kubeaios.FAKE_GPUS)
        yield cluster


async def measure(cluster: LocalCluster, options: Options, simulated: int, real: int, seconds: float) -> Result:
    chance = random.Random(options.seed)  # noqa: S311 - which faults there are
    processes, witness = Processes(cluster.layout.identity), Witness(str(cluster.network.host))
    async with on(cluster) as ground, witness.listening():
        before = check.files(cluster)
        population = Population(ground, (witness.address, witness.port), chance)
        disturber = Disturber(ground, chance)
        memories = Memories()
        watching = [asyncio.create_task(processes.run(ground.client)), asyncio.create_task(memories.run(cluster))]
        try:
            await population.settle_in(simulated, real)
            async with asyncio.timeout(BEGIN_SECONDS):
                await ground.moments.reached(population.names, "ready")
            print(f"{simulated} simulated Agents and {real} real ones are ready", flush=True)
            began = time.monotonic()
            hard_until, ended = began + HARD_PART * seconds, began + seconds
            churning, disturbing = asyncio.create_task(population.churn()), asyncio.create_task(disturber.run(hard_until))
            try:
                ended_early, _ = await asyncio.wait((churning, disturbing), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in ended_early:
                    task.result()  # neither returns: this raises what it failed with
                population.ending = True
                await end([disturbing])
                await churning
            finally:
                await end([churning, disturbing])
            print("the faults have ended; what was asked for is to be there", flush=True)
            await check.answered(ground)
            outcome = await _outcome(ground, population)
            memories.look(cluster)
            outcome += memories.outcome()
            outcome += Outcome(sum(disturber.injected.values()), unfenced_starts=witness.reached, double_identities=len(processes.doubles))
        finally:
            await end(watching)
        outcome += await check.nothing_left(ground, before)
    quiet = hard_until + min(WARM_SECONDS, seconds / 10)
    growth = processes.growth(quiet, ended)
    return Result(
        figures={
            "minutes": round(seconds / 60, 1),
            "agents_simulated": simulated,
            "agents_real": real,
            "agents_that_came": population.came,
            **{each.name: getattr(outcome, each.name) for each in fields(Outcome) if each.name != "notes"},
            "context_items_appended": memories.appended,
            **growth,
            **processes.memory_mib(ended),
            "load_average": round(os.getloadavg()[2], 1),
        },
        samples=processes.by_minute(ended),
        method=METHOD.format(part=HARD_PART, warm=min(WARM_SECONDS, seconds / 10), seed=options.seed),
        more={"faults": dict(sorted(disturber.injected.items())), "notes": list(outcome.notes)},
        broken=broken(outcome, growth, options.seed),
        table=[*(f"{number:>6} times: {name}" for name, number in sorted(disturber.injected.items())), *outcome.notes],
    )


def broken(outcome: Outcome, growth: Mapping[str, float], seed: int) -> str:
    """What a soak has to keep, and did not; empty when it kept all."""
    most = {"_memory_growth_percent": MOST_GROWTH_PERCENT, "_descriptors_growth": MOST_DESCRIPTORS}
    grown = {name: by for name, by in growth.items() for kind, limit in most.items() if name.endswith(kind) and by > limit}
    unseen = {f"{program}_memory_growth_percent": math.nan for program in PROGRAMS if f"{program}_memory_growth_percent" not in growth}
    found = outcome.broken | grown | unseen
    return f"with seed {seed} the soak found {found}" if found else ""


async def _outcome(ground: Ground, population: Population) -> Outcome:
    missing = await check.settled(ground, population.names)
    outcome = Outcome(objects_lost=len(missing), notes=tuple(f"Agent {name} is not ready" for name in sorted(missing)))
    outcome += await check.what_there_is(ground, population.names)
    return outcome + await check.bookings(ground)


METHOD = (
    "A cluster of its own with one real node and simulated ones. Every second one Agent is deleted and another one applied; of thirty, "
    "one is real. Every 5 to 15 s one fault by chance (seed {seed}): for the first {part:.0%} of the time also kill -9 of our own "
    "programs. Then, after {warm:.0f} s, those live on: *_growth compares medians of the last quarter of the time in which a process did "
    "the same thing (an operator leads, or does not) with those of the first, the worst process of each program; samples are the medians "
    "of each minute, of the one that had lived longest. Real Agents append two items a second each to their contexts and read the last "
    "fifty again; at their start and every 5 s they try to reach a "
    "port of the machine, where whoever comes is unfenced. double_identities are Agents on the real node whose program ran twice at once, "
    "looked for every 2 s. At the end all Agents must be Ready, each with one order, pod and claim; after their deletion nothing may be "
    "left, files on the node included."
)


def bench(options: Options) -> Result:
    simulated, real, nodes = (20, 3, 3) if options.quick else (options.agents, REAL, options.kwok_nodes)
    with a_cluster(nodes) as cluster:
        return asyncio.run(measure(cluster, options, simulated, real, 60 * options.minutes))

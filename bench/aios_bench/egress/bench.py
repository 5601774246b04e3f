"""Measures the way out on loopback, without a cluster."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aios_bench.egress import bypasses, floods
from aios_bench.egress.floods import HERE, asked
from aios_bench.egress.house import Beside, House, a_house, a_policy, done
from aios_bench.result import Options, Result, percentile

LOAD: Final = 0.6

METHOD: Final = (
    "Gateway (one process, asyncio), hosts and clients are processes of their own on loopback of one machine, whose cores they share. "
    "requests_per_s_per_worker: 16 connections of one Agent, each asking again when it is answered, GET with 1 KiB in the response, kept "
    "alive on both sides, each request judged and audited; worker_cpu_ms_per_request is what of a core that took. request_added_ms_*: the "
    "same at {load:.0%} of that rate, times from when each request was due; percentile through the gateway less percentile straight to the "
    "host at the same rate; the middle of three rounds. as_busy_a_relay_added_ms_*: the same for a process that passes bytes on without "
    "reading them, and works as long for each request as the gateway does: what machine, clients and load make of any process in the way. "
    "connect_gbit_per_s: one tunnel, the slower of the two directions; connect_gbit_per_worker_cpu_s: what it carried with a second of a "
    "core, which other work on the machine does not change. idle_connections_mib: resident memory of the gateway with {idle} "
    "idle connections over {agents} Agents, half of them tunnels, which have a second socket each. flood_p99_ratio: p99 of {quiet} "
    "requests/s of one Agent while another floods over its 64 connections, over p99 without: the middle of three rounds, of the worst kind "
    "of flood (bench/aios_bench/egress/floods.py); flood_*_p99_ratio is each. "
    "policy_in_force_s_p95: {agents} Agents' orders change at once in the node agent's store; until its link has the gateway's word, each. "
    "bypasses_*: those of bench/aios_bench/egress/bypasses.py. load_average_*: of the machine over one minute, before and after: what else "
    "it had to do."
)


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load_average() -> float:
    return float(Path("/proc/loadavg").read_text().split()[0])


@asynccontextmanager
async def some_hosts() -> AsyncIterator[dict[str, int]]:
    process = await Beside.start("hosts")
    try:
        yield await process.said()
    finally:
        await process.end()


@asynccontextmanager
async def a_relay(host: int, busy_seconds: float) -> AsyncIterator[tuple[int, int]]:
    """Its port and its process."""
    process = await Beside.start("relay", port=host, busy_seconds=busy_seconds)
    try:
        yield (await process.said())["port"], process.pid
    finally:
        await process.end()


async def requests(house: House, http: int, seconds: float) -> tuple[dict[str, float], dict[str, list[float]]]:
    port = house.ports[0]
    used = cpu_seconds(house.worker_pid)
    saturated = await asked(port, http, seconds)
    used = cpu_seconds(house.worker_pid) - used
    rate = len(saturated["ms"]) / saturated["seconds"]
    cpu_ms = 1000 * used / (1.2 * len(saturated["ms"]))  # a fifth more was asked before it was counted
    added: dict[str, list[float]] = {f"{who}_added_ms_{name}": [] for who in ("request", "as_busy_a_relay") for name in ("p50", "p99")}
    async with a_relay(http, 0) as (idle, pid):
        own = cpu_seconds(pid)
        passed = await asked(idle, http, seconds)
        own_ms = 1000 * (cpu_seconds(pid) - own) / (1.2 * len(passed["ms"]))
    async with a_relay(http, max(0.0, cpu_ms - own_ms) / 1000) as (busy, _):
        for _ in range(3):  # in turns: the machine is not the same from one minute to the next
            direct = (await asked(port, http, seconds, LOAD * rate, direct=True))["ms"]
            through = (await asked(port, http, seconds, LOAD * rate))["ms"]
            as_busy = (await asked(busy, http, seconds, LOAD * rate))["ms"]
            for who, times in (("request", through), ("as_busy_a_relay", as_busy)):
                for name, percent in (("p50", 50), ("p99", 99)):
                    added[f"{who}_added_ms_{name}"].append(percentile(times, percent) - percentile(direct, percent))
    middle = {name: round(sorted(each)[1], 3) for name, each in added.items()}
    raw = {name: [round(one, 3) for one in each] for name, each in added.items()}
    return {"requests_per_s_per_worker": round(rate), "worker_cpu_ms_per_request": round(cpu_ms, 3), **middle}, raw


async def tunnels(house: House, pump: int, seconds: float) -> dict[str, float]:
    figures, bits, used = {}, 0.0, cpu_seconds(house.worker_pid)
    for direction, name in (("d", "down"), ("u", "up")):
        carried = await done("carry", port=house.ports[0], target=f"{HERE}:{pump}", direction=direction, seconds=seconds)
        figures[f"connect_{name}_gbit_per_s"] = round(8e-9 * carried["bytes"] / carried["seconds"], 2)
        bits += 8 * carried["bytes"]
    per_cpu_second = 1e-9 * bits / (cpu_seconds(house.worker_pid) - used)
    return {"connect_gbit_per_s": min(figures.values()), **figures, "connect_gbit_per_worker_cpu_s": round(per_cpu_second, 2)}


async def idle(house: House, hosts: dict[str, int], each: int) -> dict[str, float]:
    before = resident_mib(house.worker_pid)
    holding = await Beside.start("hold", ports=house.ports, each=each, tunnels=each // 2, target=f"{HERE}:{hosts['http']}")
    try:
        held = (await holding.said(seconds=240))["held"]
        return {"idle_connections": held, "idle_connections_mib": round(resident_mib(house.worker_pid)), "worker_mib_before": round(before)}
    finally:
        await holding.end()


async def in_force(house: House, hosts: dict[str, int], rounds: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    seconds: list[float] = []
    for number in range(rounds):
        others = [f"https://host-{n}.example.com:443" for n in range(30)]
        seconds += await house.load(a_policy(*_rules(hosts), *others, generation=number + 2))
    return {"policy_in_force_s_p95": round(percentile(seconds, 95), 3)}, {"policy_in_force_s": [round(each, 4) for each in seconds]}


def _rules(hosts: dict[str, int]) -> tuple[str, ...]:
    return (
        f"http://{HERE}:{hosts['http']}",
        f"http://{HERE}:{hosts['crumbs']}",
        f"tcp://{HERE}:{hosts['http']}",
        f"tcp://{HERE}:{hosts['pump']}",
    )


async def past_it() -> tuple[dict[str, float], list[str]]:
    async with bypasses.two_hosts() as watched, a_house(4, None, bypasses.NAMES) as house:
        passed = await bypasses.try_all(house, watched)
    return {"bypasses_tried": len(passed), "bypasses_passed": sum(passed.values())}, [name for name, reached in passed.items() if reached]


async def measure(options: Options) -> Result:
    agents, each, seconds, rounds = (10, 10, 1.0, 2) if options.quick else (200, 50, 6.0, 5)
    figures: dict[str, float] = {"agents": agents, "load_average_before": load_average()}
    samples: dict[str, list[float]] = {}
    through, names = await past_it()
    figures |= through
    async with some_hosts() as hosts, a_house(agents, a_policy(*_rules(hosts))) as house:
        figures |= await tunnels(house, hosts["pump"], seconds)
        for measured, raw in (
            await requests(house, hosts["http"], seconds),
            await floods.measure(house, hosts, seconds),
            await in_force(house, hosts, rounds),
        ):
            figures |= measured
            samples |= raw
    async with some_hosts() as hosts, a_house(agents, a_policy(*_rules(hosts))) as house:
        figures |= await idle(house, hosts, each)
    figures["load_average_after"] = load_average()
    method = METHOD.format(load=LOAD, idle=agents * each, agents=agents, quiet=floods.QUIET_PER_SECOND)
    return Result(figures=figures, samples=samples, method=method + (f" Passed: {', '.join(names)}." if names else ""))


def bench(options: Options) -> Result:
    return asyncio.run(measure(options))

"""How long each of our programs is missing when it is killed or replaced, on a running local cluster: decisions, answers, starts.

An Agent asks its own endpoint all the time, each time on a connection of its own. A call that waits for a gateway that is not there counts
as one that failed: for the Agent it is the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aios_bench.faults.cluster.ground import IMAGE, PATIENCE_SECONDS, Ground, on
from aios_bench.result import percentile
from aios_bench.start import SPACE, an_agent
from aios_kube import Object
from aios_localcluster import LocalCluster
from aios_localcluster.kubeaios import NAMESPACE

TARGETS = {"failover_s_p95": 20.0, "gateway_restart_gap_s_p95": 2.0, "node_agent_restart_gap_s_p95": 10.0}
"""How many seconds a figure may have at most, on two cores that the cluster shares."""
SLOW_SECONDS = 0.1
"""A call that takes longer is told; one takes some milliseconds."""

CALLER = f"""
import http.client, json, os, time, urllib.parse
url = urllib.parse.urlsplit(os.environ["AIOS_URL"])
failed, since = 0, None
while True:
    began = time.time()
    call = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    try:
        call.request("GET", "/v1/agent")
        assert call.getresponse().status == 200
        since = since or began
        if failed or time.time() - since > {SLOW_SECONDS}:
            print(json.dumps([since, time.time(), failed]), flush=True)
        failed, since = 0, None
    except (OSError, AssertionError, http.client.HTTPException):
        failed, since = failed + 1, since or began
    finally:
        call.close()
    time.sleep(0.01)
"""


@dataclass
class Gaps:
    """Samples in seconds, and what was counted in all."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.seconds.setdefault(name, []).append(round(value, 2))

    def count(self, name: str, number: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def figures(self) -> dict[str, float]:
        return {f"{name}_s_p95": percentile(values, 95) for name, values in self.seconds.items()} | dict(self.counts)


def against_targets(figures: Mapping[str, float]) -> list[str]:
    """A line for each figure that has a target: both, and whether it is missed."""
    judged = ((name, figures[name], most) for name, most in TARGETS.items() if name in figures)
    return [f"{name:<44} {figure:>6g} s        at most {most:g} s{', which it MISSES' * (figure > most)}" for name, figure, most in judged]


async def _calls(ground: Ground, began: float, ended: float) -> tuple[float, int]:
    """Of the calls in that time, on the wall's clock: how long the Agent was without an answer at most, and how many failed."""
    told = [json.loads(line) for line in (await ground.kubectl("-n", SPACE, "logs", "caller-1")).splitlines()]
    within = [(until - since, failed) for since, until, failed in told if since < ended and until > began]
    return max((gap for gap, _ in within), default=0.0), sum(failed for _, failed in within)


async def failover(ground: Ground, gaps: Gaps, number: int) -> None:
    """The deciding operator dies and its pod goes, as with its node: until the other one has given an order to an Agent applied then."""
    first = await ground.leader()
    began = time.monotonic()
    await ground.kill("aios-operator", first)
    await ground.apply(an_agent(f"led-{number}", IMAGE))
    await ground.kubectl("-n", NAMESPACE, "delete", "pod", first, "--grace-period=0", "--force", "--wait=false")
    gaps.add("failover", await ground.reached(f"led-{number}", "planned") - began)
    await ground.remove(f"led-{number}")


async def gateway(ground: Ground, gaps: Gaps, number: int) -> None:
    """The gateway is killed, and then its pod is replaced, as an upgrade does."""
    del number
    restarts, _ = await ground.restarts("gateway")
    began = time.time()
    await ground.kill("aios-gateway")
    await ground.back("gateway", restarts)
    await asyncio.sleep(1)
    killed = time.time()
    await ground.replaced("aios-gateway")
    await asyncio.sleep(1)
    for name, since, until in (("restart", began, killed), ("update", killed, time.time())):
        gap, failed = await _calls(ground, since, until)
        gaps.add(f"gateway_{name}_gap", gap)
        gaps.count(f"gateway_{name}_failed_calls", failed)


async def node_agent(ground: Ground, gaps: Gaps, number: int) -> None:
    """The node agent is killed while an Agent starts, and then its pod is replaced; and what the Agent that calls notices of it."""
    restarts, _ = await ground.restarts("node")
    applied = time.monotonic()
    await ground.apply(an_agent(f"usual-{number}", IMAGE))
    gaps.add("undisturbed_start", await ground.reached(f"usual-{number}", "ready") - applied)
    began = time.time(), time.monotonic()
    await ground.kill("aios-node")
    await ground.apply(an_agent(f"new-{number}", IMAGE))
    gaps.add("node_agent_restart_gap", await ground.reached(f"new-{number}", "ready") - began[1])
    await ground.back("node", restarts)
    await ground.replaced("aios-node")
    gap, failed = await _calls(ground, began[0], time.time())
    gaps.add("node_agent_restart_longest_call", gap)
    gaps.count("node_agent_restart_failed_calls", failed)
    await ground.remove(f"usual-{number}", f"new-{number}")


PARTS = {"failover": failover, "gateway": gateway, "node-agent": node_agent}


def an_agent_that_runs(name: str, code: str) -> Object:
    agent = an_agent(name, IMAGE)
    agent["spec"]["template"]["spec"]["containers"][0]["command"] = ["python3", "-c", code]
    return agent


async def measure(cluster: LocalCluster, parts: list[str], rounds: int) -> Gaps:
    gaps = Gaps()
    async with on(cluster) as ground:
        await ground.apply(an_agent_that_runs("caller", CALLER))
        await ground.reached("caller", "ready")
        for part in parts:
            for number in range(rounds):
                async with asyncio.timeout(2 * PATIENCE_SECONDS):
                    await PARTS[part](ground, gaps, number)
        pod = json.loads(await ground.kubectl("-n", SPACE, "get", "pod", "caller-1", "-o", "json"))
        if restarts := sum(int(status["restartCount"]) for status in pod["status"]["containerStatuses"]):
            raise RuntimeError(f"the Agent that calls must run on whatever is killed; it was started again {restarts} times")
        await ground.remove("caller")
    return gaps

"""An operator that decides is suspended among its writes, another one takes its Lease, and the first one wakes: it writes nothing more."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

from aios_api import names
from aios_bench.faults.api.api_server import RULES, Space, agent, come_to_rest
from aios_bench.faults.api.control_plane import Kubelets, control_plane, end, lacking, until
from aios_bench.faults.api.proxy import Passed, Proxy, proxied
from aios_bench.faults.api.rules import Draws, read
from aios_bench.faults.scenario import Outcome, Scenario
from aios_bench.operating import Operator

BATCH = 12
EARLY_WRITES = 40
"""It is suspended with one of so many first writes of a batch, which has twice as many."""
RELEASE = "aios-system"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{RELEASE}/leases/{names.MANAGED_BY}"
LOST_SECONDS = 40.0
"""A Lease lasts 15 s, and is looked at every 2."""


def is_suspended(seed: int, size: str) -> Outcome:
    chance, total = random.Random(seed), Outcome()  # noqa: S311 - repeatable
    with control_plane() as (plane, directory):
        plane.post("/api/v1/namespaces", {"metadata": {"name": RELEASE}})
        for number in range(1 if size == "small" else 20):
            total += _once(plane, directory, f"batch-{number}", chance.randint(1, EARLY_WRITES))
    return total


def _once(plane: Any, directory: Path, name: str, at: int) -> Outcome:
    space, kubelets = Space(plane, name), Kubelets(plane, [name])
    calm = Draws(read(RULES), active=False)
    with (
        proxied(plane.kubeconfig, calm, directory / "first") as first_path,
        proxied(plane.kubeconfig, calm, directory / "next") as next_path,
    ):
        first = _operator(directory, "first", name)
        follower: Operator | None = None
        try:
            until(lambda: _holder(plane) == f"first-{name}", "the first operator holds the Lease")
            follower = _operator(directory, "next", name)
            until(lambda: any(each.asked.kind == "leases" for each in next_path.passed), "the next one asks for the Lease")
            with kubelets.working():
                for number in range(BATCH):
                    plane.post(space.of("agents"), agent(f"a{number}", "1Gi"))
                until(lambda: len(_written(first_path)) >= at, f"write {at} is made")
                first.process.send_signal(signal.SIGSTOP)
                until(lambda: _holder(plane) == f"next-{name}", "the next one holds the Lease", LOST_SECONDS)
                left = BATCH - sum(_is_ready(each) for each in _agents(space))
                woken = time.monotonic()
                first.process.send_signal(signal.SIGCONT)
                until(lambda: first.process.poll() is not None, "who woke without the Lease ends")
                until(lambda: _all_run(space), "every Agent runs")
                followed = len(_written(next_path))
                found = come_to_rest(space)
        finally:
            for each in (first, follower):
                if each is not None:
                    end(each.process)
    if not left or not followed:
        raise AssertionError(f"something must be left to do when the first operator is suspended; it was suspended with write {at}")
    late = [each for each in _written(first_path) if each.at > woken]
    pods = [len(found.get(("Pod", f"a{number}"), ())) for number in range(BATCH)]
    return Outcome(
        faults_injected=1,
        objects_lost=sum(number == 0 for number in pods),
        orphans=sum(number > 1 for number in pods),
        double_identities=len(kubelets.doubles) + len(late),
        notes=(
            *kubelets.doubles,
            *(f"{each.asked.verb} {each.asked.kind} {each.asked.name} by who had lost the Lease" for each in late),
            f"{name}: suspended with write {at}, first; {left} Agents were not ready when it woke; {followed} writes by the next",
        ),
    )


def _operator(directory: Path, path: str, name: str) -> Operator:
    settings = {"AIOS_IDENTITY": f"{path}-{name}", "AIOS_LEASE_NAMESPACE": RELEASE}
    return Operator.start(directory / path, directory / f"{path}.log", **settings)


def _holder(plane: Any) -> str:
    leases = plane.items(LEASE.rpartition("/")[0])
    return next((str(each["spec"].get("holderIdentity")) for each in leases if each["metadata"]["name"] == names.MANAGED_BY), "")


def _written(proxy: Proxy) -> list[Passed]:
    """What took effect, apart from Leases: a write that the server refused is not one."""
    return [each for each in list(proxy.passed) if each.writes and each.asked.kind != "leases" and 200 <= each.code < 300]


def _agents(space: Space) -> list[Any]:
    """What is to be the same of each, by `Space.read`."""
    return [value for (kind, _), values in space.read().items() if kind == "Agent" for value in values]


def _is_ready(agent: Any) -> bool:
    return ("Ready", "True") in {(kind, status) for kind, status, _ in agent[0]}


def _all_run(space: Space) -> bool:
    agents = _agents(space)
    return len(agents) == BATCH and all(map(_is_ready, agents))


SCENARIOS = (
    Scenario(
        "operator-suspended",
        "The operator that decides is suspended among its writes until another has its Lease, and wakes.",
        "api",
        is_suspended,
        lacking,
    ),
)

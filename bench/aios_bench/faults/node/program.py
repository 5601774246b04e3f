"""A node agent as a process of its own, with real workers on a fake driver, on a cluster in memory that is the same at each start, or on
a real API server.

python -m aios_bench.faults.node.program DIRECTORY HOOK (AGENTS | KUBECONFIG) HTTP_PORT
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, Protocol

from aios_bench.faults.checkout import of_tests
from aios_bench.faults.node import last_change, other_release
from aios_kube.client import connect
from aios_kube.fake import FakeCluster
from aios_kube.protocol import ClusterClient
from aios_kube.resources import AGENT_RUNTIMES, NODES, RESOURCE_CLAIMS
from aios_kube.transport import TransportSettings
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import Opening
from aios_sidecar.vram.inventory import NvmlInventory
from aios_sidecar.vram.settings import VramSettings

Object = dict[str, Any]
SHARE = "10Gi"
SHARE_BYTES = 10 << 30
LOOK_SECONDS = 0.2
MUTE_SECONDS = 10.0
RELIST_SECONDS = 3.0
USER_AGENT = "aios-node"
IMPATIENT = TransportSettings(connect_seconds=1.0, request_seconds=3.0, watch_seconds=3, watch_silence_seconds=5.0)
"""Who is not answered soon tries again."""


def uid(kind: int, number: int) -> str:
    """Of claims (1), orders (2), pods (3) and Agents (4)."""
    return f"11111111-0000-4000-8000-{kind:04d}{number:08d}"


def claim_uid(number: int) -> str:
    return uid(1, number)


def pod_uid(number: int) -> str:
    return uid(3, number)


def agent_name(number: int) -> str:
    return f"agent-{number}"


class World(Protocol):
    """The cluster that a node agent is connected to, and what it calls what there is of each Agent."""

    @property
    def argument(self) -> str:
        """What this program is told of it."""
        ...

    def claim_uid(self, number: int) -> str: ...

    def pod_uid(self, number: int) -> str: ...

    def of_attempt(self, number: int) -> str:
        """The name of the claim and of the pod."""
        ...

    def openings(self, number: int) -> tuple[frozenset[Opening], ...]:
        """Where its order opens the fence, and where the one before did, which may not be heard to be over."""
        ...


class InMemory:
    """So many Agents, each in its first attempt."""

    def __init__(self, agents: int) -> None:
        self.argument = str(agents)
        self.claim_uid, self.pod_uid = claim_uid, pod_uid

    def of_attempt(self, number: int) -> str:
        return f"{agent_name(number)}-1"

    def openings(self, number: int) -> tuple[frozenset[Opening], ...]:
        return (frozenset(),)


def settings_of(directory: Path, hook: Path, http_port: int) -> NodeSettings:
    """Inspections, sweeps and lists come often, so that a look soon finds what they put right."""
    quick = {
        "http_port": http_port,
        "inspection_seconds": 1.0,
        "sweep_seconds": 1.0,
        "probe_seconds": 60.0,
        "mute_seconds": MUTE_SECONDS,
        "relist_seconds": RELIST_SECONDS,
    }
    made: NodeSettings = of_tests("node.support").settings_in(directory, hook, **quick)
    return made


def a_cluster(agents: int) -> FakeCluster:
    """Each Agent holds a share of the one GPU. The orders' statuses say what a node agent before this one has written."""
    support, cluster = of_tests("node.support"), FakeCluster()
    cluster.put(NODES, {"metadata": {"name": support.NODE, "uid": uid(5, 0)}, "status": {"allocatable": {"cpu": "2"}}})
    for number in range(agents):
        order = support.a_runtime(agent_name(number), memory=SHARE, agentUID=uid(4, number))
        order["metadata"]["uid"] = uid(2, number)
        order["status"] = {"claimUID": claim_uid(number), "podUID": pod_uid(number)}
        cluster.put(AGENT_RUNTIMES, order)
        claim = support.a_claim(agent_name(number), memory=SHARE, claim_uid=claim_uid(number), pod_uid=pod_uid(number))
        claim["metadata"]["ownerReferences"][0]["uid"] = uid(2, number)
        cluster.put(RESOURCE_CLAIMS, claim)
    return cluster


async def main(directory: Path, hook: Path, cluster: str, http_port: int) -> None:
    support = of_tests("node.support")
    inventory = NvmlInventory()
    workers = support.a_supervisor(VramSettings(calibrate=False, look_seconds=LOOK_SECONDS), inventory)
    settings = settings_of(directory, hook, http_port)
    client: ClusterClient
    if cluster.isdecimal():
        client = a_cluster(int(cluster))
    else:
        client = await connect(Path(cluster), user_agent=USER_AGENT, settings=IMPATIENT)
    async with support.running(settings, client, inventory=inventory, workers=workers):
        await asyncio.Event().wait()


if __name__ == "__main__":
    other_release.as_told()
    last_change.armed()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))

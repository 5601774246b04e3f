"""A node agent as a process of its own, with real workers on a fake driver, on a cluster in memory that is the same at each start.

python -m aios_bench.faults.node_program DIRECTORY HOOK AGENTS HTTP_PORT
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

from aios_bench.faults.checkout import of_tests
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, NODES, RESOURCE_CLAIMS
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.vram.settings import VramSettings

Object = dict[str, Any]
SHARE = "10Gi"
SHARE_BYTES = 10 << 30
LOOK_SECONDS = 0.2
MUTE_SECONDS = 10.0


def uid(kind: int, number: int) -> str:
    """Of claims (1), orders (2), pods (3) and Agents (4)."""
    return f"11111111-0000-4000-8000-{kind:04d}{number:08d}"


def claim_uid(number: int) -> str:
    return uid(1, number)


def pod_uid(number: int) -> str:
    return uid(3, number)


def agent_name(number: int) -> str:
    return f"agent-{number}"


def settings_of(directory: Path, hook: Path, http_port: int) -> NodeSettings:
    """Inspections and sweeps come often, so that a look soon finds what they put right."""
    quick = {"http_port": http_port, "inspection_seconds": 1.0, "sweep_seconds": 1.0, "probe_seconds": 60.0, "mute_seconds": MUTE_SECONDS}
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


async def main(directory: Path, hook: Path, agents: int, http_port: int) -> None:
    support = of_tests("node.support")
    inventory = support.FixedInventory(support.GPU_A)
    workers = support.a_supervisor(VramSettings(calibrate=False, look_seconds=LOOK_SECONDS), inventory)
    settings = settings_of(directory, hook, http_port)
    async with support.running(settings, a_cluster(agents), inventory=inventory, workers=workers):
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))

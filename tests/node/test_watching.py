"""The whole way on one node: programs in containers say what they use, the fake driver tells it, a worker accounts, the node agent stops.

Containers are played by processes in cgroups named as a kubelet names them; driver library, worker processes and signals are real.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_kube.resources import AGENT_RUNTIMES, EVENTS
from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.contracts.worker import Booked, BookedShare, Reading, Unread, WorkerMessage
from aios_sidecar.node.agent import NodeAgent
from aios_sidecar.node.state import StateFiles
from aios_sidecar.vram.settings import VramSettings
from node.played import Played
from node.support import (
    CLAIM_UID,
    GPU_A,
    NAMESPACE,
    POD_UID,
    FixedInventory,
    Pod,
    a_claim,
    a_cluster,
    a_runtime,
    a_supervisor,
    ask,
    eventually,
    prepare,
    rewrite,
    running,
    settings_in,
    uid,
)

QUICK = VramSettings(calibrate=False, context_mib=100, contexts=2, margin_mib=0, look_seconds=0.2)
NEIGHBOUR = uid(7)


@contextlib.asynccontextmanager
async def supervised(
    *shares: BookedShare,
    inventory: FixedInventory | None = None,
    settings: VramSettings = QUICK,
    contexts: Path = Path("/nonexistent"),
):
    """A supervisor with its workers, and what they said."""
    supervisor, heard = a_supervisor(settings, inventory, contexts), list[WorkerMessage]()
    supervisor.book({GPU_A.uuid: Booked(shares=shares)})
    task = asyncio.create_task(supervisor.run(lambda _, message: heard.append(message)))
    try:
        yield supervisor, heard
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def readings(heard: list[WorkerMessage]) -> list[Reading]:
    return [message for message in heard if isinstance(message, Reading)]


async def test_a_worker_tells_who_uses_what_across_pid_namespaces(driver, play):
    mine, others = play(POD_UID), play(NEIGHBOUR)
    mine.use(300)
    mine.use(200, mine.start())
    others.use(50)
    share = BookedShare(claim_uid=CLAIM_UID, pod_uid=POD_UID, booked_bytes=1024 * MIB)
    async with supervised(share) as (supervisor, heard):
        await eventually(lambda: readings(heard))
        told = readings(heard)[-1]
        assert told.capacity_bytes == 79 * 1024 * MIB
        (use,) = told.uses
        assert (use.used_bytes, use.processes, use.containers) == (500 * MIB, 2, (mine.container,))
        assert (told.used_bytes, told.unattributed_bytes) == (550 * MIB, 50 * MIB)

        supervisor.book({GPU_A.uuid: Booked(shares=(share, BookedShare(claim_uid=uid(8), pod_uid=NEIGHBOUR, booked_bytes=MIB)))})
        await eventually(lambda: readings(heard)[-1].unattributed_bytes == 0)
        mine.processes[1].kill()
        await eventually(lambda: readings(heard)[-1].used_bytes == 350 * MIB)


async def test_a_worker_that_is_killed_or_hangs_is_replaced_and_knows_the_bookings(driver):
    share = BookedShare(claim_uid=CLAIM_UID, pod_uid=POD_UID, booked_bytes=MIB)
    async with supervised(share, settings=VramSettings(calibrate=False, silent_seconds=4)) as (supervisor, heard):
        await eventually(lambda: readings(heard), 30)
        first = supervisor.pids[GPU_A.uuid]
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: any(isinstance(message, Unread) for message in heard))
        heard.clear()
        await eventually(lambda: readings(heard), 30)
        second = supervisor.pids[GPU_A.uuid]
        assert second != first
        os.kill(second, signal.SIGSTOP)
        await eventually(lambda: any(isinstance(m, Unread) and "said nothing for 4 seconds" in m.reason for m in heard))
        heard.clear()
        await eventually(lambda: readings(heard), 30)
        assert readings(heard)[-1].uses[0].claim_uid == CLAIM_UID


async def test_a_driver_in_trouble_is_told_and_heals(driver):
    whole = driver.read_text()
    async with supervised() as (_, heard):
        await eventually(lambda: readings(heard))
        rewrite(driver, "driver error=15\n" + whole)
        await eventually(lambda: isinstance(heard[-1], Unread))
        rewrite(driver, whole)
        await eventually(lambda: isinstance(heard[-1], Reading))


async def test_the_workers_follow_the_gpus_that_there_are_and_end_with_the_supervisor(driver):
    inventory = FixedInventory(GPU_A)
    async with supervised(inventory=inventory) as (supervisor, heard):
        await eventually(lambda: readings(heard))
        inventory.report = type(inventory.report)(absent="the driver is gone")
        await eventually(lambda: heard[-1] == Unread(reason="the driver is gone"))
        await eventually(lambda: not supervisor.pids)
        inventory.report = type(inventory.report)(gpus=(GPU_A,))
        await eventually(lambda: supervisor.pids)
        last = supervisor.pids[GPU_A.uuid]
    assert not Path(f"/proc/{last}").exists()


def condition(cluster, kind: str) -> dict:
    status = cluster.all(AGENT_RUNTIMES)[0].get("status") or {}
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def used(cluster) -> str | None:
    """Of its share, as the order's status says."""
    return ((cluster.all(AGENT_RUNTIMES)[0].get("status") or {}).get("gpu") or {}).get("used")


def metric(agent: NodeAgent, name: str) -> float | None:
    lines = agent.metrics.text().decode().splitlines()
    found = [line for line in lines if line.startswith(f'{name}{{gpu="{GPU_A.uuid}"}} ')]
    return float(found[0].split()[1]) if found else None


async def test_who_takes_more_than_his_share_is_stopped_and_named_and_nobody_else(
    directory: Path, hook: Path, pod: Pod, driver: Path, play: Callable[[str], Played], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("aios_sidecar.node.gpus.USE_SECONDS", 0.1)
    settings, cluster = settings_in(directory, hook), a_cluster(claim=a_claim(memory="1Gi"), runtime=a_runtime(memory="1Gi"))
    greedy, neighbour, foreign = play(POD_UID), play(NEIGHBOUR), play(uid(6))
    neighbour.use(3000)
    foreign.use(5000)
    supervisor = a_supervisor(QUICK)
    async with running(settings, cluster, workers=supervisor) as agent:
        assert not (await prepare(settings)).error
        assert condition(cluster, "EnforcementVerified").get("status") in (None, "Unknown")
        assert (await ask(settings, pod.oci_state())).code == 0
        greedy.use(1000)
        await eventually(lambda: condition(cluster, "EnforcementVerified").get("status") == "True")
        assert condition(cluster, "WithinShare")["status"] == "True"
        await eventually(lambda: used(cluster) == "1000Mi")
        await eventually(lambda: condition(cluster, "EgressFenced").get("status") == "True")
        before = [obj["metadata"]["resourceVersion"] for obj in cluster.all(AGENT_RUNTIMES)]
        await asyncio.sleep(2)
        assert greedy.alive, "what is allowed is not shot at"
        greedy.use(1010)
        await asyncio.sleep(0.5)
        assert [obj["metadata"]["resourceVersion"] for obj in cluster.all(AGENT_RUNTIMES)] == before, "nothing is written at rest"

        began = time.monotonic()
        greedy.use(1500)
        await eventually(lambda: not greedy.alive)
        seconds = time.monotonic() - began
        print(f"stopped {seconds:.2f} s after the allocation")
        await eventually(lambda: condition(cluster, "WithinShare").get("status") == "False")
        said = condition(cluster, "WithinShare")
        assert said["reason"] == "ShareExceeded"
        assert f"used 1500Mi of {GPU_A.uuid}" in said["message"]
        assert "376Mi more than its share of 1Gi and 100Mi for contexts" in said["message"]
        await eventually(lambda: cluster.all(EVENTS))
        (event,) = cluster.all(EVENTS)
        assert (event["regarding"]["kind"], event["regarding"]["namespace"], event["reason"]) == ("Agent", NAMESPACE, "ShareExceeded")
        assert neighbour.alive
        assert foreign.alive
        assert StateFiles(settings.claims_dir).read(CLAIM_UID).excess == said["message"]
        assert metric(agent, "aios_gpu_booked_bytes") == 1024 * MIB
        assert metric(agent, "aios_gpu_capacity_bytes") == 79 * 1024 * MIB
        assert metric(agent, "aios_gpu_shares_exceeded_total") == 1
        assert metric(agent, "aios_gpu_monitored") == 1
        await eventually(lambda: metric(agent, "aios_gpu_used_bytes") == metric(agent, "aios_gpu_unattributed_bytes") == 8000 * MIB)
    async with running(settings, cluster, workers=a_supervisor(QUICK)) as agent:
        await eventually(lambda: metric(agent, "aios_gpu_monitored") == 1 and used(cluster) == "0")
        assert condition(cluster, "WithinShare") == said, "a new node agent remembers"


async def test_a_gpu_that_can_not_be_read_is_said_to_be_unmonitored(directory: Path, hook: Path, pod: Pod, driver: Path, monkeypatch):
    monkeypatch.setattr("aios_sidecar.node.gpus.UNREAD_SECONDS", 3.0)
    settings, cluster = settings_in(directory, hook), a_cluster()
    rewrite(driver, "driver error=15\n" + driver.read_text())
    async with running(settings, cluster, workers=a_supervisor(QUICK)) as agent:
        assert not (await prepare(settings)).error
        assert (await ask(settings, pod.oci_state())).code == 0
        await eventually(lambda: condition(cluster, "EnforcementVerified").get("status") == "False")
        said = condition(cluster, "EnforcementVerified")
        assert said["reason"] == "CannotMonitor"
        assert "GPU is lost" in said["message"]
        assert condition(cluster, "WithinShare")["status"] == "Unknown"
        assert metric(agent, "aios_gpu_monitored") == 0
        assert metric(agent, "aios_gpu_used_bytes") is None, "what is not known is not told"
        assert used(cluster) is None

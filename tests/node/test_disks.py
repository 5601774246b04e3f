"""A disk that is full or read-only, under a node agent and under its next start: agents go on, new ones wait, nothing is half there."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aios_sidecar.node import fence
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.settings import NodeSettings
from node.support import (
    CLAIM_UID,
    GPU_A,
    Pod,
    a_cluster,
    ask,
    eventually,
    prepare,
    rewrite,
    running,
    settings_in,
    socket_answers,
    unprepare,
)
from node.test_gpu_health import XID79, quick, registered, state, taints, watching  # noqa: F401  quick is a fixture

SIZE_KIB = 64


@pytest.fixture
def disk(directory: Path, node_tools: None) -> Iterator[Path]:
    """A disk of its own below the state directory."""
    path = directory / "state"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k,mode=755", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0
    yield
    filler.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


TROUBLES = pytest.mark.parametrize("trouble", [full, read_only])


def is_fenced(pod: Pod) -> bool:
    with NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
        return fence.stands(namespace)


def files_of(settings: NodeSettings) -> list[str]:
    return sorted(path.name for path in settings.claims_dir.iterdir())


@TROUBLES
async def test_no_claim_is_prepared_on_a_disk_that_takes_nothing_and_it_is_once_it_does(directory: Path, hook: Path, disk: Path, trouble):
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        with trouble(disk):
            answer = await prepare(settings)
            assert "could not prepare claim team/agent-1" in answer.error
            assert files_of(settings) == []
            assert not settings.cdi_file(CLAIM_UID).exists()
        assert (await prepare(settings)).error == ""


@TROUBLES
async def test_a_node_agent_starts_on_a_disk_that_takes_nothing_and_serves_who_runs(
    directory: Path, hook: Path, pod: Pod, disk: Path, trouble
):
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
    settings.cdi_file(CLAIM_UID).unlink()
    with trouble(disk):
        async with running(settings, a_cluster()) as agent:
            live = agent.claims.get(CLAIM_UID)
            await eventually(lambda: live.facts.fenced and socket_answers(settings.agent_socket(CLAIM_UID)))
            await eventually(lambda: settings.cdi_file(CLAIM_UID).exists())
    assert is_fenced(pod)


async def test_no_container_starts_of_which_a_full_disk_keeps_nothing_and_what_was_cut_short_is_gone(
    directory: Path, hook: Path, pod: Pod, disk: Path
):
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        with full(disk):
            asking = asyncio.create_task(ask(settings, pod.oci_state()))
            await asyncio.sleep(1)
            assert not asking.done()
            assert files_of(settings) == [f"{CLAIM_UID}.json"]
        assert (await asking).code == 0, "the hook asked again, and the disk takes it now"
        await unprepare(settings)
        assert files_of(settings) == []


@TROUBLES
async def test_a_fault_of_a_gpu_that_can_not_be_written_down_is_published_and_written_later(
    directory: Path, hook: Path, driver: Path, disk: Path, trouble
):
    settings, cluster, whole = settings_in(directory, hook), a_cluster(), driver.read_text()
    async with watching(settings, cluster):
        await registered(settings)
        await eventually(lambda: state(cluster) == "Healthy")
        with trouble(disk):
            rewrite(driver, whole + "event gpu=0 xid=79 at=1\n")
            await eventually(lambda: taints(cluster) == [XID79])
        await eventually(lambda: "79" in (settings.gpus_dir / f"{GPU_A.uuid}.json").read_text())
        assert (await prepare(settings)).error == ""

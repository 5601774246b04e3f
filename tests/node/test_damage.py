"""Files of the node agent that are damaged, removed or left behind: who runs is taken back or ended, and nothing is left of who is gone."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, RESOURCE_CLAIMS
from aios_sidecar.node import cdi, fence
from aios_sidecar.node.conditions import ALL_LISTENERS
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import StateFiles
from node.played import Played
from node.support import (
    CLAIM_UID,
    NAMESPACE,
    POD_UID,
    Pod,
    a_cluster,
    a_pod,
    a_runtime,
    ask,
    eventually,
    prepare,
    running,
    settings_in,
    uid,
    unprepare,
)
from node.test_kills import is_clean
from node.test_restarts import gateway

ASK_ONCE = """
import socket
with socket.create_connection(('127.0.0.1', 2489), 10) as c:
    c.sendall(b'GET /v1/agent HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n')
    print(c.recv(65536).split(b'\\r\\n', 1)[0].decode())
"""


def lose(settings: NodeSettings) -> None:
    shutil.rmtree(settings.claims_dir)


def damage(settings: NodeSettings) -> None:
    path = settings.claims_dir / f"{CLAIM_UID}.json"
    path.write_text(path.read_text().replace('"attempt": 1', '"attempt": 2'))


@pytest.mark.parametrize("harm", [lose, damage])
async def test_a_pod_that_runs_though_its_state_is_lost_is_taken_back_and_answered(
    directory: Path, hook: Path, pod: Pod, play: Callable[[str], Played], harm: Callable[[NodeSettings], None]
):
    settings, cluster = settings_in(directory, hook), a_cluster()
    play(POD_UID).take(pod.pid)
    async with gateway(settings.gateway_socket):
        async with running(settings, cluster) as agent:
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually(lambda: agent.claims.get(CLAIM_UID).facts.serving == ALL_LISTENERS)
            await eventually(lambda: (order(cluster).get("status") or {}).get("podUID") == POD_UID)
        for listener in agent.claims.get(CLAIM_UID).listeners.values():
            listener.close()
        harm(settings)
        async with running(settings, cluster) as agent:
            await eventually(lambda: agent.claims.get(CLAIM_UID) and agent.claims.get(CLAIM_UID).state.pod_uid == POD_UID)
            live = agent.claims.get(CLAIM_UID)
            await eventually(lambda: live.facts.serving == ALL_LISTENERS and live.facts.fenced and live.facts.probe)
            assert live.facts.probe.leaked == []
            assert StateFiles(settings.claims_dir).read(CLAIM_UID) == live.state
            assert await asyncio.to_thread(pod.python, ASK_ONCE) == "HTTP/1.1 200"


async def test_a_pod_that_runs_unknown_and_can_not_be_fenced_is_ended(directory: Path, hook: Path, play: Callable[[str], Played]):
    settings = settings_in(directory, hook)
    order = a_runtime()
    order["status"] = {"claimUID": CLAIM_UID, "podUID": POD_UID}
    container = play(POD_UID)  # in the host's network namespace
    neighbour = play(uid(77))
    for each in (container, neighbour):
        each.use(1)
    async with running(settings, a_cluster(runtime=order)) as agent:
        await eventually(lambda: not container.alive)
        assert neighbour.alive
        await eventually(lambda: agent.claims.get(CLAIM_UID))
        assert agent.claims.get(CLAIM_UID).state.pod_uid is None


async def test_files_of_no_claim_are_removed_and_those_of_a_claim_stay(directory: Path, hook: Path):
    settings = settings_in(directory, hook, sweep_seconds=0.1)
    async with running(settings, a_cluster()) as agent:
        await prepare(settings)
        state = agent.claims.get(CLAIM_UID).state
        cdi.put(settings, state.model_copy(update={"claim_uid": uid(50)}))
        settings.agent_dir(uid(51)).mkdir()
        others = settings.cdi_dir / "vendor.json"
        others.write_text("{}")
        await eventually(lambda: not settings.cdi_file(uid(50)).exists() and not settings.agent_dir(uid(51)).exists())
        assert sorted(path.name for path in settings.cdi_dir.iterdir()) == [settings.cdi_file(CLAIM_UID).name, others.name]
        assert settings.agent_socket(CLAIM_UID).is_socket()


async def test_a_claim_that_is_gone_and_that_no_kubelet_released_is_released(directory: Path, hook: Path):
    settings, cluster = settings_in(directory, hook, sweep_seconds=0.1), a_cluster()
    async with running(settings, cluster) as agent:
        await prepare(settings)
        cluster.remove(AGENT_RUNTIMES, "agent", NAMESPACE)
        await asyncio.sleep(0.5)
        assert agent.claims.get(CLAIM_UID) is not None, "as long as the claim is there, the kubelet may ask"
        cluster.remove(RESOURCE_CLAIMS, "agent-1", NAMESPACE)
        await eventually(lambda: agent.claims.get(CLAIM_UID) is None and is_clean(settings))


@pytest.mark.parametrize("content", [None, "{", '{"cdiVersion": "0.6.0", "kind": "gpu.aios.dev/claim", "devices": []}'])
async def test_a_cdi_file_that_is_removed_or_damaged_under_a_running_agent_is_put_back(directory: Path, hook: Path, content: str | None):
    settings = settings_in(directory, hook, inspection_seconds=0.2)
    async with running(settings, a_cluster()):
        await prepare(settings)
        path = settings.cdi_file(CLAIM_UID)
        whole = path.read_text()
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        await eventually(lambda: path.exists() and path.read_text() == whole)


async def test_a_node_agent_whose_hook_was_removed_is_unhealthy_and_the_next_one_puts_it_back(directory: Path, hook: Path):
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()) as agent:
        assert agent.unhealthy() is None
        settings.hook_path.unlink()
        assert agent.unhealthy() == f"{settings.hook_path} was removed"
    async with running(settings, a_cluster()) as agent:
        assert agent.unhealthy() is None


async def test_after_a_reboot_containers_start_behind_a_new_fence_and_nothing_of_before_is_believed(directory: Path, hook: Path):
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with gateway(settings.gateway_socket):
        with a_pod(1) as before:
            async with running(settings, cluster):
                await prepare(settings)
                assert (await ask(settings, before.oci_state())).code == 0
    shutil.rmtree(settings.run_dir)
    shutil.rmtree(settings.cdi_dir)
    files = StateFiles(settings.claims_dir)
    state = files.read(CLAIM_UID)
    with a_pod(2) as after:
        # A process of another pod may have the pid and the start time that one of ours had before the reboot.
        sandbox = state.sandbox.model_copy(update={"boot_id": "the boot before"})
        files.write(state.with_pod(POD_UID, sandbox))
        async with gateway(settings.gateway_socket), running(settings, cluster) as agent:
            live = agent.claims.get(CLAIM_UID)
            assert settings.cdi_file(CLAIM_UID).exists(), "the kubelet does not prepare again"
            assert live.facts.fenced is None
            with NetworkNamespace(Path(f"/run/netns/{after.name}")) as namespace:
                assert not fence.stands(namespace)
                assert (await ask(settings, after.oci_state())).code == 0
                assert fence.stands(namespace)
            await eventually(lambda: live.facts.serving == ALL_LISTENERS)
            assert await asyncio.to_thread(after.python, ASK_ONCE) == "HTTP/1.1 200"
            await unprepare(settings)
            assert is_clean(settings)


def order(cluster: FakeCluster) -> dict:
    return cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)

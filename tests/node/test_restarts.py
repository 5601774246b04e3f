"""Node agent and gateway as they are shipped, killed in turns while a pod keeps asking: its listeners are never gone."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES
from aios_sidecar.node import fence
from aios_sidecar.node.conditions import ALL_LISTENERS
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.sandbox import Processes
from aios_sidecar.node.state import StateFiles
from node.support import CLAIM_UID, NAMESPACE, POD_UID, Pod, a_cluster, a_pod, ask, eventually, prepare, running, settings_in
from node.test_kills import node_agent

ASK_FOR_EVER = """
import json, socket, sys, time
answers = refused = broken = 0
end = time.monotonic() + 300
while time.monotonic() < end:
    try:
        with socket.create_connection(('127.0.0.1', 2489), 10) as c:
            c.sendall(b'GET /v1/agent HTTP/1.1\\r\\nHost: 127.0.0.1:2489\\r\\nConnection: close\\r\\n\\r\\n')
            answer = b''
            while part := c.recv(65536):
                answer += part
            if b'200' in answer.split(b'\\r\\n', 1)[0] and json.loads(answer.partition(b'\\r\\n\\r\\n')[2]):
                answers += 1
            else:
                broken += 1
    except ConnectionRefusedError:
        refused += 1
    except OSError:
        broken += 1
    print(answers, refused, broken, flush=True)
    time.sleep(0.01)
"""


async def test_listeners_survive_the_end_of_either_side(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    asking = None
    async with gateway(settings.gateway_socket) as first:
        async with node_agent(directory, hook):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            asking = await asyncio.create_subprocess_exec(
                "ip", "netns", "exec", pod.name, sys.executable, "-c", ASK_FOR_EVER, stdout=asyncio.subprocess.PIPE
            )
            assert (await counts_after(asking, 20))[1] == 0
        assert (await counts_after(asking, 20))[1:] == (0, 0), "the node agent is gone, the gateway serves on"
        async with node_agent(directory, hook) as second:
            assert await second.stdout.readline() == b"listeners are back\n", "it took them from the gateway"
            assert (await counts_after(asking, 20))[1:] == (0, 0)
            first.kill()
            await first.wait()
            async with gateway(settings.gateway_socket):
                _, refused, broken = await counts_after(asking, 50)
                assert refused == 0, "while there was no gateway, connections waited for the next one"
                assert broken <= 1, "only the request that the killed gateway was answering"
    asking.kill()
    await asking.wait()


async def test_both_gone_at_once_are_both_restored(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with gateway(settings.gateway_socket), node_agent(directory, hook):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
    async with gateway(settings.gateway_socket), node_agent(directory, hook):
        asking = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", pod.name, sys.executable, "-c", ASK_FOR_EVER, stdout=asyncio.subprocess.PIPE
        )
        assert (await counts_after(asking, 5))[0] >= 4, "the listener was opened anew in the namespace of a container that lives"
        asking.kill()
        await asking.wait()


async def test_a_state_file_that_was_damaged_is_kept_and_the_claim_prepared_anew(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
    path = settings.claims_dir / f"{CLAIM_UID}.json"
    whole = path.read_text()
    path.write_text(whole.replace('"attempt": 1', '"attempt": 2'))
    damaged = path.read_text()
    settings.cdi_file(CLAIM_UID).unlink()
    async with running(settings, cluster) as agent:
        async with asyncio.timeout(60):
            while agent.claims.get(CLAIM_UID) is None or not settings.cdi_file(CLAIM_UID).exists():
                await asyncio.sleep(0.02)
        assert (settings.claims_dir / f"{CLAIM_UID}.json.unreadable-1").read_text() == damaged
        assert json.loads(path.read_text())["claim"]["attempt"] == 1
        assert b"aios_node_damaged_state_files_total 1.0" in agent.metrics.text()
        assert (await ask(settings, pod.oci_state())).code == 0


async def test_a_restart_changes_no_condition_of_an_agent_that_runs(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, handback_seconds=10.0), a_cluster()
    async with gateway(settings.gateway_socket):
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually(lambda: words(cluster) == {"Prepared": "True", "Fenced": "True", "Listening": "True"})
        written = len(cluster.writes())
        async with running(settings, cluster) as agent:
            live = agent.claims.get(CLAIM_UID)
            await eventually(lambda: live.facts.fenced and live.facts.serving == ALL_LISTENERS)
            await asyncio.sleep(0.3)
        said = [call.body["status"]["conditions"] for call in cluster.writes()[written:] if call.resource == AGENT_RUNTIMES]
        assert [statuses(conditions) for conditions in said if statuses(conditions) != words(cluster)] == []


async def test_a_listener_of_a_sandbox_that_is_gone_is_not_taken_for_that_of_the_next(directory: Path, hook: Path, pod: Pod) -> None:
    """Killed when a new sandbox of the pod was fenced and named in the state, and its listener was not open yet."""
    settings = settings_in(directory, hook)
    async with gateway(settings.gateway_socket):
        async with running(settings, a_cluster()) as agent:
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            live = agent.claims.get(CLAIM_UID)
            await eventually(lambda: live.facts.serving == ALL_LISTENERS)
            state = live.state
        with a_pod(2) as again:
            with NetworkNamespace.of_process(again.pid) as namespace:
                fence.ensure(namespace)
                StateFiles(settings.claims_dir).write(state.with_pod(POD_UID, Processes().sandbox(again.pid, namespace, None)))
            async with running(settings, a_cluster()) as agent:
                await eventually(lambda: agent.claims.get(CLAIM_UID).facts.fenced)
                asking = await asyncio.create_subprocess_exec(
                    "ip", "netns", "exec", again.name, sys.executable, "-c", ASK_FOR_EVER, stdout=asyncio.subprocess.PIPE
                )
                assert (await counts_after(asking, 3))[0] >= 3
                asking.kill()
                await asking.wait()


def words(cluster: FakeCluster) -> dict[str, str]:
    """What the order's status says of the agent's start."""
    runtime = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)
    return statuses((runtime.get("status") or {}).get("conditions", []))


def statuses(conditions: list[dict[str, str]]) -> dict[str, str]:
    """Of the conditions of a start; what is read of the GPU later begins anew with each node agent."""
    return {item["type"]: item["status"] for item in conditions if item["type"] in ("Prepared", "Fenced", "Listening")}


async def counts_after(asking: asyncio.subprocess.Process, answers: int) -> tuple[int, int, int]:
    """Answers, refused connections, broken requests: as soon as so many more answers came."""
    assert asking.stdout is not None
    wanted: int | None = None
    async with asyncio.timeout(60):
        while line := await asking.stdout.readline():
            came, refused, broken = map(int, line.split())
            wanted = came - 1 + answers if wanted is None else wanted
            if came >= wanted:
                return came, refused, broken
    raise AssertionError("the pod stopped asking")


@asynccontextmanager
async def gateway(
    node_socket: Path, program: Sequence[str] = ("-c", "from aios_sidecar.gateway.main import main; main()"), **settings: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The gateway's program; killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        env={
            **os.environ,
            "AIOS_GATEWAY_NODE_SOCKET": str(node_socket),
            "AIOS_GATEWAY_NODE_UID": str(os.geteuid()),
            "AIOS_GATEWAY_METRICS_PORT": "0",
            **settings,
        },
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()

"""A node that is cut off falls silent by itself, and speaks again when it is heard: node agent and gateway as they are shipped."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_api import names
from aios_kube.errors import Unreachable
from aios_kube.fake import Call, FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, LEASES
from aios_sidecar.node.conditions import ALL_LISTENERS
from node.support import CLAIM_UID, NAMESPACE, NODE, Pod, a_cluster, ask, eventually, prepare, running, settings_in
from node.test_restarts import gateway

MUTE_SECONDS = 2.0
MUTE = {"AIOS_GATEWAY_MUTE_SECONDS": str(MUTE_SECONDS)}


def answer(path: Path, seconds: float = 60) -> tuple[int, str]:
    """What the agent gets for a question on its socket: the code, and its own name or the reason."""
    connection = http.client.HTTPConnection("aios")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(seconds)
    try:
        connection.sock.connect(str(path))
        connection.request("GET", "/v1/agent", headers={"Connection": "close"})
        response = connection.getresponse()
        body = json.loads(response.read())
        return response.status, body["reason"] if response.status != 200 else body["identity"]["name"]
    finally:
        connection.close()


ANSWERED, SILENT = (200, "agent"), (503, "Mute")


async def eventually_answers(path: Path, expected: tuple[int, str]) -> None:
    async with asyncio.timeout(60):
        while await asyncio.to_thread(answer, path) != expected:
            await asyncio.sleep(0.05)


def partition(cluster: FakeCluster, part: Callable[[Call], bool]) -> None:
    cluster.refuse.append(lambda call: Unreachable("cut off") if part(call) else None)
    cluster.end_watches()


async def test_a_node_without_the_api_server_goes_mute_and_speaks_again_when_it_is_back(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, mute_seconds=MUTE_SECONDS), a_cluster()
    path = settings.agent_socket(CLAIM_UID)
    async with gateway(settings.gateway_socket, **MUTE), running(settings, cluster) as agent:
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        await eventually_answers(path, ANSWERED)
        assert cluster.peek(LEASES, names.node_lease_name(NODE), settings.namespace)["spec"]["holderIdentity"] == NODE
        await asyncio.sleep(2 * MUTE_SECONDS)
        await eventually_answers(path, ANSWERED)  # at rest it is made fresh again and again; nothing else would do that
        for part in (lambda call: True, lambda call: call.resource == LEASES, lambda call: call.resource == AGENT_RUNTIMES):
            partition(cluster, part)
            await eventually_answers(path, SILENT)
            await eventually(lambda: b"aios_node_fresh_seconds 0.0" in agent.metrics.text())
            cluster.refuse.clear()
            await eventually_answers(path, ANSWERED)


async def test_a_node_agent_that_is_gone_silences_its_agents_and_the_next_one_does_not(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, mute_seconds=MUTE_SECONDS), a_cluster()
    path = settings.agent_socket(CLAIM_UID)
    async with gateway(settings.gateway_socket, **MUTE):
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually_answers(path, ANSWERED)
            began = time.monotonic()
        said, took = await asyncio.to_thread(answer, path), time.monotonic() - began
        assert said == ANSWERED or took > MUTE_SECONDS / 2, "a restart alone mutes nobody"
        async with running(settings, cluster):
            await asyncio.sleep(2 * MUTE_SECONDS)
            await eventually_answers(path, ANSWERED)
        await eventually_answers(path, SILENT)
        async with running(settings, cluster):
            await eventually_answers(path, ANSWERED)


async def test_a_gateway_that_starts_while_the_api_server_is_away_answers_nobody(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, mute_seconds=MUTE_SECONDS), a_cluster()
    path = settings.agent_socket(CLAIM_UID)
    async with running(settings, cluster):
        async with gateway(settings.gateway_socket, **MUTE):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually_answers(path, ANSWERED)
        partition(cluster, lambda call: True)
        await asyncio.sleep(MUTE_SECONDS)
        async with gateway(settings.gateway_socket, **MUTE):
            assert await asyncio.to_thread(answer, path) == SILENT
            cluster.refuse.clear()
            await eventually_answers(path, ANSWERED)


@pytest.mark.parametrize("moved", ["removed", "another attempt"])
async def test_an_attempt_whose_order_went_away_is_answered_no_more_while_its_pod_still_runs(
    directory: Path, hook: Path, pod: Pod, moved: str
) -> None:
    settings, cluster = settings_in(directory, hook, mute_seconds=MUTE_SECONDS), a_cluster()
    path = settings.agent_socket(CLAIM_UID)
    async with gateway(settings.gateway_socket, **MUTE):
        async with running(settings, cluster) as agent:
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually_answers(path, ANSWERED)
            live = agent.claims.get(CLAIM_UID)
            await eventually(lambda: live.facts.serving == ALL_LISTENERS)
            if moved == "removed":
                cluster.remove(AGENT_RUNTIMES, "agent", NAMESPACE)
            else:
                cluster.alter(AGENT_RUNTIMES, "agent", {"spec": {"attempt": 2}}, NAMESPACE)
            await eventually(lambda: live.facts.serving == frozenset())
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(answer, path, 0.5)
            await asyncio.sleep(MUTE_SECONDS)
            assert live.facts.serving == frozenset(), "it stays so"
        async with running(settings, cluster):
            await asyncio.sleep(MUTE_SECONDS)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(answer, path, 0.5)
        partition(cluster, lambda call: True)
        async with running(settings, cluster) as agent:
            await eventually(lambda: (known := agent.claims.get(CLAIM_UID)) is not None and known.listeners)
            await asyncio.sleep(1)
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(answer, path, 0.5)

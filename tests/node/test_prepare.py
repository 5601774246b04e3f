"""The kubelet's requests, over its own protocol, against a cluster in memory."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from aios_kube.errors import Unreachable
from aios_kube.resources import AGENT_RUNTIMES, RESOURCE_CLAIMS
from aios_sidecar.contracts.gpus import GPU
from aios_sidecar.node._proto import registration_pb2, registration_pb2_grpc
from node.support import (
    CLAIM_UID,
    GPU_A,
    NAMESPACE,
    NODE,
    a_claim,
    a_cluster,
    a_runtime,
    eventually,
    prepare,
    running,
    settings_in,
    socket_answers,
    uid,
    unprepare,
)

UNOWNED = {"namespace": NAMESPACE, "name": "agent-1", "uid": CLAIM_UID}
REAL = GPU(uuid="GPU-bbbbbbbb-0000-4000-8000-000000000002", model="H100", index=0, memory_mib=81920)


async def test_the_kubelet_finds_the_driver(directory: Path, hook: Path) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()) as agent:
        assert agent.unready() == "the kubelet has not registered the driver yet"
        async with grpc.aio.insecure_channel(f"unix:{settings.registration_socket}") as channel:
            kubelet = registration_pb2_grpc.RegistrationStub(channel)
            info = await kubelet.GetInfo(registration_pb2.InfoRequest())
            await kubelet.NotifyRegistrationStatus(registration_pb2.RegistrationStatus(plugin_registered=True))
        assert (info.type, info.name, info.endpoint) == ("DRAPlugin", "gpu.aios.dev", str(settings.plugin_socket))
        assert list(info.supported_versions) == ["v1.DRAPlugin"]
        await eventually(lambda: agent.unready() is None)
        assert settings.hook_path.read_bytes() == hook.read_bytes()
    assert settings.registration_socket.exists(), "its removal would tell the kubelet that the driver was uninstalled"


async def test_a_prepared_claim_has_state_socket_and_cdi_device(directory: Path, hook: Path) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        answer = await prepare(settings)
        assert answer.error == ""
        assert [(list(d.request_names), d.pool_name, d.device_name, d.share_id, list(d.cdi_device_ids)) for d in answer.devices] == [
            (["runtime"], NODE, "runtime", uid(90), [f"gpu.aios.dev/claim={CLAIM_UID}"]),
            (["gpu"], NODE, f"gpu-{GPU_A.uuid.removeprefix('GPU-')}", uid(91), []),
        ]
        assert socket_answers(settings.agent_socket(CLAIM_UID))
        edits = json.loads(settings.cdi_file(CLAIM_UID).read_text())["devices"][0]["containerEdits"]
        assert "AIOS_AGENT=team/agent" in edits["env"]
        assert "NVIDIA_VISIBLE_DEVICES=void" in edits["env"]
        assert edits["mounts"][0]["hostPath"] == str(settings.agent_dir(CLAIM_UID))
        assert "ro" in edits["mounts"][0]["options"]
        assert edits["hooks"] == [
            {"hookName": "createRuntime", "path": str(settings.hook_path), "args": ["aios-hook", str(settings.hook_socket), CLAIM_UID]}
        ]
        status = await status_with(cluster, "Prepared", "True")
        assert (status["claimUID"], status["attempt"], status["nodeName"], status["contractVersion"]) == (CLAIM_UID, 1, NODE, 1)
        assert (await prepare(settings)) == answer, "a second request finds the same"


async def test_releasing_leaves_nothing_and_needs_no_api_server(directory: Path, hook: Path) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        await prepare(settings)
        cluster.refuse.append(lambda call: Unreachable("the API server is away"))
        assert (await unprepare(settings)).error == ""
        assert (await unprepare(settings)).error == "", "a claim that is not prepared is released already"
    for path in (settings.claims_dir, settings.cdi_dir, settings.run_dir / "agents"):
        assert list(path.iterdir()) == []


async def test_prepare_waits_for_allocation_and_order(directory: Path, hook: Path) -> None:
    settings = settings_in(directory, hook, prepare_seconds=10.0)
    cluster = a_cluster(claim=a_claim(allocated=False), runtime=a_runtime(nodeName="node-b"))
    async with running(settings, cluster):
        asked = asyncio.create_task(prepare(settings))
        await asyncio.sleep(0.3)
        cluster.put(RESOURCE_CLAIMS, a_claim())
        await asyncio.sleep(0.3)
        assert not asked.done()
        cluster.put(AGENT_RUNTIMES, a_runtime())
        assert (await asked).error == ""


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ({"claim": a_claim(allocated=False)}, "claim team/agent-1 is not allocated (waited 1 s)"),
        ({"runtime": a_runtime(claimName="agent-2")}, "AgentRuntime team/agent orders claim agent-2, not agent-1"),
        ({"runtime": a_runtime(nodeName="node-b")}, "no order for node node-a"),
        ({"runtime": a_runtime(gpu=None)}, "its order names no GPU"),
        ({"claim": a_claim(gpu=None)}, "as its order says"),
        ({"claim": a_claim(claim_uid=uid(7))}, "is another one now"),
        (
            {"claim": {**a_claim(), "metadata": {"namespace": NAMESPACE, "name": "agent-1", "uid": CLAIM_UID}}},
            "must be owned by exactly one",
        ),
    ],
)
async def test_a_claim_that_can_not_be_prepared_says_why(directory: Path, hook: Path, cluster: dict[str, Any], sentence: str) -> None:
    settings = settings_in(directory, hook, prepare_seconds=1.0)
    async with running(settings, a_cluster(**cluster)):
        assert sentence in (await prepare(settings)).error
        assert list(settings.claims_dir.iterdir()) == []
        assert not settings.cdi_file(CLAIM_UID).exists()


async def test_a_failed_preparation_is_in_the_status_until_it_succeeds(directory: Path, hook: Path) -> None:
    settings, cluster = settings_in(directory, hook, prepare_seconds=0.5), a_cluster(claim=a_claim(allocated=False))
    async with running(settings, cluster):
        await prepare(settings)
        status = await status_with(cluster, "Prepared", "False")
        assert next(c for c in status["conditions"] if c["type"] == "Prepared")["reason"] == "PrepareFailed"
        cluster.put(RESOURCE_CLAIMS, a_claim())
        assert (await prepare(settings)).error == ""
        await status_with(cluster, "Prepared", "True")


async def test_the_claim_of_a_missing_api_server_is_refused_in_time(directory: Path, hook: Path) -> None:
    settings, cluster = settings_in(directory, hook, prepare_seconds=1.0), a_cluster()
    async with running(settings, cluster):
        cluster.refuse.append(lambda call: Unreachable("connection refused"))
        assert "connection refused (waited 1 s)" in (await prepare(settings)).error


async def test_a_release_ends_a_preparation_that_waits(directory: Path, hook: Path) -> None:
    settings, cluster = settings_in(directory, hook, prepare_seconds=30.0), a_cluster(claim=a_claim(allocated=False))
    async with running(settings, cluster):
        asked = asyncio.create_task(prepare(settings))
        await eventually(lambda: [call for call in cluster.calls if call.verb == "get" and call.resource == RESOURCE_CLAIMS])
        assert (await unprepare(settings)).error == ""
        assert "was released while it was being prepared" in (await asked).error
        cluster.put(RESOURCE_CLAIMS, a_claim())
        await asyncio.sleep(1.2)
        assert list(settings.claims_dir.iterdir()) == []


async def test_many_requests_for_one_claim_at_once_prepare_it_once(directory: Path, hook: Path) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        answers = await asyncio.gather(*(prepare(settings) for _ in range(20)))
        assert all(answer == answers[0] and answer.error == "" for answer in answers)
        await asyncio.gather(*(unprepare(settings) for _ in range(5)), *(prepare(settings) for _ in range(5)))
        await unprepare(settings)
        assert list(settings.claims_dir.iterdir()) == list(settings.cdi_dir.iterdir()) == []


async def test_a_real_gpu_needs_the_cdi_file_of_its_vendor(directory: Path, hook: Path) -> None:
    settings = settings_in(directory, hook, prepare_seconds=0.5)
    cluster = a_cluster(claim=a_claim(gpu=REAL), runtime=a_runtime(gpu=REAL))
    async with running(settings, cluster, REAL):
        assert "nvidia-ctk cdi generate --device-name-strategy=uuid" in (await prepare(settings)).error
        vendor = settings.vendor_cdi_dirs[1]
        vendor.mkdir()
        (vendor / "broken.yaml").write_text("kind: [")
        (vendor / "nvidia.yaml").write_text(
            f"cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: {REAL.uuid}\n  containerEdits: {{}}\n"
        )
        answer = await prepare(settings)
        assert [list(device.cdi_device_ids) for device in answer.devices] == [
            [f"gpu.aios.dev/claim={CLAIM_UID}", f"nvidia.com/gpu={REAL.uuid}"],
            [],
        ]


async def test_uids_that_are_no_uids_reach_no_path(directory: Path, hook: Path) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        assert "is not a uid" in (await prepare(settings, claim_uid="../../etc/passwd")).error
        assert "is not the uid of a claim" in (await unprepare(settings, claim_uid="../claims")).error


async def status_with(cluster: Any, kind: str, status: str) -> dict[str, Any]:
    """The order's status once this condition has this status."""

    def found() -> bool:
        runtime = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)
        known = (runtime.get("status") or {}).get("conditions") or []
        return any((condition["type"], condition["status"]) == (kind, status) for condition in known)

    await eventually(found)
    result: dict[str, Any] = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)["status"]
    return result

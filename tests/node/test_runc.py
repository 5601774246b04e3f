"""The hook as runc runs it: a real container, whose process starts only behind a fence that stands."""

import asyncio
import json
import shutil
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from aios_sidecar.node import fence
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.settings import NodeSettings
from node.support import CLAIM_UID, NAMESPACE, POD_UID, Pod, a_cluster, prepare, running, settings_in, uid

BUSYBOX = Path("/bin/busybox")

pytestmark = pytest.mark.skipif(not shutil.which("runc") or not BUSYBOX.exists(), reason="runc and busybox-static are not installed")


async def test_the_containers_process_starts_after_the_fence(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        done = await run_container(settings, directory / "c", pod, POD_UID)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["AIOS_AGENT=team/agent", "agent.sock", "unreachable"]
        with NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
            assert fence.stands(namespace)


async def test_a_refused_container_never_runs(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        done = await run_container(settings, directory / "c", pod, uid(99))
        assert done.returncode != 0
        assert done.stdout == ""
        assert "is not reserved for pod agent-1 with uid" in done.stderr


async def run_container(settings: NodeSettings, bundle: Path, pod: Pod, pod_uid: str) -> subprocess.CompletedProcess[str]:
    """A container of the pod, with the edits of the claim's CDI file as the runtime applies them."""
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    (bundle / "rootfs" / "run" / "aios").mkdir(parents=True)
    shutil.copy(BUSYBOX, bundle / "rootfs" / "bin" / "sh")
    edits = json.loads(settings.cdi_file(CLAIM_UID).read_text())["devices"][0]["containerEdits"]
    name = f"aiostest-{uuid.uuid4().hex[:8]}"
    command = ["runc", "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name]
    with socket.create_server((pod.outside4, 0)) as outside:
        (bundle / "config.json").write_text(json.dumps(config(edits, pod, pod_uid, outside.getsockname()[1])))
        return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def config(edits: dict[str, Any], pod: Pod, pod_uid: str, port: int) -> dict[str, Any]:
    script = f"env | grep AIOS_AGENT; ls /run/aios; nc -w 5 {pod.outside4} {port} </dev/null 2>/dev/null || echo unreachable"
    mount = edits["mounts"][0]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin", *edits["env"]],
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": mount["containerPath"], "type": mount["type"], "source": mount["hostPath"], "options": mount["options"]},
        ],
        "annotations": {
            "io.kubernetes.cri.sandbox-uid": pod_uid,
            "io.kubernetes.cri.sandbox-name": "agent-1",
            "io.kubernetes.cri.sandbox-namespace": NAMESPACE,
        },
        "hooks": {found["hookName"]: [{"path": found["path"], "args": found["args"]}] for found in edits["hooks"]},
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "mount"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "network", "path": f"/run/netns/{pod.name}"},
            ],
            "cgroupsPath": f"/aiostest-{uuid.uuid4().hex[:8]}",
        },
    }

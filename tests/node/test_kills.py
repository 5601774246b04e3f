"""kill -9 of the node agent at every step of prepare, hook and release: the next one ends where an undisturbed one would have."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from aios_sidecar.node import fence
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.settings import NodeSettings
from node.support import CLAIM_UID, Pod, ask, prepare, settings_in, socket_answers, unprepare

TESTS = Path(__file__).parents[1]

PREPARE = [
    "aios_sidecar.node.files:sync_directory:before:2",
    "aios_sidecar.node.state:write_atomically:after:1",
    "aios_sidecar.node.endpoints:listen_on_socket:after:1",
    "aios_sidecar.node.cdi:write_atomically:before:1",
    "aios_sidecar.node.cdi:write_atomically:after:1",
]
HOOK = [
    "aios_sidecar.node.fence:_transaction:before:1",
    "aios_sidecar.node.state:write_atomically:before:2",
    "aios_sidecar.node.state:write_atomically:after:2",
    "aios_sidecar.node.endpoints:listen_on_loopback:after:1",
]
RELEASE = [
    "aios_sidecar.node.preparer:remove:after:1",
    "aios_sidecar.node.live:LiveClaims.drop:after:1",
    "shutil:rmtree:after:1",
    "aios_sidecar.node.state:remove:after:1",
]


@pytest.mark.parametrize("point", PREPARE)
async def test_killed_while_preparing(directory: Path, hook: Path, pod: Pod, point: str) -> None:
    settings = settings_in(directory, hook)
    async with node_agent(directory, hook, point) as doomed:
        with pytest.raises(grpc.aio.AioRpcError):
            await prepare(settings)
        assert await doomed.wait() == -signal.SIGKILL
    async with node_agent(directory, hook):
        answer = await prepare(settings)
        assert (answer.error, len(answer.devices)) == ("", 2)
        assert is_prepared(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        await unprepare(settings)
        assert is_clean(settings)


@pytest.mark.parametrize("point", HOOK)
async def test_killed_while_the_hook_asks(directory: Path, hook: Path, pod: Pod, point: str) -> None:
    settings = settings_in(directory, hook)
    async with node_agent(directory, hook, point) as doomed:
        await prepare(settings)
        asking = asyncio.create_task(ask(settings, pod.oci_state()))
        assert await doomed.wait() == -signal.SIGKILL
        assert not asking.done(), "no container starts without an answer"
    async with node_agent(directory, hook):
        answer = await asking
        assert (answer.code, answer.error) == (0, "")
        with NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
            assert fence.stands(namespace)
        assert is_prepared(settings)
        assert pod.python("import socket; socket.create_connection(('127.0.0.1', 2489), 5); print('connected')") == "connected"


@pytest.mark.parametrize("point", RELEASE)
async def test_killed_while_releasing(directory: Path, hook: Path, point: str) -> None:
    settings = settings_in(directory, hook)
    async with node_agent(directory, hook, point) as doomed:
        await prepare(settings)
        with pytest.raises(grpc.aio.AioRpcError):
            await unprepare(settings)
        assert await doomed.wait() == -signal.SIGKILL
    async with node_agent(directory, hook):
        assert (await unprepare(settings)).error == ""
        assert is_clean(settings)


@asynccontextmanager
async def node_agent(directory: Path, hook: Path, *point: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, started and answering; killed at the end of the block if it lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(TESTS / "node" / "node_process.py"),
        str(directory),
        str(hook),
        *point,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"started\n"
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def is_prepared(settings: NodeSettings) -> bool:
    """State, socket and CDI file are there and whole."""
    state = json.loads((settings.claims_dir / f"{CLAIM_UID}.json").read_text())
    cdi = json.loads(settings.cdi_file(CLAIM_UID).read_text())
    return (
        state["claim"]["claim_uid"] == CLAIM_UID
        and cdi["devices"][0]["name"] == CLAIM_UID
        and socket_answers(settings.agent_socket(CLAIM_UID))
    )


def is_clean(settings: NodeSettings) -> bool:
    """Nothing of any claim is left, not even of a write that was interrupted."""
    places = (settings.claims_dir, settings.cdi_dir, settings.run_dir / "agents")
    return [path for place in places for path in place.iterdir()] == []

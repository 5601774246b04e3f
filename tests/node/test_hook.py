"""What happens when a container is created: the real hook, real network namespaces, real nftables."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aios_kube.errors import Unreachable
from aios_kube.resources import AGENT_RUNTIMES, EVENTS, RESOURCE_CLAIMS
from aios_sidecar.node import fence
from node.fencing import standing
from node.support import (
    CLAIM_UID,
    NAMESPACE,
    POD_UID,
    Pod,
    a_claim,
    a_cluster,
    a_pod,
    a_runtime,
    ask,
    condition,
    eventually,
    oci_state,
    prepare,
    running,
    settings_in,
    uid,
)

UNFIT = b'{"nftables": [{"flush": {"chain": {"family": "inet", "table": "aios", "name": "none"}}}]}'
ASK_AS_NOBODY = """
import os, socket, sys
os.setuid(65534)
hook = socket.socket(socket.AF_UNIX)
hook.connect(sys.argv[1])
answer = b''
try:
    hook.sendall(sys.argv[2].encode() + b'\\n' + sys.stdin.buffer.read())
    hook.shutdown(socket.SHUT_WR)
    answer = hook.recv(100)
except OSError:
    pass  # closed before it was asked
print('asked and got', answer)
"""


async def test_a_container_starts_behind_the_fence_with_its_listener_open(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster) as agent:
        await prepare(settings)
        answer = await ask(settings, pod.oci_state())
        assert (answer.code, answer.error) == (0, "")
        assert standing(pod)
        assert pod.python("import socket; socket.create_connection(('127.0.0.1', 2489), 5); print('connected')") == "connected"
        live = agent.claims.get(CLAIM_UID)
        assert live is not None
        assert set(live.listeners) == {"socket", "loopback"}
        second = await ask(settings, pod.oci_state(pid=pod.container()))
        assert second.code == 0
        assert second.seconds < 1.0
        assert live.state.sandbox is not None
        assert len(live.state.sandbox.processes) == 2
        await eventually(lambda: condition(cluster, "Fenced") == ("True", "Fenced"))
        assert condition(cluster, "Listening") == ("False", "GatewayAbsent")


async def test_nothing_gets_out_and_it_fails_at_once(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    with outside(pod) as (port, _):
        assert pod.python(reach("AF_INET", pod.outside4, port)) == "reached", "without the fence the test's world must be reachable"
        assert pod.python(reach("AF_INET6", pod.outside6, port)) == "reached"
        async with running(settings, a_cluster()):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            assert pod.python(reach("AF_INET", pod.outside4, port)) == "refused at once"
            assert pod.python(reach("AF_INET6", pod.outside6, port)) == "refused at once"


async def test_no_datagram_gets_out(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    with outside(pod) as (port, datagrams):
        pod.python(shout("AF_INET", pod.outside4, port))
        assert datagrams.recv(100) == b"hello"
        async with running(settings, a_cluster()):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            assert pod.python(shout("AF_INET", pod.outside4, port)) == "refused at once"
            assert pod.python(shout("AF_INET6", pod.outside6, port)) == "refused at once"
            datagrams.settimeout(0.3)
            with pytest.raises(TimeoutError):
                datagrams.recv(100)


async def test_nothing_gets_in(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    serve = [sys.executable, "-m", "http.server", "8080", "--bind", "::"]
    inner = subprocess.Popen(["ip", "netns", "exec", pod.name, *serve], stderr=subprocess.DEVNULL)
    try:
        address = ".".join([*pod.outside4.split(".")[:3], "2"])
        await eventually(lambda: reachable(address, 8080))
        async with running(settings, a_cluster()):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            assert not reachable(address, 8080)
    finally:
        inner.kill()
        inner.wait()


async def test_a_fence_that_somebody_changed_is_raised_anew(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        changes = (
            "insert rule inet aios output accept",
            "flush chain inet aios output",
            "add chain inet aios more",
            "delete table inet aios",
        )
        for change in changes:
            assert (await ask(settings, pod.oci_state())).code == 0
            subprocess.run(["ip", "netns", "exec", pod.name, "nft", *change.split()], check=True)
            assert not standing(pod), change
        assert (await ask(settings, pod.oci_state())).code == 0
        assert standing(pod)


async def test_a_pod_in_the_hosts_network_is_refused(directory: Path, hook: Path) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        await prepare(settings)
        answer = await ask(settings, oci_state(os.getpid()))
        assert answer.code == 1
        assert "must have a network namespace of its own" in answer.error
        unknown = settings_in(directory, hook, host_namespace_paths=())
    async with running(unknown, cluster):
        by_the_hooks_own = await ask(unknown, oci_state(os.getpid()))
        assert "must have a network namespace of its own" in by_the_hooks_own.error
    assert subprocess.run(["nft", "list", "table", "inet", "aios"], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"pod_uid": uid(99)}, "is not reserved for pod agent-1 with uid"),
        ({"pod_name": "other-1"}, "is for pod team/agent-1, not for team/other-1"),
    ],
)
async def test_another_pod_is_refused(directory: Path, hook: Path, pod: Pod, state: dict[str, str], sentence: str) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        answer = await ask(settings, pod.oci_state(**state))
        assert (answer.code, sentence in answer.error) == (1, True), answer.error
        assert not standing(pod)


async def test_a_claim_serves_one_pod_in_its_life(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        cluster.put(RESOURCE_CLAIMS, a_claim(pod_uid=uid(99)))
        assert "serves the pod with uid" in (await ask(settings, pod.oci_state(pod_uid=uid(99)))).error


async def test_an_unprepared_claim_a_new_order_and_nonsense_are_refused(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster) as agent:
        assert "is not prepared on node node-a" in (await ask(settings, pod.oci_state())).error
        assert "must begin with the uid of a claim" in (await ask(settings, pod.oci_state(), claim_uid="../x")).error
        await prepare(settings)
        assert "must carry the annotation io.kubernetes.cri.sandbox-uid" in (await ask(settings, b'{"pid": 1, "annotations": {}}')).error
        assert "the OCI state is not JSON" in (await ask(settings, b"{")).error
        assert "pid" in (await ask(settings, json.dumps({"pid": 0, "annotations": {}}).encode())).error
        cluster.put(AGENT_RUNTIMES, a_runtime(attempt=2))
        await eventually(lambda: [order.spec.attempt for order in agent.orders.all()] == [2])
        assert "orders claim agent-2 now" in (await ask(settings, pod.oci_state())).error
        cluster.remove(AGENT_RUNTIMES, "agent", NAMESPACE)
        await eventually(lambda: not agent.orders.all())
        assert "does not order anything on node node-a any more" in (await ask(settings, pod.oci_state())).error


async def test_without_the_api_server_known_pods_restart_and_unknown_ones_wait(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        await prepare(settings)
        cluster.refuse.append(lambda call: Unreachable("the API server is away"))
        waiting = asyncio.create_task(ask(settings, pod.oci_state()))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        assert not standing(pod)
        cluster.refuse.clear()
        assert (await waiting).code == 0
        cluster.refuse.append(lambda call: Unreachable("the API server is away"))
        assert (await ask(settings, pod.oci_state(pid=pod.container()))).code == 0
    async with running(settings, cluster):
        assert (await ask(settings, pod.oci_state(pid=pod.container()))).code == 0, "a restarted node agent that never heard an order, too"


async def test_the_hook_waits_for_a_node_agent_that_is_being_restarted(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        await prepare(settings)
    waiting = asyncio.create_task(ask(settings, pod.oci_state()))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    async with running(settings, cluster):
        answer = await waiting
        assert (answer.code, answer.error) == (0, "")
        assert standing(pod)


async def test_without_a_node_agent_no_container_starts(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    settings.plugin_dir.mkdir(parents=True)
    settings.hook_path.symlink_to(hook)
    answer = await ask(settings, pod.oci_state())
    assert answer.code == 1
    assert "is aios-node running on this node?" in answer.error
    assert answer.seconds > 28, "it waits for one that is being restarted"


async def test_a_fence_that_can_not_be_raised_refuses_and_is_a_condition(
    directory: Path, hook: Path, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    monkeypatch.setattr(fence, "_transaction", lambda openings: b'{"nftables": [{"add": {"table": {"family": "inet", "name": "aios"}}}]}')
    async with running(settings, cluster):
        await prepare(settings)
        assert "did not read back as it was written" in (await ask(settings, pod.oci_state())).error
        await eventually(lambda: condition(cluster, "Fenced") == ("False", "FenceFailed"))
        monkeypatch.setattr(fence, "_transaction", lambda openings: UNFIT)
        assert "nft could not install the fence" in (await ask(settings, pod.oci_state())).error


async def test_a_new_sandbox_of_the_same_pod_is_fenced_and_listened_in(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()) as agent:
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        with a_pod(2) as again:
            assert (await ask(settings, again.oci_state())).code == 0
            assert standing(again)
            assert again.python("import socket; socket.create_connection(('127.0.0.1', 2489), 5); print('connected')") == "connected"
            live = agent.claims.get(CLAIM_UID)
            assert live is not None
            assert live.state.sandbox is not None
            assert [process.pid for process in live.state.sandbox.processes] == [again.pid]


# --- the world around ---


class outside:  # noqa: N801  reads as a word in a with statement
    """A TCP and a UDP server on one port of the pod's gateway, for both families."""

    def __init__(self, pod: Pod) -> None:
        self.tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.udp.bind(("::", self.port))
        self.udp.settimeout(5)

    def __enter__(self) -> tuple[int, socket.socket]:
        return self.port, self.udp

    def __exit__(self, *error: object) -> None:
        self.tcp.close()
        self.udp.close()


ATTEMPT = """
import socket
try:
    {code}
    print('reached')
except TimeoutError:
    print('silence')
except OSError:
    print('refused at once')
"""


def reach(family: str, address: str, port: int) -> str:
    code = f"s = socket.socket(socket.{family}); s.settimeout(60); s.connect(('{address}', {port}))"
    return ATTEMPT.format(code=code)


def shout(family: str, address: str, port: int) -> str:
    code = f"s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.connect(('{address}', {port})); s.send(b'hello')"
    return ATTEMPT.format(code=code)


def reachable(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 0.5).close()
    except OSError:
        return False
    return True


async def test_only_root_is_answered_by_the_hooks_socket(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        assert settings.hook_socket.stat().st_mode & 0o777 == 0o600
        for path, mode in ((directory, 0o755), (settings.run_dir, 0o755), (settings.hook_socket, 0o666)):
            path.chmod(mode)  # the mode alone must not be what keeps others out
        stranger = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ASK_AS_NOBODY,
            str(settings.hook_socket),
            CLAIM_UID,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        answer, _ = await stranger.communicate(pod.oci_state())
        assert (stranger.returncode, answer.decode().strip()) == (0, "asked and got b''")
        assert not standing(pod)
        assert (await ask(settings, pod.oci_state(pod_uid=POD_UID))).code == 0


async def test_a_state_as_large_as_the_hook_takes_is_answered(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        state = pod.oci_state()
        assert (await ask(settings, state.ljust((1 << 20) - 1))).code == 0
        assert "at most 1 MiB" in (await ask(settings, state.ljust(1 << 20))).error


async def test_a_fence_that_is_removed_under_a_running_agent_comes_back_and_is_told(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, inspection_seconds=0.2), a_cluster()
    async with running(settings, cluster) as agent:
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        subprocess.run(["ip", "netns", "exec", pod.name, "nft", "delete", "table", "inet", "aios"], check=True)
        await eventually(lambda: standing(pod))
        await eventually(lambda: [event["reason"] for event in cluster.all(EVENTS)] == ["FenceMissing"])
        (event,) = cluster.all(EVENTS)
        assert event["regarding"]["kind"] == "Agent"
        assert "it stands again" in event["note"]
        assert b"aios_node_fences_missing_total 1.0" in agent.metrics.text()

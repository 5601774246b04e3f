"""From the order to the packet: node agent and gateway as they are shipped, an agent in a network namespace that asks for the outside."""

import asyncio
import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aios_api.egress import NOTHING, EgressPolicy
from aios_kube.errors import Unreachable
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES
from node.support import CLAIM_UID, NAMESPACE, Pod, a_cluster, a_runtime, ask, eventually, prepare, running, settings_in
from node.test_restarts import gateway
from unit.gateway.outside import a_policy

ASK = """
import http.client, sys
connection = http.client.HTTPConnection('127.0.0.1', 2489, timeout=60)
connection.request('GET', sys.argv[1])
response = connection.getresponse()
print(response.status, response.read().decode())
"""
HOLD = """
import socket, sys
with socket.create_connection(('127.0.0.1', 2489), 10) as tunnel:
    tunnel.sendall(f'CONNECT {sys.argv[1]} HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\n\\r\\n'.encode())
    assert b' 200 ' in tunnel.recv(4096)
    print('open', flush=True)
    tunnel.settimeout(60)
    while tunnel.recv(4096):
        pass
print('ended', flush=True)
"""


@contextmanager
def a_host(address: str) -> Iterator[int]:
    """A server outside of the pod that answers everything, and holds who says nothing; its port."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if connection.recv(4096):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\noutside")

    with socket.create_server((address, 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def asked(pod: Pod, url: str) -> tuple[int, str]:
    """What the agent in the pod gets: the code, and the reason or the content."""
    done = pod.run(sys.executable, "-c", ASK, url)
    assert done.returncode == 0, done.stderr
    status, _, body = done.stdout.strip().partition(" ")
    return int(status), json.loads(body)["reason"] if body.startswith("{") else body


def with_egress(policy: EgressPolicy | None) -> dict[str, Any]:
    return a_runtime(egress=policy.model_dump(by_alias=True, exclude_none=True, mode="json")) if policy else a_runtime()


def order(cluster: FakeCluster, policy: EgressPolicy | None) -> None:
    """The operator gives the agent this policy; what the node agent wrote stays."""
    now = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)
    cluster.put(AGENT_RUNTIMES, {**now, "spec": with_egress(policy)["spec"]})


def egress_status(cluster: FakeCluster) -> dict[str, Any]:
    return cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE).get("status", {}).get("egress") or {}


async def test_an_agent_reaches_what_its_order_says_while_it_says_so(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    with a_host(pod.outside4) as port:
        here, url = f"{pod.outside4}:{port}", f"http://{pod.outside4}:{port}/"
        first, second = a_policy("http://api.example.com:80"), a_policy(f"http://{here}", f"tcp://{here}")
        cluster = a_cluster(runtime=with_egress(first))
        async with gateway(settings.gateway_socket), running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually(lambda: egress_status(cluster).get("policyDigest") == first.digest)
            assert await asyncio.to_thread(asked, pod, url) == (403, "EgressDenied")
            await eventually(lambda: egress_status(cluster).get("denied") == 1)
            order(cluster, second)
            await eventually(lambda: egress_status(cluster)["policyDigest"] == second.digest)
            assert await asyncio.to_thread(asked, pod, url) == (200, "outside")
            holding = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", pod.name, sys.executable, "-c", HOLD, here), stdout=asyncio.subprocess.PIPE
            )
            assert await holding.stdout.readline() == b"open\n"
            order(cluster, first)
            assert await asyncio.wait_for(holding.stdout.readline(), 60) == b"ended\n"
            await holding.wait()
            assert await asyncio.to_thread(asked, pod, url) == (403, "EgressDenied")
            order(cluster, None)
            await eventually(lambda: egress_status(cluster)["policyDigest"] == NOTHING.digest)
            assert await asyncio.to_thread(asked, pod, url) == (403, "EgressDenied")
            direct = f"import socket; socket.create_connection(({pod.outside4!r}, {port}), 2)"
            assert pod.run(sys.executable, "-c", direct).returncode != 0, "past the gateway there is no way"


async def test_a_node_agent_that_comes_back_without_the_api_server_changes_no_policy(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    with a_host(pod.outside4) as port:
        url = f"http://{pod.outside4}:{port}/"
        cluster = a_cluster(runtime=with_egress(a_policy(f"http://{pod.outside4}:{port}")))
        async with gateway(settings.gateway_socket):
            async with running(settings, cluster):
                await prepare(settings)
                assert (await ask(settings, pod.oci_state())).code == 0
                await eventually(lambda: egress_status(cluster))
                assert await asyncio.to_thread(asked, pod, url) == (200, "outside")
            silent = FakeCluster()
            silent.refuse.append(lambda call: Unreachable("cut off"))
            async with running(settings, silent) as agent:
                await eventually(lambda: agent.claims.get(CLAIM_UID) is not None and agent.claims.get(CLAIM_UID).listeners)
                await asyncio.sleep(1)
                assert await asyncio.to_thread(asked, pod, url) == (200, "outside")
            async with running(settings, cluster):
                order(cluster, a_policy("http://api.example.com:80"))
                await eventually(lambda: egress_status(cluster).get("policyDigest") == a_policy("http://api.example.com:80").digest)
                assert await asyncio.to_thread(asked, pod, url) == (403, "EgressDenied")

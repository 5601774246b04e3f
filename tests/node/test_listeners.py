"""Where an agent is answered: listeners in its namespace, from the hook to the gateway."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

from aios_sidecar.contracts.link import Hello, ListenerKind, Serve, Serving, Synced
from aios_sidecar.handover import Link, connect
from aios_sidecar.node.settings import NodeSettings
from node.fencing import standing
from node.support import (
    Pod,
    a_cluster,
    ask,
    condition,
    eventually,
    prepare,
    running,
    settings_in,
    unprepare,
)

TAKE_THE_PORT = "import socket, time; s = socket.create_server(('0.0.0.0', 2489)); print('taken', flush=True); time.sleep(999)"
SAY = """
import socket
c = socket.create_connection(('127.0.0.1', 2489), 5)
c.sendall(b'x')
print(c.recv(100).decode())
"""


async def test_listeners_are_handed_to_the_gateway_and_the_condition_follows(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    async with running(settings, cluster):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        link, listeners = await a_gateway(settings)
        await eventually(lambda: condition(cluster, "Listening") == ("True", "Listening"))
        asked = asyncio.create_task(asyncio.to_thread(pod.python, SAY))
        connection, _ = await asyncio.get_running_loop().sock_accept(listeners["loopback"])
        connection.sendall(b"served by the gateway")
        assert await asked == "served by the gateway"
        connection.close()
        link.close()
        await eventually(lambda: condition(cluster, "Listening") == ("False", "GatewayAbsent"))


async def test_a_taken_port_is_a_condition_and_goes_when_the_port_is_free(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    taken = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            pod.name,
            sys.executable,
            "-c",
            TAKE_THE_PORT,
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert taken.stdout is not None
        taken.stdout.readline()
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually(lambda: condition(cluster, "Listening") == ("False", "PortTaken"))
            assert standing(pod)
            taken.kill()
            taken.wait()
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually(lambda: condition(cluster, "Listening") == ("False", "GatewayAbsent"))
    finally:
        taken.kill()
        taken.wait()


async def test_releasing_closes_the_listeners(directory: Path, hook: Path, pod: Pod) -> None:
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        await unprepare(settings)
        refused = "import socket\ntry: socket.create_connection(('127.0.0.1', 2489), 5)\nexcept ConnectionRefusedError: print('refused')"
        assert pod.python(refused) == "refused"
        assert "is not prepared" in (await ask(settings, pod.oci_state())).error


async def a_gateway(settings: NodeSettings) -> tuple[Link, dict[ListenerKind, socket.socket]]:
    """A gateway that takes what it is given for one claim and says so."""
    link = await connect(settings.gateway_socket, peer=os.geteuid())
    await link.send(Hello())
    await link.send(Synced())
    while True:
        received = await link.receive()
        if isinstance(received.message, Serve) and len(received.listeners) == 2:
            await link.send(Serving(claim_uid=received.message.claim_uid, kinds=tuple(received.listeners)))
            for listener in received.listeners.values():
                listener.setblocking(False)
            return link, dict(received.listeners)
        received.close()


async def test_a_port_that_was_taken_is_listened_on_once_it_is_free(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, inspection_seconds=0.2), a_cluster()
    taken = subprocess.Popen(["ip", "netns", "exec", pod.name, sys.executable, "-c", TAKE_THE_PORT], stdout=subprocess.PIPE)
    try:
        assert taken.stdout is not None
        taken.stdout.readline()
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually(lambda: condition(cluster, "Listening") == ("False", "PortTaken"))
            taken.kill()
            taken.wait()
            await eventually(lambda: condition(cluster, "Listening") == ("False", "GatewayAbsent"))
    finally:
        taken.kill()
        taken.wait()

"""What tests of fences need: programs in a pod that listen and answer, and a world around it that takes note of what it hears."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aios_sidecar.node import fence
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.state import Opening
from node.support import (
    Pod,
)

WEB, OTHER, NAMES = Opening(protocol="TCP", port=8080), Opening(protocol="TCP", port=8081), Opening(protocol="UDP", port=5353)

ECHO = """
import socket, threading
def serve(server):
    while True:
        connection, _ = server.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()
def echo(connection):
    while data := connection.recv(100):
        connection.sendall(data)
for port in (8080, 8081):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=serve, args=(server,), daemon=True).start()
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagrams.bind(("::", 5353))
print("up", flush=True)
while True:
    data, sender = datagrams.recvfrom(100)
    datagrams.sendto(data, sender)
"""


@contextmanager
def inside(pod: Pod, code: str) -> Iterator[None]:
    """A program in the pod, from its first line on."""
    command = ["ip", "netns", "exec", pod.name, sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"up\n"
            yield
        finally:
            program.kill()


@contextmanager
def fenced(pod: Pod, *openings: Opening) -> Iterator[NetworkNamespace]:
    with NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
        fence.ensure(namespace, frozenset(openings))
        yield namespace


def standing(pod: Pod) -> bool:
    """The fence is there as it was raised."""
    with NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
        return fence.stands(namespace)


class Receiver:
    """Takes note of whatever arrives on some ports of the pod's gateway, by TCP and UDP, from both families."""

    def __init__(self, *ports: int) -> None:
        self.heard: list[str] = []
        self._sockets = []
        for port in ports:
            tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.bind(("::", port))
            self._sockets += [tcp, udp]
            threading.Thread(target=self._take, args=(f"tcp {port}", tcp.accept), daemon=True).start()
            threading.Thread(target=self._take, args=(f"udp {port}", lambda udp=udp: udp.recvfrom(10)), daemon=True).start()

    def _take(self, name: str, receive: Callable[[], object]) -> None:
        while True:
            try:
                receive()
            except OSError:
                return
            self.heard.append(name)

    def wait_for(self, number: int) -> None:
        """Returns when as many have arrived; fails when they do not within a minute."""
        deadline = time.monotonic() + 60
        while len(self.heard) < number:
            assert time.monotonic() < deadline, f"{len(self.heard)} of {number} have arrived"
            time.sleep(0.01)

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR) if one.type == socket.SOCK_STREAM else None
            one.close()


def own_address(pod: Pod) -> str:
    return pod.outside4.removesuffix("1") + "2"


def own_address6(pod: Pod) -> str:
    return pod.outside6.removesuffix("1") + "2"


PATIENCE_SECONDS = 60.0
"""For an answer that has to come, on a machine that is busy."""
SILENCE_SECONDS = 0.5
"""After so long nothing comes any more."""


def echoes(address: str, port: int, seconds: float = PATIENCE_SECONDS) -> bool:
    try:
        with socket.create_connection((address, port), seconds) as connection:
            connection.sendall(b"x")
            return connection.recv(1) == b"x"
    except OSError:
        return False


def echoes_datagrams(address: str, port: int, seconds: float = PATIENCE_SECONDS) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(seconds)
        try:
            sender.sendto(b"x", (address, port))
            return sender.recv(1) == b"x"
        except OSError:
            return False

"""Listeners survive a restart of either side, with requests running: real processes, real sockets, kill -9."""

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GATEWAY_UID = 65532 if os.geteuid() == 0 else os.geteuid()
# The interpreter may live where only root can read, so the user is changed after the imports.
GATEWAY = f"""
import os, aios_sidecar.gateway.main as gateway
if os.geteuid() == 0:
    os.setgroups([]), os.setgid({GATEWAY_UID}), os.setuid({GATEWAY_UID})
gateway.main()
"""


class Process:
    """A child whose lines can be waited for."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.child = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.seen: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.child.stdout:
            self.lines.put(line.rstrip())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} within {seconds} s; there were {self.seen}") from None
            self.seen.append(line)
            if text in line:
                return line

    def order(self, line: str) -> None:
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def end(self, number: int = signal.SIGKILL) -> int:
        self.child.send_signal(number)
        code = self.child.wait(60)
        self.reader.join(60)
        self.child.stdin.close()
        self.child.stdout.close()
        return code

    def descriptors(self) -> int:
        """How many are open, at rest: what came over the link is closed a moment after it was told of."""

        def now() -> int:
            return len(list(Path(f"/proc/{self.child.pid}/fd").iterdir()))

        seen = [now()]
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            time.sleep(0.1)
            seen.append(now())
        return seen[-1]


class House:
    """One node stand-in and one gateway in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[Process] = []
        self.ports: dict[str, int] = {}
        self.operations = 0

    def start_node(self, mode: str = "open", gateway_uid: int = GATEWAY_UID) -> Process:
        node = self._start(str(Path(__file__).parent / "node_stand_in.py"), str(self.directory), str(gateway_uid), mode)
        if mode == "open":
            for _ in range(2):
                _, claim, port = node.wait_for("port").split()
                self.ports[claim] = int(port)
        node.wait_for("ready")
        return node

    def start_gateway(self, **settings: str) -> Process:
        environment = {
            "AIOS_GATEWAY_NODE_SOCKET": str(self.directory / "node.sock"),
            "AIOS_GATEWAY_NODE_UID": str(os.geteuid()),
            "AIOS_GATEWAY_METRICS_PORT": "0",
            **settings,
        }
        gateway = self._start("-c", GATEWAY, environment=environment)
        self.operations = int(gateway.wait_for("metrics and probes").rsplit(" ", 1)[1])
        return gateway

    def _start(self, *arguments: str, environment: dict[str, str] | None = None) -> Process:
        process = Process(*arguments, environment=environment)
        self.processes.append(process)
        return process

    def ask(self, claim: str, via: str = "loopback") -> str:
        """The name that the gateway gives the agent `claim`, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[claim], timeout=60)
        if via == "socket":
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(60)
            connection.sock.connect(str(self.directory / f"{claim}.sock"))
        try:
            connection.request("GET", "/v1/agent", headers={"Host": "localhost", "Connection": "close"})
            response = connection.getresponse()
            assert response.status == 200
            return json.loads(response.read())["identity"]["name"]
        finally:
            connection.close()

    def operate(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.operations, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@pytest.fixture
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        Path(directory).chmod(0o755)
        house = House(Path(directory))
        try:
            yield house
        finally:
            for process in house.processes:
                if process.child.poll() is None:
                    process.end()


@contextlib.contextmanager
def requests_running(house: House) -> Iterator[list[str | Exception]]:
    """Clients of both agents, by both listeners, each asking again and again; what they got is in the list."""
    results: list[str | Exception] = []
    ended = threading.Event()

    def client(claim: str, via: str) -> None:
        while not ended.is_set():
            try:
                name = house.ask(claim, via)
                results.append("ok" if name == claim else AssertionError(f"{claim} was told it is {name}"))
            except Exception as error:  # noqa: BLE001  whatever it is, it is the result
                results.append(error)
            time.sleep(0.002)

    clients = [threading.Thread(target=client, args=(claim, via)) for claim in ("a0", "a1") for via in ("socket", "loopback")]
    for thread in clients:
        thread.start()
    try:
        yield results
    finally:
        ended.set()
        for thread in clients:
            thread.join(120)


def served(results: list[str | Exception], at_least: int = 20) -> None:
    """Wait until as many more requests have been answered."""
    aim = results.count("ok") + at_least
    deadline = time.monotonic() + 60
    while results.count("ok") < aim:
        assert time.monotonic() < deadline, results[-5:]
        time.sleep(0.01)


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


def failures(results: list[str | Exception]) -> list[str | Exception]:
    return [result for result in results if result != "ok"]


def test_no_request_fails_while_the_gateway_is_replaced_in_order(house):
    node = house.start_node()
    gateway = house.start_gateway()
    node.wait_for("serving a1 loopback,socket")
    with requests_running(house) as results:
        for _ in range(3):
            served(results)
            assert gateway.end(signal.SIGTERM) == 0
            node.wait_for("lost")
            gateway = house.start_gateway()
            node.wait_for("serving a1")
            served(results)
    assert failures(results) == []


def test_a_killed_gateway_loses_only_what_it_had_begun(house):
    node = house.start_node()
    gateway = house.start_gateway()
    node.wait_for("serving a1")
    with requests_running(house) as results:
        served(results)
        gateway.end(signal.SIGKILL)
        node.wait_for("lost")
        house.start_gateway()
        node.wait_for("serving a1")
        served(results)
    assert len(failures(results)) <= 4, "each of the four clients can have had one request in progress"
    assert all(isinstance(failure, OSError | http.client.HTTPException) for failure in failures(results))


def test_a_killed_node_agent_disturbs_no_request_and_gets_its_listeners_back(house):
    node = house.start_node()
    gateway = house.start_gateway()
    node.wait_for("serving a1")
    with requests_running(house) as results:
        for _ in range(2):
            served(results)
            node.end(signal.SIGKILL)
            served(results)
            node = house.start_node("adopt")
            node.wait_for("held a1 loopback,socket")
            node.wait_for("serving a1 loopback,socket")
            served(results)
        assert failures(results) == []
        # What the new node agent got back is enough for a new gateway.
        gateway.end(signal.SIGTERM)
        house.start_gateway()
        node.wait_for("serving a1")
        served(results)
    assert failures(results) == []


def test_the_gateways_descriptors_stay_as_many_over_reconnects(house):
    node = house.start_node()
    gateway = house.start_gateway()
    node.wait_for("serving a1")
    before = gateway.descriptors()
    for _ in range(3):
        node.end(signal.SIGKILL)
        node = house.start_node("adopt")
        node.wait_for("serving a1")
    assert gateway.descriptors() == before


def test_a_stopped_agent_is_unreachable_and_the_other_is_not(house):
    node = house.start_node()
    house.start_gateway()
    node.wait_for("serving a1")
    assert "aios_gateway_agents 2.0" in house.operate("/metrics")[1]
    node.order("stop a0")
    node.wait_for("stopped a0")
    eventually(lambda: "aios_gateway_agents 1.0" in house.operate("/metrics")[1])
    with pytest.raises(OSError):
        house.ask("a0")
    assert house.ask("a1") == "a1"


def test_a_node_agent_of_another_user_is_refused_and_the_gateway_says_so(house):
    node = house.start_node()
    gateway = house.start_gateway(AIOS_GATEWAY_NODE_UID=str(os.geteuid() + 1))
    gateway.wait_for(f"the peer runs as user {os.geteuid()}, must be {os.geteuid() + 1}")
    assert house.operate("/healthz") == (200, "ok\n")
    status, body = house.operate("/readyz")
    assert (status, json.loads(body)["reason"]) == (503, "NotReady")
    assert not any(line.startswith("serving") for line in node.seen)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a second user id to connect as")
def test_a_gateway_of_another_user_is_refused_by_the_node_agent(house):
    node = house.start_node(gateway_uid=GATEWAY_UID + 1)
    (house.directory / "node.sock").chmod(0o666)
    house.start_gateway()
    node.wait_for(f"refused the peer runs as user {GATEWAY_UID}, must be {GATEWAY_UID + 1}")


def test_readiness_follows_the_link(house):
    node = house.start_node()
    house.start_gateway()
    node.wait_for("serving a1")
    assert house.operate("/readyz")[0] == 200
    node.end(signal.SIGKILL)
    eventually(lambda: house.operate("/readyz")[0] == 503)
    assert house.ask("a0") == "a0"

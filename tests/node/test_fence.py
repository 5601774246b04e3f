"""The fence in real namespaces: what is tried to get past it, what comes in where a port is exposed, and a fence that is proven or not."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aios_kube.errors import Unreachable
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, EVENTS
from aios_sidecar.node import fence, prober
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.probe import Found, ProbeFailed, Surroundings, probe
from aios_sidecar.node.state import Opening
from node.played import Played
from node.support import (
    CLAIM_UID,
    NAMESPACE,
    POD_UID,
    Pod,
    a_cluster,
    a_pod,
    a_runtime,
    ask,
    eventually,
    prepare,
    running,
    settings_in,
    uid,
)

WEB, OTHER, NAMES = Opening(protocol="TCP", port=8080), Opening(protocol="TCP", port=8081), Opening(protocol="UDP", port=5353)

ECHO = """
import socket, threading
def serve(port):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()
def echo(connection):
    while data := connection.recv(100):
        connection.sendall(data)
for port in (8080, 8081):
    threading.Thread(target=serve, args=(port,), daemon=True).start()
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagrams.bind(("::", 5353))
print("up", flush=True)
while True:
    data, sender = datagrams.recvfrom(100)
    datagrams.sendto(data, sender)
"""

SEND = """
import socket
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("::", 8080))
listener.listen(0)
filled = socket.create_connection(("127.0.0.1", 8080), 2)  # whoever comes next is not answered
def pretend(family, kind, source, own):
    # as if the other end had begun: a packet with its address as the sender, to ourselves
    with socket.socket(family, kind) as s:
        s.setblocking(False)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
        if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
        try:
            s.bind(source)
            s.connect(own); s.send(b"pretence")
        except OSError: pass
for family, address, own in ((socket.AF_INET, "{v4}", "{own4}"), (socket.AF_INET6, "{v6}", "{own6}"),
                             (socket.AF_INET6, "::ffff:{v4}", "::ffff:{own4}")):
    for port in {ports}:
        pretend(family, socket.SOCK_STREAM, (address, port), (own, 8080))
        pretend(family, socket.SOCK_DGRAM, (address, port), (own, 5353))
for family, address in ((socket.AF_INET, "{v4}"), (socket.AF_INET6, "{v6}"), (socket.AF_INET6, "::ffff:{v4}")):
    for port in {ports}:
        for source in (0, 8080, 5353):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(family, kind) as s:
                    s.settimeout(0.3)
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    try:
                        if source: s.bind(("", source))
                        s.connect((address, port)); s.send(b"leak")
                        print("sent", family, port, source, kind)
                    except OSError: pass
print("done")
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
        """Returns when as many have arrived; fails when they do not within 10 seconds."""
        deadline = time.monotonic() + 10
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


def echoes(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), 0.5) as connection:
            connection.sendall(b"x")
            return connection.recv(1) == b"x"
    except OSError:
        return False


def echoes_datagrams(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(0.5)
        try:
            sender.sendto(b"x", (address, port))
            return sender.recv(1) == b"x"
        except OSError:
            return False


PORTS = (20053, 20443)


def test_nobody_hears_anything_whatever_the_agent_sends(pod: Pod) -> None:
    """Raw addresses of both families and mapped ones, names over UDP and TCP, QUIC; also from the ports on which it may answer, after a
    packet over the loopback that looks as if the other end had begun."""
    code = SEND.format(v4=pod.outside4, v6=pod.outside6, own4=own_address(pod), own6=own_address6(pod), ports=PORTS)
    with Receiver(*PORTS) as receiver:
        sent = pod.python(code).count("sent")
        receiver.wait_for(sent)  # or the last of it would be heard when the fence stands
        assert set(receiver.heard) == {f"{kind} {port}" for kind in ("tcp", "udp") for port in PORTS}
        receiver.heard.clear()
        with fenced(pod, WEB, NAMES):
            assert pod.python(code) == "done"
        assert receiver.heard == []


def test_what_is_exposed_is_reached_and_nothing_beside_it(pod: Pod) -> None:
    at = own_address(pod)
    with inside(pod, ECHO):
        assert echoes(at, 8080)
        with fenced(pod):
            assert not echoes(at, 8080)
        with fenced(pod, WEB, NAMES) as namespace:
            assert echoes(at, 8080)
            assert echoes(own_address6(pod), 8080)
            assert echoes_datagrams(at, 5353)
            assert not echoes(at, 8081)
            assert not echoes_datagrams(at, 8080)
            assert fence.stands(namespace, frozenset((NAMES, WEB)))
            assert not fence.stands(namespace, frozenset((WEB,)))
            assert not fence.stands(namespace)
            assert not fence.ensure(namespace, frozenset((WEB, NAMES)))


def test_the_pod_reaches_itself_by_every_address_of_its_own(pod: Pod) -> None:
    code = """
import socket
for address in {addresses}:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_connection((address, 8081), 2) as s:
        s.sendall(b"x"); assert s.recv(1) == b"x", address
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(2); s.sendto(b"x", (address, 5353)); assert s.recv(1) == b"x", address
print("done")
"""
    addresses = ("127.0.0.1", "127.0.0.53", "::1", own_address(pod), own_address6(pod), f"::ffff:{own_address(pod)}")
    with inside(pod, ECHO), fenced(pod):
        assert pod.python(code.format(addresses=addresses)) == "done"


def test_nothing_crosses_the_loopback_with_the_address_of_another_as_sender(pod: Pod) -> None:
    code = f"""
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as pretender:
    ours.bind(("::", 5353)); ours.settimeout(0.5)
    pretender.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    pretender.bind(("{pod.outside6}", 20053))
    try:
        pretender.sendto(b"x", ("{own_address6(pod)}", 5353)); print(ours.recv(1))
    except OSError: print("held")
"""
    assert pod.python(code) == "b'x'", "without the fence it must come across"
    with fenced(pod, NAMES):
        assert pod.python(code) == "held"
        assert pod.run("nft", "insert", "rule", "inet", "aios", "output", "accept").returncode == 0
        assert pod.python(code) == "held", "each chain holds it alone"
    with fenced(pod, NAMES):
        assert pod.run("nft", "insert", "rule", "inet", "aios", "input", "accept").returncode == 0
        assert pod.python(code) == "held", "each chain holds it alone"


def test_a_connection_ends_with_the_opening_through_which_it_came(pod: Pod) -> None:
    with inside(pod, ECHO), fenced(pod, WEB), socket.create_connection((own_address(pod), 8080), 2) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        connection.settimeout(0.5)
        with fenced(pod, OTHER):
            connection.sendall(b"x")
            with pytest.raises(TimeoutError):
                connection.recv(1)


def test_a_connection_that_was_made_while_the_fence_was_away_ends_with_its_return(pod: Pod) -> None:
    code = """
import socket, sys, time
s = socket.create_connection(("{v4}", {port}), 2)
print("up", flush=True)
while True:
    s.send(b"leak")
    time.sleep(0.05)
"""
    with socket.create_server((pod.outside4, 0)) as server, inside(pod, code.format(v4=pod.outside4, port=server.getsockname()[1])):
        connection, _ = server.accept()
        with connection, fenced(pod):
            connection.settimeout(1)
            with pytest.raises((TimeoutError, ConnectionResetError)):  # noqa: PT012  what was on its way arrives first
                while connection.recv(1000):
                    pass


# --- the probe ---


def test_a_fence_that_stands_is_proven_in_every_direction(pod: Pod) -> None:
    with fenced(pod, WEB) as namespace:
        found = probe(namespace, around(pod))
        assert (found.leaked, found.unclear) == ((), ())
        assert {f"kubelet tcp {pod.outside4}:10250", f"pod tcp {own_address(pod)[:-1]}3:2489", "elsewhere icmp 192.0.2.1"} <= set(
            found.tried
        )
        assert fence.stands(namespace, frozenset((WEB,))), "nothing of the probe is left"
        assert "aiosprobe" not in pod.run("nft", "list", "ruleset").stdout


def test_without_a_fence_every_way_leads_out_and_still_nobody_is_reached(pod: Pod) -> None:
    """Also where somebody listens, and where somebody refuses: a refusal from outside is no proof."""
    with Receiver(10250) as receiver, NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
        found = probe(namespace, around(pod))
        assert set(found.leaked) == set(found.tried)
        assert receiver.heard == []


HOLES = [
    ("udp dport 53 accept", {"resolver udp 10.96.0.10:53", "resolver udp 169.254.20.10:53"}, "udp"),
    ("tcp dport 10250 accept", {"kubelet tcp {v4}:10250"}, "kubelet"),
    ("ip daddr 169.254.169.254 accept", {"metadata tcp 169.254.169.254:80"}, "metadata"),
    ("meta nfproto ipv6 accept", {"elsewhere tcp [2001:db8::1]:443"}, "["),
    ("ip daddr {v4} tcp dport 80 accept", {"node tcp {v4}:80"}, "node tcp"),
]


@pytest.mark.parametrize(("rule", "at_least", "only"), HOLES, ids=[rule for rule, _, _ in HOLES])
def test_a_hole_is_found_and_named(pod: Pod, rule: str, at_least: set[str], only: str) -> None:
    with fenced(pod) as namespace:
        assert pod.run("nft", "insert", "rule", "inet", "aios", "output", *rule.format(v4=pod.outside4).split()).returncode == 0
        found = probe(namespace, around(pod))
        assert {way.format(v4=pod.outside4) for way in at_least} <= set(found.leaked)
        assert all(only in way for way in found.leaked), found.leaked
        assert found.unclear == ()


def test_where_everything_is_dropped_in_silence_nothing_is_proven(pod: Pod) -> None:
    """Nothing gets out, but it is not our fence that holds it, so a connection is never refused."""
    with NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
        for command in ("add table inet other", "add chain inet other out { type filter hook output priority -10; policy drop; }"):
            assert pod.run("nft", command).returncode == 0
        assert pod.run("nft", "add rule inet other out oifname lo accept").returncode == 0
        found = probe(namespace, around(pod))
        assert found.leaked == ()
        assert any(" tcp " in way for way in found.unclear)


def around(pod: Pod) -> Surroundings:
    return Surroundings((pod.outside4, pod.outside6), ("10.96.0.10",), (("10.96.0.1", 443),))


# --- the node agent ---


def status(cluster: FakeCluster) -> dict[str, object]:
    found = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)
    assert found is not None
    return found.get("status") or {}


def condition(cluster: FakeCluster, kind: str) -> tuple[str, str] | None:
    found = [c for c in status(cluster).get("conditions") or () if c["type"] == kind]  # type: ignore[union-attr]
    return (found[0]["status"], found[0]["reason"]) if found else None


def exposes(*openings: Opening) -> list[dict[str, object]]:
    return [{"name": f"p{number}", "port": each.port, "protocol": each.protocol} for number, each in enumerate(openings)]


async def test_ports_open_and_close_on_the_running_pod_as_ordered(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster, at = settings_in(directory, hook), a_cluster(runtime=a_runtime(expose=exposes(WEB))), own_address(pod)
    with inside(pod, ECHO):
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            assert await asyncio.to_thread(echoes, at, 8080)
            await eventually(lambda: status(cluster).get("exposed") == [{"port": 8080, "protocol": "TCP"}])
            cluster.put(AGENT_RUNTIMES, a_runtime(expose=exposes(OTHER, NAMES)))
            await eventually(lambda: len(status(cluster).get("exposed") or ()) == 2)  # type: ignore[arg-type]
            assert not await asyncio.to_thread(echoes, at, 8080)
            assert await asyncio.to_thread(echoes, at, 8081)
            assert cluster.all(EVENTS) == [], "a change that was ordered is no breach"
        away = a_cluster()
        away.refuse.append(lambda call: Unreachable("the API server is away"))
        async with running(settings, away) as agent:
            live = agent.claims.get(CLAIM_UID)
            assert live is not None
            await eventually(lambda: live.facts.fenced)
            assert await asyncio.to_thread(echoes, at, 8081), "a restart without orders closes nothing"
        cluster.put(AGENT_RUNTIMES, a_runtime())
        async with running(settings, cluster):
            await eventually(lambda: not echoes(at, 8081))
            await eventually(lambda: "exposed" not in status(cluster))


async def test_no_container_starts_behind_a_fence_that_leaks(
    directory: Path, hook: Path, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    monkeypatch.setattr(prober, "probe", lambda namespace, around: Found(("kubelet tcp 10.0.0.7:10250",), ("kubelet tcp 10.0.0.7:10250",)))
    async with running(settings, cluster):
        await prepare(settings)
        answer = await ask(settings, pod.oci_state())
        assert answer.code == 1
        assert "does not hold: kubelet tcp 10.0.0.7:10250 could be reached; no container is started" in answer.error
        await eventually(lambda: condition(cluster, "EgressFenced") == ("False", "FenceLeaks"))
        await eventually(lambda: [event["reason"] for event in cluster.all(EVENTS)] == ["FenceLeaks"])
        monkeypatch.undo()
        assert (await ask(settings, pod.oci_state())).code == 0, "what failed is tried anew"
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))


class Trials:
    """Stands for the probe: as often as asked it can't run, then it is the real one."""

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.made = 0

    def __call__(self, namespace: NetworkNamespace, around: Surroundings) -> Found:
        self.made += 1
        if self.made <= self.failing:
            raise ProbeFailed("the fence could not be tried: nft did not end within 10 s")
        return probe(namespace, around)


async def test_no_container_starts_behind_a_fence_that_could_not_be_tried(
    directory: Path, hook: Path, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cluster, trials = settings_in(directory, hook), a_cluster(), Trials(failing=2 * prober.TRIES)
    monkeypatch.setattr(prober, "probe", trials)
    monkeypatch.setattr(prober, "PAUSE_SECONDS", 0.05)
    async with running(settings, cluster):
        await prepare(settings)
        for asked in (1, 2):
            answer = await ask(settings, pod.oci_state())
            assert answer.code == 1
            assert f"no container is started in pod {POD_UID}: the fence could not be tried: nft did not end" in answer.error
            assert trials.made == asked * prober.TRIES, "what could not be tried is no proof for the next container"
        await eventually(lambda: condition(cluster, "EgressFenced") == ("Unknown", "ProbeUnclear"))
        assert (await ask(settings, pod.oci_state())).code == 0
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))
        assert (await ask(settings, pod.oci_state())).code == 0
        assert trials.made == 2 * prober.TRIES + 1, "one proof is enough for all containers of a pod"


async def test_a_probe_that_can_not_run_once_is_made_again_before_the_container_is_refused(
    directory: Path, hook: Path, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, trials = settings_in(directory, hook), Trials(failing=prober.TRIES - 1)
    monkeypatch.setattr(prober, "probe", trials)
    monkeypatch.setattr(prober, "PAUSE_SECONDS", 0.05)
    async with running(settings, a_cluster()):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        assert trials.made == prober.TRIES


async def test_a_proof_is_told_once_and_again_only_when_it_changes(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, probe_seconds=0.2), a_cluster()
    async with running(settings, cluster) as agent:
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))
        told = status(cluster)["probe"]
        assert isinstance(told, dict)
        assert (told["podUID"], told["leaked"]) == (POD_UID, [])
        assert "elsewhere tcp 192.0.2.1:443" in told["tried"]
        await eventually(lambda: b'aios_node_fence_probes_total{outcome="held"} 5.0' in agent.metrics.text())
        assert status(cluster)["probe"] == told
    async with running(settings, cluster) as agent:
        await eventually(lambda: b'aios_node_fence_probes_total{outcome="held"} 3.0' in agent.metrics.text())
        assert status(cluster)["probe"] == told, "a restart is no news either"


async def test_an_agent_whose_fence_leaks_is_killed_and_its_neighbour_is_not(
    directory: Path, hook: Path, pod: Pod, play: Callable[[str], Played]
) -> None:
    settings, cluster = settings_in(directory, hook, probe_seconds=0.3), a_cluster()
    agent, neighbour = play(POD_UID), play(uid(77))
    for each in (agent, neighbour):
        each.start()
    async with running(settings, cluster):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        assert agent.alive
        assert pod.run("nft", "insert", "rule", "inet", "aios", "output", "udp", "dport", "53", "accept").returncode == 0
        await eventually(lambda: not agent.alive)
        assert neighbour.alive
        await eventually(lambda: condition(cluster, "EgressFenced") == ("False", "FenceLeaks"))
        await eventually(lambda: any(event["reason"] == "FenceLeaks" for event in cluster.all(EVENTS)))
        event = next(event for event in cluster.all(EVENTS) if event["reason"] == "FenceLeaks")
        assert event["regarding"]["kind"] == "Agent"
        assert "resolver udp 169.254.20.10:53" in event["note"]
        assert (await ask(settings, pod.oci_state())).code == 0, "its next container starts behind a fence that stands again"
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))


def test_another_agents_listener_is_not_reached(pod: Pod) -> None:
    listens = "import socket, time; s = socket.create_server(('0.0.0.0', 2489)); print('up', flush=True); time.sleep(100)"
    visit = "import socket\ntry: socket.create_connection(('{at}', 2489), 2); print('reached')\nexcept OSError as e: print('refused')"
    with a_pod(2) as other, inside(other, listens), fenced(pod):
        assert pod.python(visit.format(at=own_address(other))) == "refused"

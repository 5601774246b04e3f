"""The fence in real namespaces: what is tried to get past it, and what comes in where a port is exposed."""

import socket

import pytest

from aios_sidecar.node import fence
from node.fencing import (
    ECHO,
    NAMES,
    OTHER,
    SILENCE_SECONDS,
    WEB,
    Receiver,
    echoes,
    echoes_datagrams,
    fenced,
    inside,
    own_address,
    own_address6,
)
from node.support import (
    Pod,
    a_pod,
)

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
            assert not echoes(at, 8080, SILENCE_SECONDS)
        with fenced(pod, WEB, NAMES) as namespace:
            assert echoes(at, 8080)
            assert echoes(own_address6(pod), 8080)
            assert echoes_datagrams(at, 5353)
            assert not echoes(at, 8081, SILENCE_SECONDS)
            assert not echoes_datagrams(at, 8080, SILENCE_SECONDS)
            assert fence.stands(namespace, frozenset((NAMES, WEB)))
            assert not fence.stands(namespace, frozenset((WEB,)))
            assert not fence.stands(namespace)
            assert not fence.ensure(namespace, frozenset((WEB, NAMES)))


def test_the_pod_reaches_itself_by_every_address_of_its_own(pod: Pod) -> None:
    code = """
import socket
for address in {addresses}:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_connection((address, 8081), 20) as s:
        s.sendall(b"x"); assert s.recv(1) == b"x", address
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(20); s.sendto(b"x", (address, 5353)); assert s.recv(1) == b"x", address
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
    with inside(pod, ECHO), fenced(pod, WEB), socket.create_connection((own_address(pod), 8080), 20) as connection:
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
s = socket.create_connection(("{v4}", {port}), 20)
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


def test_another_agents_listener_is_not_reached(pod: Pod) -> None:
    listens = "import socket, time; s = socket.create_server(('0.0.0.0', 2489)); print('up', flush=True); time.sleep(100)"
    visit = "import socket\ntry: socket.create_connection(('{at}', 2489), 2); print('reached')\nexcept OSError as e: print('refused')"
    with a_pod(2) as other, inside(other, listens), fenced(pod):
        assert pod.python(visit.format(at=own_address(other))) == "refused"

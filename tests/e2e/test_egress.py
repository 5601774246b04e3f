"""The way out on a real cluster: clients that agents really use, what is refused, and policies that change under open connections."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import NAMESPACE, kubectl
from e2e.outside import Outside, outside
from e2e.support import Space, eventually, namespace
from e2e.test_cli import aiosctl
from unit.gateway.clients import ANSWERS, CLIENTS

HOST = "api.example.com"

ASK = """
import os, urllib.error, urllib.request
try:
    print("answer", urllib.request.urlopen(os.environ["URL"], timeout=20).read().decode())
except urllib.error.HTTPError as error:
    print("refused", error.code, error.read().decode())
except OSError as error:
    print("failed", error)
"""
"""By the proxy that the environment names."""

SNEAK = """
import os, socket, ssl
proxy = socket.create_connection(("127.0.0.1", 2489), timeout=20)
proxy.sendall(os.environ["CONNECT"].encode() + b"\\r\\n\\r\\n")
said = proxy.recv(65536)
if b" 200 " not in said.split(b"\\r\\n")[0]:
    print("refused", said.decode())
else:
    context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
    try:
        inner = context.wrap_socket(proxy, server_hostname=os.environ["SNI"] or None)
        inner.sendall(b"GET /hello HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        print("answer", inner.recv(65536))
    except OSError as error:
        print("cut", error)
"""

HOLD = """
import os, socket, sys
proxy = socket.create_connection(("127.0.0.1", 2489), timeout=20)
host = os.environ["AUTHORITY"]
proxy.sendall(f"CONNECT {host} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
assert b" 200 " in proxy.recv(65536).split(b"\\r\\n")[0]
import ssl
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
inner = context.wrap_socket(proxy, server_hostname=host.split(":")[0])
print("open", flush=True)
inner.settimeout(60)
try:
    print("ended", inner.recv(1))
except TimeoutError:
    print("still open")
except OSError as error:
    print("ended", error)
"""


@contextmanager
def a_traveller(space: Space) -> Iterator[Outside]:
    """A world, and an Agent that may reach one host of it."""
    with outside(space, HOST, "other.example.com") as made:
        agent = space.agent("traveller")
        agent["metadata"]["labels"] = {"way": "out"}
        space.apply(agent, made.binding(HOST))
        space.ready("traveller")
        in_force(space)
        yield made


@pytest.fixture(scope="module")
def world(installed: tuple[LocalCluster, dict[str, str]]) -> Iterator[Outside]:
    """One for all tests that change nothing."""
    cluster, tags = installed
    with namespace(cluster, "test-egress", tags["example"]) as space, a_traveller(space) as made:
        yield made
        space.kubectl("delete", "agents", "--all", "--timeout=60s")
        space.nothing_left()


@pytest.fixture
def own_world(space: Space) -> Iterator[Outside]:
    """One for a test that changes it."""
    with a_traveller(space) as made:
        yield made


def in_force(space: Space, name: str = "outside") -> None:
    """The gateway has confirmed the binding's newest generation for the one Agent that it selects."""

    def confirmed() -> bool:
        found = space.get("toolbinding", name) or {}
        status, generation = found.get("status") or {}, found.get("metadata", {}).get("generation")
        return (status.get("observedGeneration"), status.get("programmed")) == (generation, 1)

    eventually(confirmed, f"ToolBinding {name} is in force")


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_find_their_way_out_and_are_refused_elsewhere(client: str, world: Outside):
    urls = {
        "TLS_URL": f"https://{HOST}:{world.tls}",
        "PLAIN_URL": f"http://{HOST}:{world.plain}",
        "OTHER_URL": f"https://other.example.com:{world.tls}",
    }
    told = json.loads(world.run("traveller", CLIENTS[client], **urls))
    assert told == {"tls": ANSWERS[client], "plain": ANSWERS[client], "refused": True}


def test_containers_have_the_proxy_in_their_environment(world: Outside):
    code = "import json, os; print(json.dumps({k: os.environ.get(k) for k in %r}))"
    both = [each for name in ("http_proxy", "https_proxy", "no_proxy") for each in (name, name.upper())]
    told = json.loads(world.space.inside("traveller", code % both))
    assert {told[name] for name in both if "no" not in name.lower()} == {"http://127.0.0.1:2489"}
    assert "127.0.0.1" in told["no_proxy"]
    assert told["no_proxy"] == told["NO_PROXY"]
    inside = f"import os; os.environ['URL'] = 'http://{HOST}:{world.plain}/hello'\n{ASK}"
    assert world.space.inside("traveller", inside).startswith("answer"), "and a program in the container itself finds its way by it"


def test_a_refusal_names_its_reason_and_the_next_step_and_nothing_of_the_policy(world: Outside):
    said = world.run("traveller", ASK, URL=f"http://other.example.com:{world.plain}/hello")
    assert said.startswith("refused 403")
    problem = json.loads(said.split(" ", 2)[2])
    assert problem["nextStep"]
    assert HOST not in said


def test_every_decision_is_a_line_of_the_audit(world: Outside):
    world.run("traveller", ASK, URL=f"http://{HOST}:{world.plain}/hello")
    world.run("traveller", ASK, URL=f"http://other.example.com:{world.plain}/")

    def lines() -> list[dict[str, object]]:
        written = kubectl(world.space.cluster, "-n", NAMESPACE, "exec", "daemonset/aios-gateway", "--", "cat", "/var/log/aios/egress.jsonl")
        whole = written.rpartition("\n")[0].splitlines()  # the last one may be half written
        return [line for line in map(json.loads, whole) if line["namespace"] == world.space.name]

    def both() -> list[dict[str, object]] | None:
        seen = lines()
        ports = {(line["verdict"], line["port"]) for line in seen}
        return seen if {("allow", world.plain), ("deny", world.plain)} <= ports else None

    found = eventually(both, "both decisions are in the file")
    ends = {(line["host"], line["verdict"]) for line in found if line["verdict"] != "open"}
    assert ends == {(HOST, "allow"), ("other.example.com", "deny")}
    assert {line["binding"] for line in found if line["verdict"] == "allow"} == {"outside"}
    assert "plain-0" in {line["rule"] for line in found}


def test_explain_says_the_same_as_the_gateway(world: Outside):
    def explain(host: str) -> "subprocess.CompletedProcess[str]":
        return aiosctl(world.space, "explain", "traveller", "-n", world.space.name, "--host", host)

    assert explain(f"{HOST}:{world.tls}").returncode == 0
    denied = explain(f"other.example.com:{world.tls}")
    assert denied.returncode == 1
    assert "no rule of the bindings that select it allows this" in denied.stdout


def test_ways_past_the_policy(own_world: Outside):
    """Each is a thing that a hostile program in the pod can send to its proxy."""
    authority = f"{HOST}:{own_world.tls}"
    connect = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}"
    inside = {"inside.example.com": ["127.0.0.1"], "meta.example.com": ["169.254.169.254"]}
    own_world.name({HOST: [own_world.address], "rebound.example.com": [own_world.address], **inside})
    own_world.space.apply(own_world.binding(HOST, "rebound.example.com", *inside))
    in_force(own_world.space)
    assert own_world.run("traveller", SNEAK, CONNECT=connect, SNI=HOST).startswith("answer"), "the honest one is let through"
    assert own_world.run("traveller", SNEAK, CONNECT=connect, SNI="other.example.com").startswith("cut"), "another server name"
    assert own_world.run("traveller", SNEAK, CONNECT=connect, SNI="").startswith("cut"), "no server name"
    for target in (
        f"other.example.com:{own_world.tls}",
        "10.0.0.1:443",
        f"[::ffff:{own_world.address}]:22",
        "dns.google:443",
        "localhost:443",
    ):
        refused = own_world.run("traveller", SNEAK, CONNECT=f"CONNECT {target} HTTP/1.1\r\nHost: {target}", SNI=HOST)
        assert refused.startswith("refused HTTP/1.1 403"), f"{target}: {refused}"
        assert '"reason": "EgressDenied"' in refused, target
    for internal in inside:
        said = own_world.run("traveller", ASK, URL=f"http://{internal}:{own_world.plain}/")
        assert said.startswith("refused 403"), f"{internal} is resolved to an address inside"
    # A host of its own: the gateway remembers answers for all agents of its node for some seconds.
    url = f"http://rebound.example.com:{own_world.plain}/hello"
    assert own_world.run("traveller", ASK, URL=url).startswith("answer")
    own_world.name({HOST: [own_world.address], "rebound.example.com": ["127.0.0.1"]})
    eventually(lambda: own_world.run("traveller", ASK, URL=url).startswith("refused 403"), "the name is asked for again and leads inside")


def test_a_removed_rule_ends_what_it_let_through(own_world: Outside):
    holder = own_world.start("traveller", HOLD, AUTHORITY=f"{HOST}:{own_world.tls}")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n", holder.stderr and holder.stderr.read()
    own_world.space.apply(own_world.binding())
    out, _ = holder.communicate(timeout=90)
    assert out.startswith("ended"), out
    assert own_world.run("traveller", ASK, URL=f"http://{HOST}:{own_world.plain}/hello").startswith("refused 403")


def test_audit_mode_counts_what_it_would_deny_and_still_keeps_what_is_inside_closed(own_world: Outside):
    """Every address of this world is private, so that Audit lets none of them through; the binding counts nothing for it."""
    space = own_world.space
    space.apply(own_world.binding(HOST, mode="Audit"))
    in_force(space)
    assert own_world.run("traveller", ASK, URL=f"http://other.example.com:{own_world.plain}/").startswith("refused 403")
    assert own_world.run("traveller", ASK, URL=f"http://{HOST}:{own_world.plain}/hello").startswith("answer")
    # An address that is public by its number and leads nowhere in this cluster: let through, counted, and not reached.
    assert not own_world.run("traveller", ASK, URL="http://203.0.113.7:80/").startswith("refused 403")
    eventually(lambda: (space.get("toolbinding", "outside") or {}).get("status", {}).get("wouldDeny"), "the binding counts it")

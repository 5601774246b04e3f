"""What a user gets from one Agent: a place, a booked share, an identity, no way out, a pod that is held tight."""

import json
from collections.abc import Iterator

import pytest

from aios_localcluster.cluster import LocalCluster
from e2e.support import Space, namespace

WHO = """
import json, os, socket, http.client, urllib.request
loopback = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(os.environ["AIOS_URL"] + "/v1/agent"))
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["AIOS_SOCKET"])
connection = Unix("localhost")
connection.request("GET", "/v1/agent")
print(json.dumps({"loopback": loopback, "socket": json.load(connection.getresponse()), "env": dict(os.environ)}))
"""

WAYS_OUT = """
import json, os, socket, time
def attempt(kind, family, address):
    s = socket.socket(family, kind)
    s.settimeout(20)
    try:
        s.connect(address)
        if kind == socket.SOCK_DGRAM:
            s.send(b"x"); time.sleep(0.1); s.send(b"x"); s.recv(1)
        result = "out"
    except TimeoutError:
        result = "silence"
    except OSError as error:
        result = os.strerror(error.errno) if error.errno else str(error)
    return result
T, U, A, B = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6
print(json.dumps({name: attempt(*way) for name, way in {
    "ipv4": (T, A, ("192.0.2.1", 443)), "ipv6": (T, B, ("2001:db8::1", 443)), "mapped": (T, B, ("::ffff:192.0.2.1", 443)),
    "metadata": (T, A, ("169.254.169.254", 80)), "apiserver": (T, A, (API, PORT)), "kubelet": (T, A, (NODE, 10250)),
    "service": (T, A, (SERVICE, 443)), "dns over udp": (U, A, ("192.0.2.53", 53)), "raw udp": (U, A, (NODE, 9)),
}.items()}))
"""

WRITE = """
import os
try:
    open("/run/aios/x", "w"); print("written")
except OSError as error:
    print(error.strerror)
print(os.listdir("/run/aios"))
"""


@pytest.fixture(scope="module")
def some(installed: tuple[LocalCluster, dict[str, str]]) -> Iterator[Space]:
    """Agents that run, for all tests that only look: a, b and odd have GPU memory, scribe has none."""
    cluster, tags = installed
    with namespace(cluster, "test-some", tags["example"]) as space:
        sizes = {"a": "24Gi", "b": "16Gi", "odd": "1000M", "scribe": None}
        space.apply(*(space.agent(name, memory=memory) for name, memory in sizes.items()))
        space.ready(*sizes)
        yield space
        space.kubectl("delete", "agents", "--all", "--timeout=60s")
        space.nothing_left()


def test_two_agents_share_one_gpu_and_each_knows_who_it_is(some: Space):
    a, b = some.ready("a", "b")
    assert a["status"]["gpu"]["uuid"] == b["status"]["gpu"]["uuid"], "best fit puts both on the GPU that they fill most"
    for agent in (a, b):
        name, status = agent["metadata"]["name"], agent["status"]
        seen = json.loads(some.inside(name, WHO))
        assert seen["socket"] == seen["loopback"], "socket and loopback are the same endpoint"
        who = seen["loopback"]
        identity = who["identity"]
        assert (identity["namespace"], identity["name"], identity["uid"]) == (some.name, name, agent["metadata"]["uid"])
        assert who["gpu"] == {field: status["gpu"][field] for field in ("uuid", "model", "memory")}
        assert who["node"] == status["nodeName"]
        assert seen["env"]["AIOS_AGENT"] == f"{some.name}/{name}"
        assert seen["env"]["NVIDIA_VISIBLE_DEVICES"] == "void"
        assert seen["env"]["HTTPS_PROXY"] == seen["env"]["http_proxy"] == seen["env"]["AIOS_URL"]


def test_the_share_is_booked_in_the_claim_to_the_byte(some: Space):
    (agent,) = some.ready("odd")
    (claim,) = some.objects("resourceclaims", "aios.dev/agent=odd")
    booked = {r["request"]: r["consumedCapacity"] for r in claim["status"]["allocation"]["devices"]["results"]}
    assert booked["gpu"]["memory"] in ("954Mi", str(954 * 2**20)), "1000M is 953.67 MiB, booked in whole MiB"
    assert booked["runtime"]["slots"] == "1"
    assert agent["status"]["gpu"]["memory"] == "954Mi"


def test_an_agent_without_a_gpu_holds_a_slot_and_nothing_else(some: Space):
    (agent,) = some.ready("scribe")
    assert "gpu" not in agent["status"]
    (claim,) = some.objects("resourceclaims", "aios.dev/agent=scribe")
    assert [r["name"] for r in claim["spec"]["devices"]["requests"]] == ["runtime"]


def test_no_way_leads_out_of_the_pod_and_each_attempt_is_refused_and_not_left_in_silence(some: Space):
    node = json.loads(some.kubectl("get", "nodes", "-o", "json"))["items"][0]
    address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    endpoints = json.loads(
        some.kubectl("get", "endpointslices", "-n", "default", "-l", "kubernetes.io/service-name=kubernetes", "-o", "json")
    )["items"][0]
    service = json.loads(some.kubectl("get", "service", "-n", "default", "kubernetes", "-o", "json"))["spec"]["clusterIP"]
    code = WAYS_OUT.replace("API", repr(endpoints["endpoints"][0]["addresses"][0])).replace("PORT", str(endpoints["ports"][0]["port"]))
    tried = json.loads(some.inside("scribe", code.replace("NODE", repr(address)).replace("SERVICE", repr(service))))
    assert {name: how for name, how in tried.items() if how in ("out", "silence")} == {}


def test_the_pod_meets_the_restricted_standard_and_every_container_needs_the_claim(space: Space):
    space.kubectl("label", "namespace", space.name, "pod-security.kubernetes.io/enforce=restricted")
    agent = space.agent("tight")
    template = agent["spec"]["template"]["spec"]
    template["securityContext"] = {"runAsNonRoot": True, "runAsUser": 1000}
    template["initContainers"] = [{**template["containers"][0], "name": "first", "command": ["python3", "-c", "print('hello')"]}]
    space.apply(agent)
    space.ready("tight")
    spec = space.get("pod", space.pod_of("tight"))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["dnsPolicy"] == "None"
    assert spec["dnsConfig"]["nameservers"] == ["127.0.0.1"]
    for container in spec["containers"] + spec["initContainers"]:
        assert container["resources"]["claims"] == [{"name": "aios"}]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    policy = space.get("networkpolicy", "aios-agents")
    assert sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    assert not policy["spec"].get("egress")
    assert not policy["spec"].get("ingress")


def test_an_agent_can_not_write_into_the_directory_that_identifies_it(some: Space):
    seen = some.inside("a", WRITE)
    assert seen.splitlines() == ["Read-only file system", "['agent.sock']"]


def test_get_agents_shows_what_a_person_wants_to_see(some: Space):
    head, row = some.kubectl("get", "agents", "b").splitlines()
    assert head.split()[0] == "NAME"
    assert {"GPU", "VRAM", "NODE", "READY"} <= set(head.split())
    assert "16Gi" in row
    assert "True" in row
    explained = some.kubectl("explain", "agent.spec.gpu")
    assert "share of one GPU" in explained or "share of a GPU" in explained

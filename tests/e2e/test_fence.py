"""The fence and what guards it in a real cluster: proven from inside, open where it is exposed, closed to what is added or pretended."""

import json
import subprocess

from aios_localcluster.kubeaios import kubectl
from e2e.support import IDLE, Object, Space, eventually

SERVE = """
import socket, threading
def serve(port):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        connection, _ = server.accept()
        connection.sendall(b"hello")
        connection.close()
for port in (8080, 8081):
    threading.Thread(target=serve, args=(port,), daemon=True).start()
"""

VISIT = """
import concurrent.futures, json, socket
def visit(port):
    try:
        with socket.create_connection((HOST, port), timeout=2) as s: return s.recv(10).decode()
    except OSError: return "refused"
print(json.dumps(list(concurrent.futures.ThreadPoolExecutor().map(visit, (8080, 8081, 2489)))))
"""

LOOK = """
import json, os, socket, urllib.request
def tried(kind, address):
    s = socket.socket(socket.AF_INET, kind); s.settimeout(3)
    try: s.connect(address); s.send(b"x"); return "out"
    except TimeoutError: return "silence"
    except OSError: return "held"
try:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); raw = "opened"
except PermissionError: raw = "not permitted"
open_it = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
who = json.load(open_it("http://127.0.0.1:2489/v1/agent"))["identity"]["name"]
print(json.dumps({"tcp": tried(socket.SOCK_STREAM, ("192.0.2.1", 443)), "udp": tried(socket.SOCK_DGRAM, ("192.0.2.53", 53)),
    "raw": raw, "socket": os.path.exists("/run/aios/agent.sock"), "who": who}))
"""


def refused(space: Space, *arguments: str, stdin: str | None = None) -> str:
    """What kubectl is told when the API server refuses; fails when it does not."""
    try:
        space.kubectl(*arguments, stdin=stdin)
    except subprocess.CalledProcessError as error:
        return str(error.stderr)
    raise AssertionError(f"kubectl {arguments} was accepted")


def pod(space: Space, name: str, code: str, **spec: object) -> Object:
    container = {"name": "c", "image": space.image, "imagePullPolicy": "IfNotPresent", "command": ["python3", "-c", code]}
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": space.name}, "spec": body}


def visited(space: Space, host: str) -> list[str]:
    """What another pod, the visitor, gets on the ports of the host."""
    seen: list[str] = json.loads(space.kubectl("exec", "visitor", "--", "python3", "-c", VISIT.replace("HOST", repr(host))))
    return seen


def is_open(space: Space, host: str, expected: list[str]) -> None:
    """Who says hello does so in the end; who refuses does so from the beginning."""

    def as_expected() -> bool:
        seen = visited(space, host)
        assert [each for each, wanted in zip(seen, expected, strict=True) if wanted == "refused" != each] == [], seen
        return seen == expected

    eventually(as_expected, f"{host} answers {expected}")


def test_the_fence_of_an_agent_is_proven_from_inside_and_said_so(space: Space):
    space.apply(space.agent("a"))
    space.ready("a")
    space.wait("a", "EgressFenced")
    message = space.condition("a", "EgressFenced")["message"]
    runtime, running = space.get("agentruntime", "a"), space.get("pod", space.pod_of("a"))
    probe = runtime["status"]["probe"]
    assert probe["podUID"] == running["metadata"]["uid"]
    assert probe["podUID"] in message
    assert probe["leaked"] == []
    assert "trouble" not in probe
    node = json.loads(kubectl(space.cluster, "get", "nodes", "-o", "json"))["items"][0]
    address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    kinds = {way.split()[0] for way in probe["tried"]}
    assert {"elsewhere", "metadata", "apiserver", "kubelet", "node", "pod", "resolver", "multicast"} <= kinds
    assert f"kubelet tcp {address}:10250" in probe["tried"]


def test_an_agent_is_reached_where_it_is_exposed_and_nowhere_else(space: Space):
    space.apply(space.agent("server", code=SERVE + IDLE, expose=[{"name": "web", "port": 8080}]), pod(space, "visitor", IDLE))
    space.ready("server")
    space.kubectl("wait", "pod", "visitor", "--for=condition=Ready", "--timeout=60s")
    address = space.get("pod", space.pod_of("server"))["status"]["podIP"]
    service = eventually(lambda: space.get("service", "server"), "there is a Service")
    eventually(lambda: space.get("agentruntime", "server")["status"].get("exposed"), "the fence is open")
    is_open(space, address, ["hello", "refused", "refused"])  # the program listens a moment after its container has started
    is_open(space, service["spec"]["clusterIP"], ["hello", "refused", "refused"])  # and kube-proxy knows the way later still
    started = space.get("pod", space.pod_of("server"))["metadata"]["uid"]
    space.patch("server", {"expose": [{"name": "other", "port": 8081}]})
    ports = [{"port": 8081, "protocol": "TCP"}]
    eventually(lambda: space.get("agentruntime", "server")["status"].get("exposed") == ports, "the fence is open elsewhere")
    is_open(space, address, ["refused", "hello", "refused"])
    space.patch("server", {"expose": None})
    eventually(lambda: "exposed" not in space.get("agentruntime", "server")["status"], "the fence is closed")
    assert visited(space, address) == ["refused"] * 3
    assert space.get("pod", space.pod_of("server"))["metadata"]["uid"] == started, "in force on the running pod"
    space.kubectl("delete", "pod", "visitor")


def looked(space: Space, pod: str) -> str:
    """What the container has printed; nothing before it has started."""
    try:
        return space.kubectl("logs", pod, "-c", "added")
    except subprocess.CalledProcessError:
        return ""


def test_a_container_that_is_added_later_has_what_the_pod_has_and_no_more(space: Space):
    space.apply(space.agent("a"))
    space.ready("a")
    name = space.pod_of("a")
    debug = ("debug", name, f"--image={space.image}", "--image-pull-policy=IfNotPresent", "--quiet")
    for profile in ("general", "netadmin", "sysadmin", "baseline"):
        assert "aios-ephemeral-containers" in refused(space, *debug, f"--profile={profile}", "-c", profile, "--", "true"), profile
    custom = json.dumps({"securityContext": {"runAsUser": 65534}})
    space.cluster.layout.root.joinpath("debug.json").write_text(custom)
    added = (f"--custom={space.cluster.layout.root / 'debug.json'}", "-c", "added", "--", "python3", "-c", LOOK)
    space.kubectl(*debug, "--profile=restricted", *added)
    seen = json.loads(eventually(lambda: looked(space, name), "it has looked around"))
    assert seen == {"tcp": "held", "udp": "held", "raw": "not permitted", "socket": False, "who": "a"}


def test_a_runtime_that_is_not_on_the_list_is_refused_at_apply(space: Space):
    agent = space.agent("kata")
    agent["spec"]["template"]["spec"]["runtimeClassName"] = "kata"
    assert "not every runtime keeps the fence" in space.refused(agent)

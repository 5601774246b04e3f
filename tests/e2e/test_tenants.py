"""What people of a namespace and a hostile program in an Agent's pod try on a real cluster. Nothing of it may be done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import NAMESPACE, kubectl
from api.callers import Caller, path_of
from api.support import connect
from e2e import hostile
from e2e.support import IDLE, Object, Space, eventually, namespace

RBAC = "/apis/rbac.authorization.k8s.io/v1"
LISTENING = "import socket; server = socket.create_server(('0.0.0.0', 8080))\n"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"
WHO = "import urllib.request; print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open('http://127.0.0.1:2489/v1/agent').read())"
PLAIN = """
import json, os, socket
def reach(port):
    try: socket.create_connection((HOST, port), timeout=3).close(); return "reached"
    except OSError: return "refused"
ours = [name for name in os.environ if name.startswith("AIOS_")]
print(json.dumps({"ours": ours, "run": os.path.exists("/run/aios"), "ports": [reach(2489), reach(8080)]}))
"""
INSIDE_THE_GATEWAY = """
import json, os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def write(path):
    try: open(path + "/x", "w"); return "written"
    except OSError as error: return error.strerror
root = next(line.split()[5] for line in open("/proc/self/mountinfo") if line.split()[4] == "/")
held = [status[field] for field in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")]
print(json.dumps({"uid": status["Uid"].split(), "held": held, "root": root.split(",")[0],
    "written": {path: write(path) for path in ("/", "/etc", "/usr/local/bin", "/run/aios/gateway")},
    "token": os.path.exists("/var/run/secrets/kubernetes.io"), "run": os.listdir("/run/aios")}))
"""


ROLES = "RBAC"
BINDING = 'requires resource="resourceclaims/binding"'
"""What Kubernetes itself asks of who writes a booking; where it does not, aios-bookings refuses it (tests/api)."""
Tried = dict[str, tuple[str, httpx.Response]]
"""By what was tried: who must refuse it, a policy of ours by its name, `ROLES` or `BINDING`, and the answer."""
KERNEL = {"EPERM", "ENOSYS"}
MISSING_FAMILY = {"machine", "express"}
"""Of these a kernel may know nothing."""
FILES = {
    "/run/aios/x": {"EROFS"},
    "/run/aios/agent.sock": {"ENXIO"},
    "/proc/sysrq-trigger": {"EROFS", "ENOENT"},
    "/proc/sys/net/ipv4/ip_forward": {"EROFS"},
    "/proc/sys/kernel/core_pattern": {"EROFS"},
    "/sys/fs/cgroup/x": {"EROFS", "EACCES"},
    "/sys/kernel/uevent_helper": {"EROFS", "ENOENT"},
}
"""What says no to who writes there: mounts that are read-only, and sockets that are no files."""


@dataclass(frozen=True)
class Tenants:
    """Two namespaces: `theirs`, where the Agent keeper is, and `own`, where the attackers are, one of whom has an Agent in it."""

    client: httpx.Client
    theirs: Space
    own: Space
    editor: Caller
    """Has the role `edit` in `own`."""
    owner: Caller
    """May do everything in `own`."""


@pytest.fixture(scope="module")
def tenants(installed: tuple[LocalCluster, dict[str, str]]) -> Iterator[Tenants]:
    cluster, tags = installed
    image = tags["example"]
    with connect(cluster) as client, namespace(cluster, "tenants-theirs", image) as theirs, namespace(cluster, "tenants-own", image) as own:
        everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
        rbac = f"{RBAC}/namespaces/{own.name}"
        assert client.post(f"{rbac}/roles", json={"metadata": {"name": "all"}, "rules": [everything]}).status_code == 201
        for who, kind, role in (("editor", "ClusterRole", "edit"), ("owner", "Role", "all")):
            subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": who}
            ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
            assert (
                client.post(f"{rbac}/rolebindings", json={"metadata": {"name": who}, "roleRef": ref, "subjects": [subject]}).status_code
                == 201
            )
        theirs.apply(theirs.agent("keeper", memory="1Gi", code=LISTENING + IDLE, expose=[{"name": "http", "port": 8081}]))
        stubborn = own.agent("stubborn", memory="2Gi", code=STUBBORN)
        stubborn["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 3600
        own.apply(own.agent("hostile"), stubborn)
        theirs.ready("keeper")
        own.ready("hostile", "stubborn")
        yield Tenants(client, theirs, own, Caller(client, "editor"), Caller(client, "owner"))
        for space in (theirs, own):
            space.kubectl("delete", "agents", "--all", "--wait=false")
            space.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
            space.nothing_left()


def pod(namespace: str, image: str, code: str = IDLE, **spec: object) -> Object:
    container = {"name": "c", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["python3", "-c", code]}
    body = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": namespace}, "spec": body}


def claim(namespace: str, kind: str = "ResourceClaim", device_class: str = "gpu.aios.dev") -> Object:
    spec: Object = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": device_class}}]}}
    if kind == "ResourceClaimTemplate":
        spec = {"spec": spec}
    return {"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": "mine", "namespace": namespace}, "spec": spec}


def is_allowed(answer: httpx.Response) -> bool:
    return answer.status_code in (200, 201)


def is_refused_by(by: str, who: Caller, answer: httpx.Response) -> bool:
    """By nobody else: an attempt that fails for another reason shows nothing."""
    said = {ROLES: f'User "{who.user}" cannot', BINDING: BINDING}.get(by, f"ValidatingAdmissionPolicy '{by}'")
    return answer.status_code == (422 if by == BINDING else 403) and said in answer.json()["message"]


def others(t: Tenants) -> dict[str, httpx.Response]:
    """What differs from the attempts in nothing but the harm in them, by the owner. Tried without being kept."""
    ns, who = t.own.name, t.owner
    running = {"kind": "Pod", "metadata": {"name": "hostile-1", "namespace": ns}}
    labelled = pod(ns, t.own.image)
    labelled["metadata"]["labels"] = {"example.com/agent": "hostile"}
    return {
        "a claim of another driver": who.create(claim(ns, device_class="gpu.example.com")),
        "a template of another driver": who.create(claim(ns, "ResourceClaimTemplate", "gpu.example.com")),
        "a pod": who.create(pod(ns, t.own.image)),
        "a claim of their own in a pod": who.create(pod(ns, t.own.image, resourceClaims=[{"name": "x", "resourceClaimName": "mine"}])),
        "a label of their own": who.create(labelled),
        "a label added to an agent's pod": who.patch(running, {"metadata": {"labels": {"example.com/agent": "x"}}}),
    }


def attempts_in_the_own_namespace(t: Tenants, who: Caller) -> Tried:
    """Of whom may edit: with what is the operator's in their own namespace. Tried without being kept."""
    ns = t.own.name
    order = {"kind": "AgentRuntime", "metadata": {"name": "hostile", "namespace": ns}}
    running = {"kind": "Pod", "metadata": {"name": "hostile-1", "namespace": ns}}
    booked = {"kind": "ResourceClaim", "metadata": {"name": "stubborn-1", "namespace": ns}}
    fence = {"kind": "NetworkPolicy", "metadata": {"name": "aios-agents", "namespace": ns}}
    thief = pod(ns, t.own.image, resourceClaims=[{"name": "x", "resourceClaimName": "stubborn-1"}])
    greedy = pod(ns, t.own.image)
    extended = {"deviceclass.resource.kubernetes.io/gpu.aios.dev": "1"}
    greedy["spec"]["containers"][0]["resources"] = {"requests": extended, "limits": extended}
    spoofed = pod(ns, t.own.image)
    spoofed["metadata"]["labels"] = {"aios.dev/agent": "hostile"}
    debug = {"name": "debug", "image": t.own.image, "securityContext": {"privileged": True}}
    forged = {"apiVersion": "aios.dev/v1alpha1", "kind": "AgentRuntime", "metadata": {"name": "forged", "namespace": ns}}
    forged["spec"] = {**t.own.get("agentruntime", "hostile")["spec"], "podName": "forged-1", "claimName": "forged-1"}
    return {
        "an order changed": ("aios-orders", who.patch(order, {"spec": {"attempt": 9, "podName": "hostile-9", "claimName": "hostile-9"}})),
        "an order made": ("aios-orders", who.create(forged)),
        "facts forged": ("aios-node-facts", who.patch(order, {"status": {"contractVersion": 1}}, "status")),
        "a claim of ours": ("aios-claims", who.create(claim(ns))),
        "a template of ours": ("aios-claims", who.create(claim(ns, "ResourceClaimTemplate"))),
        "an extended resource": ("aios-extended-resources", who.create(greedy)),
        "another's claim in a pod": ("aios-claims-of-agents", who.create(thief)),
        "a claim let go": ("aios-claims", who.patch(booked, {"metadata": {"finalizers": None}})),
        "a booking forged": (BINDING, who.patch(booked, {"status": {"reservedFor": None}}, "status")),
        "a label of an agent": ("aios-marks", who.create(spoofed)),
        "a label taken away": ("aios-marks", who.patch(running, {"metadata": {"labels": {"aios.dev/agent": None}}})),
        "a privileged container added": (
            "aios-ephemeral-containers",
            who.patch(running, {"spec": {"ephemeralContainers": [debug]}}, "ephemeralcontainers"),
        ),
        "the policy removed": ("aios-network", who.delete(fence)),
        "the policy opened": ("aios-network", who.patch(fence, {"spec": {"egress": [{}], "policyTypes": ["Egress"]}})),
        "a status forged": (
            "aios-statuses",
            who.patch({"kind": "Agent", "metadata": order["metadata"]}, {"status": {"attempt": 9}}, "status"),
        ),
    }


def attempts_elsewhere(t: Tenants, who: Caller) -> Tried:
    """With what is in the other namespace, in the release's, or in none."""
    gateway = json.loads(kubectl(t.own.cluster, "get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=gateway", "-o", "json"))
    name = gateway["items"][0]["metadata"]["name"]
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    released, keeper = f"/api/v1/namespaces/{NAMESPACE}", path_of("Pod", t.theirs.name, "keeper-1")
    tried = {
        "a command in another's agent": who.send("POST", f"{keeper}/exec?command=id"),
        "a port of another's agent": who.send("POST", f"{keeper}/portforward?ports=2489"),
        "another's agent by the API": who.send("GET", f"{keeper}:2489/proxy/v1/agent"),
        "another's log": who.send("GET", f"{keeper}/log"),
        "a container in another's agent": who.send("PATCH", f"{keeper}/ephemeralcontainers", {}, "application/merge-patch+json"),
        "a command in the gateway": who.send("POST", f"{released}/pods/{name}/exec?command=id"),
        "secrets of the release": who.send("GET", f"{released}/secrets"),
        "a token of the node agent": who.send("POST", f"{released}/serviceaccounts/aios-node/token", token),
        "who decides": who.send(
            "PATCH", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/aios-operator", {}, "application/merge-patch+json"
        ),
        "the kubelet": who.send("GET", f"/api/v1/nodes/{t.own.cluster.settings.node_name}/proxy/pods"),
        "a slice": who.send("GET", "/apis/resource.k8s.io/v1/resourceslices"),
        "a device class": who.send("POST", "/apis/resource.k8s.io/v1/deviceclasses", {"metadata": {"name": "mine"}, "spec": {}}),
        "the policies": who.send("DELETE", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/aios-orders"),
    }
    return {name: (ROLES, answer) for name, answer in tried.items()}


def test_people_of_a_namespace_get_neither_what_is_the_operators_nor_what_is_elsewhere(tenants: Tenants) -> None:
    assert {name: answer.text for name, answer in others(tenants).items() if not is_allowed(answer)} == {}
    for who in (tenants.editor, tenants.owner):
        tried = attempts_in_the_own_namespace(tenants, who) | attempts_elsewhere(tenants, who)
        by_roles = (ROLES,) if who is tenants.editor else ()  # whose own namespace is no editor's to write all of
        passed = {
            name: (by, answer.text)
            for name, (by, answer) in tried.items()
            if not any(is_refused_by(each, who, answer) for each in (by, *by_roles))
        }
        assert passed == {}, who.user
    for kind, spec in (("GPUQuota", {"agents": 9}), ("ToolBinding", {})):
        body = {"apiVersion": "aios.dev/v1alpha1", "kind": kind, "metadata": {"name": "mine", "namespace": tenants.own.name}, "spec": spec}
        assert is_refused_by(ROLES, tenants.editor, tenants.editor.create(body)), "what limits a namespace is not its editors' to write"


def test_a_file_of_the_node_is_for_no_pod_where_the_namespace_keeps_to_a_standard(tenants: Tenants) -> None:
    own = tenants.own
    relaxed = tenants.editor.send("PATCH", f"/api/v1/namespaces/{own.name}", {}, "application/merge-patch+json")
    assert is_refused_by(ROLES, tenants.editor, relaxed)
    own_label = "pod-security.kubernetes.io/enforce"
    kubectl(own.cluster, "label", "namespace", own.name, f"{own_label}=baseline")
    try:
        for path in ("/run/aios", "/var/lib/aios", "/"):
            host = pod(own.name, own.image, volumes=[{"name": "h", "hostPath": {"path": path}}])
            answer = tenants.owner.create(host)
            assert answer.status_code == 403, answer.text
            assert "hostPath volumes" in answer.text
    finally:
        kubectl(own.cluster, "label", "namespace", own.name, f"{own_label}-")


def test_a_pod_that_names_an_agents_device_gets_nothing_of_it_and_reaches_no_port_of_another(tenants: Tenants) -> None:
    own, theirs = tenants.own, tenants.theirs
    uid = own.get("resourceclaim", "stubborn-1")["metadata"]["uid"]
    address = theirs.get("pod", theirs.pod_of("keeper"))["status"]["podIP"]
    plain = pod(own.name, own.image, PLAIN.replace("HOST", repr(address)))
    plain["metadata"]["annotations"] = {"cdi.k8s.io/aios": f"gpu.aios.dev/claim={uid}"}
    own.apply(plain)
    eventually(lambda: (own.get("pod", "plain") or {}).get("status", {}).get("phase") == "Succeeded", "the pod has ended")
    assert json.loads(own.kubectl("logs", "plain")) == {"ours": [], "run": False, "ports": ["refused", "refused"]}
    own.kubectl("delete", "pod", "plain", "--wait=false")


def test_a_hostile_program_gets_nowhere(tenants: Tenants) -> None:
    own, theirs = tenants.own, tenants.theirs
    pods = json.loads(kubectl(own.cluster, "get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]
    ours = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each["status"]["podIP"] for each in pods}
    node = json.loads(own.kubectl("get", "nodes", "-o", "json"))["items"][0]
    kubelet = next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP")
    api = json.loads(own.kubectl("get", "service", "-n", "default", "kubernetes", "-o", "json"))["spec"]["clusterIP"]
    targets = {
        "another's agent": (theirs.get("pod", theirs.pod_of("keeper"))["status"]["podIP"], 2489),
        "the gateway": (ours["gateway"], 9490),
        "the node agent": (ours["node"], 9487),
        "the operator": (ours["operator"], 9486),
        "the kubelet": (kubelet, 10250),
        "the API": (api, 443),
        "metadata": ("169.254.169.254", 80),
    }
    seen = json.loads(own.inside("hostile", hostile.PROGRAM.replace("TARGETS", repr(targets))))
    kernel = {name: KERNEL | ({"EAFNOSUPPORT"} if name in MISSING_FAMILY else set()) for name in seen["kernel"]}
    assert {name: how for name, how in seen["kernel"].items() if how not in kernel[name]} == {}
    assert {path: how for path, how in seen["files"].items() if how not in FILES[path]} == {}
    assert seen["found"] == []
    assert [name for name in seen["unix"] if not name.startswith("/run/aios/agents/")] == []
    assert seen["network"] == dict.fromkeys(targets, "ECONNREFUSED"), "by the fence, before anybody is reached"
    answers = {**dict.fromkeys(targets, "403"), "a foreign host": "403", "a browser": "403", "another path": "404"}
    answers |= {"two lengths": "400", "a large head": "431", "metadata": "403"}
    assert seen["gateway"] == answers
    assert seen["name"] == "hostile"
    assert seen["held"] == {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}


def test_who_floods_the_gateway_keeps_nobody_else_from_it(tenants: Tenants) -> None:
    with ThreadPoolExecutor(1) as flood:
        flooding = flood.submit(tenants.own.inside, "hostile", hostile.FLOOD)
        answered = 0
        while not flooding.done():
            assert json.loads(tenants.theirs.inside("keeper", hostile.ASKING)) == {"200": 200}
            answered += 200
        assert answered > 0, "the flood lasted"
        assert json.loads(flooding.result())["connected"] > 5000
    assert "hostile" in tenants.own.inside("hostile", WHO)


def test_an_agent_that_wants_more_than_its_part_keeps_its_limits(tenants: Tenants) -> None:
    own, client = tenants.own, tenants.client
    limits = {"items": 200, "content": "1Mi"}
    own.apply(own.agent("greedy", context={"limits": limits}), own.agent("wordy", code=hostile.LAST_WORDS, restartPolicy="Never"))
    own.ready("greedy")
    answers = json.loads(own.inside("greedy", hostile.GREED))
    assert answers["201"] == 40, "what is old goes, so that what is new finds room"
    assert answers["400"] == 1, "an item has its bound"
    assert answers.keys() - {"201", "400"} <= {"413", "BrokenPipeError", "ConnectionResetError"}, "and so has a request"
    eventually(
        lambda: 0 < (own.get("agent", "greedy") or {}).get("status", {}).get("context", {}).get("items", 0) <= 200, "its limits are kept"
    )
    own.wait("wordy", "Completed")
    told = [own.get("agent", "wordy"), *json.loads(own.kubectl("get", "events", "-o", "json"))["items"]]
    assert max(len(json.dumps(each)) for each in told) < 16_384

    quota = {"metadata": {"name": "agents"}, "spec": {"hard": {"count/agents.aios.dev": "4"}}}
    assert client.post(f"/api/v1/namespaces/{own.name}/resourcequotas", json=quota).status_code == 201
    counted = {"count/agents.aios.dev": "4"}
    eventually(lambda: (own.get("resourcequota", "agents") or {}).get("status", {}).get("used") == counted, "the quota has counted")
    assert "exceeded quota" in own.refused(own.agent("one-more")), "who may have so many Agents takes no more slots of nodes"
    own.kubectl("delete", "agent", "greedy", "wordy")


def test_a_pod_that_is_deleted_by_force_keeps_nothing_of_what_it_had(tenants: Tenants) -> None:
    """Its program ignores the signal and has an hour of grace; its share is booked for the next attempt."""
    own = tenants.own
    uid = own.get("pod", "stubborn-1")["metadata"]["uid"]
    processes = ["sh", "-c", f"grep -l {uid} /proc/[0-9]*/cgroup 2>/dev/null | wc -l"]
    assert int(own.cluster.node_exec(processes)) > 0
    answer = tenants.editor.keeping().send("DELETE", path_of("Pod", own.name, "stubborn-1"), {"gracePeriodSeconds": 0})
    assert answer.status_code == 200, answer.text
    eventually(lambda: own.get("pod", "stubborn-2"), "there is a next attempt")
    own.ready("stubborn")
    eventually(lambda: int(own.cluster.node_exec(processes)) == 0, "nothing of the first attempt runs")
    told = ("get", "events", "--field-selector", "reason=LeftRunning", "-o", "name")
    eventually(lambda: own.kubectl(*told), "and it is said")


def test_the_gateway_that_runs_has_no_privilege_no_token_and_nothing_to_write_but_its_own(tenants: Tenants) -> None:
    cluster = tenants.own.cluster
    seen = json.loads(kubectl(cluster, "exec", "-n", NAMESPACE, "daemonset/aios-gateway", "--", "python3", "-c", INSIDE_THE_GATEWAY))
    assert seen["uid"] == ["64489"] * 4
    assert seen["held"] == ["0" * 16, "0" * 16, "1", "2"]
    assert seen["root"] == "ro"
    assert set(seen["written"].values()) == {"Read-only file system"}
    assert seen["token"] is False
    assert seen["run"] == ["gateway"]

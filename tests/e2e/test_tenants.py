"""What people of a namespace and a hostile program in an Agent's pod try on a real cluster. Nothing of it may be done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from aios_api import names
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import NAMESPACE, kubectl
from api.callers import Caller, made, path_of
from api.support import connect
from e2e import hostile
from e2e.attempts import MERGE, NOTE, Tenants, of_agents, of_others, of_pods_and_claims, of_the_operators, pod, policy, role
from e2e.support import IDLE, eventually, namespace

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


REFUSED = (403, 422)
"""By a role or a policy, or since what is written is not what may be."""
KEEPERS = "what only the keeper knows"
KEEP = f"""
import json, os, urllib.request
items = {{"items": [{{"role": "user", "content": "{KEEPERS}"}}]}}
request = urllib.request.Request(os.environ["AIOS_URL"] + "/v1/context/items", json.dumps(items).encode())
print(urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open(request).read())
"""


def said(answer: httpx.Response) -> str:
    """The sentence of a refusal, or why it is none."""
    body = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
    return str(body["message"]) if answer.status_code in REFUSED else f"{answer.status_code}: {answer.text}"


@pytest.fixture(scope="module")
def tenants(installed: tuple[LocalCluster, dict[str, str]]) -> Iterator[Tenants]:
    cluster, tags = installed
    image = tags["example"]
    with connect(cluster) as client, namespace(cluster, "tenants-theirs", image) as theirs, namespace(cluster, "tenants-own", image) as own:
        everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
        rbac = f"{RBAC}/namespaces/{own.name}"
        assert client.post(f"{rbac}/roles", json={"metadata": {"name": "all"}, "rules": [everything]}).status_code == 201
        for who, kind, bound in (("editor", "ClusterRole", "edit"), ("owner", "Role", "all")):
            subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": who}
            ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": bound}
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


def test_people_of_a_namespace_get_neither_what_is_the_operators_nor_what_is_elsewhere(tenants: Tenants) -> None:
    """Each refusal is the one that is meant, since the same is accepted without what is hostile in it."""
    tried = of_the_operators(tenants) | of_pods_and_claims(tenants) | of_agents(tenants) | of_others(tenants)
    twins = {what: attempt.twin() for what, attempt in tried.items()}
    assert {
        what: (answer.status_code, answer.text) for what, answer in twins.items() if answer.status_code not in tried[what].accepted
    } == {}
    for who in (tenants.editor, tenants.owner):
        answers = {what: (attempt, attempt.tried(who)) for what, attempt in tried.items()}
        otherwise = {
            what: (answer.status_code, answer.text)
            for what, (attempt, answer) in answers.items()
            if answer.status_code not in REFUSED or (attempt.editor if who == tenants.editor else attempt.owner) not in said(answer)
        }
        assert otherwise == {}, who.user


@pytest.mark.parametrize("kind", ["GPUQuota", "ToolBinding"])
def test_what_limits_a_namespace_is_not_its_editors_to_write(tenants: Tenants, kind: str) -> None:
    metadata = {"name": "mine", "namespace": tenants.own.name}
    spec = {"agents": 9} if kind == "GPUQuota" else {}
    body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    assert role("create", f"{kind.lower()}s", names.GROUP) in said(tenants.editor.create(body))
    made(tenants.owner.create(body))


def test_a_file_of_the_node_is_for_no_pod_where_the_namespace_keeps_to_a_standard(tenants: Tenants) -> None:
    own = tenants.own
    own_label = "pod-security.kubernetes.io/enforce"
    privileged = {"metadata": {"labels": {own_label: "privileged"}}}
    standards = policy(
        "aios-namespaces", "labels that begin with pod-security.kubernetes.io/ are changed by who may update every namespace"
    )
    for who, words in ((tenants.editor, role("patch", "namespaces")), (tenants.owner, standards)):
        assert words in said(who.send("PATCH", f"/api/v1/namespaces/{own.name}", privileged, MERGE))
    made(tenants.owner.send("PATCH", f"/api/v1/namespaces/{own.name}", NOTE, MERGE))
    kubectl(own.cluster, "label", "namespace", own.name, f"{own_label}=baseline")
    try:
        for path in ("/run/aios", "/var/lib/aios", "/"):
            host = pod(own.name, own.image, volumes=[{"name": "h", "hostPath": {"path": path}}])
            for who in (tenants.editor, tenants.owner):
                assert 'violates PodSecurity "baseline:latest": hostPath volumes (volume "h")' in said(who.create(host))
        made(tenants.owner.create(pod(own.name, own.image, volumes=[{"name": "h", "emptyDir": {}}])))
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
    theirs.inside("keeper", KEEP)
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
    assert {name: how for name, how in seen["kernel"].items() if how not in {"EPERM"} | hostile.UNKNOWN.get(name, set())} == {}
    assert {path: how for path, how in seen["files"].items() if how not in hostile.FILES[path]} == {}
    assert seen["found"] == []
    assert [name for name in seen["unix"] if not name.startswith("/run/aios/agents/")] == []
    assert seen["network"] == {**dict.fromkeys(targets, "ECONNREFUSED"), "its own endpoint": "done"}
    assert seen["gateway"] == {**dict.fromkeys(targets, "403 EgressDenied"), **hostile.GATEWAY}
    assert seen["name"] == "hostile"
    assert KEEPERS in theirs.inside("keeper", hostile.READ)
    assert KEEPERS not in seen["context"], "it is the context of who asks, whoever he says he is"
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

    one_more = own.agent("one-more")
    for who in (tenants.editor, tenants.owner):
        made(who.create(one_more))
    quota = {"metadata": {"name": "agents"}, "spec": {"hard": {"count/agents.aios.dev": "4"}}}
    assert client.post(f"/api/v1/namespaces/{own.name}/resourcequotas", json=quota).status_code == 201
    counted = {"count/agents.aios.dev": "4"}
    eventually(lambda: (own.get("resourcequota", "agents") or {}).get("status", {}).get("used") == counted, "the quota has counted")
    spent = "exceeded quota: agents, requested: count/agents.aios.dev=1, used: count/agents.aios.dev=4, limited: count/agents.aios.dev=4"
    for who in (tenants.editor, tenants.owner):
        assert spent in said(who.create(one_more)), "who may have so many Agents takes no more slots of nodes"
    raised = {"spec": {"hard": {"count/agents.aios.dev": "99"}}}
    by_the_editor = tenants.editor.send("PATCH", f"/api/v1/namespaces/{own.name}/resourcequotas/agents", raised, MERGE)
    assert role("patch", "resourcequotas") in said(by_the_editor)
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

"""A cluster of its own in which Agents go on: what they stand on is killed, upgraded, switched off, removed and installed again."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from typing import Any

from aios_api import names
from aios_api.quantity import parse_bytes
from aios_bench.faults.checkout import of_tests
from aios_bench.faults.node.checker import Held, Look, judge
from aios_bench.faults.scenario import Outcome, Scenario
from aios_localcluster import kubeaios
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.errors import LocalClusterError
from aios_localcluster.host import why_not

Object = dict[str, Any]
NAME, SPACE = "faults", "upheavals"
BINDING = {
    "apiVersion": names.API_VERSION,
    "kind": "ToolBinding",
    "metadata": {"name": "bound"},
    "spec": {"agentSelector": {"matchLabels": {"bound": "yes"}}, "egress": [{"name": "one", "host": "bound.example"}]},
}
"""A host that there is not: whoever may go there is told so, and everybody else that he may not."""
AGENTS = {"a": "4Gi", "b": None, "c": "8Gi"}
EXPOSED = [{"name": "http", "port": 8080, "protocol": "TCP"}]
MADE = ("agents", "agentruntimes", "pods", "resourceclaims", "services", "networkpolicies")
"""What there is of an Agent in its namespace."""
PATIENCE_SECONDS = 120
REBOOT_SECONDS = 240
"""A kubelet finds its containers gone, and waits between its tries to start them while our programs come back themselves."""
GPUS = 2

PROGRAM = """
import http.client, json, os, signal, socket, sys, time, urllib.parse
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
url = urllib.parse.urlsplit(os.environ["AIOS_URL"])
def ask(method, path, body=None, key=None):
    call = http.client.HTTPConnection(url.hostname, url.port, timeout=5)
    try:
        call.request(method, path, body and json.dumps(body), {"Idempotency-Key": key} if key else {})
        answer = call.getresponse()
        read = answer.read()
        return json.loads(read) if answer.status in (200, 201) else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        call.close()
number = None
while True:
    if number is None:
        newest = ask("GET", "/v1/context/items?newest=1")
        if newest is not None:
            number = int(newest["items"][0]["content"]) + 1 if newest["items"] else 1
    elif ask("POST", "/v1/context/items", {"items": [{"role": "user", "content": str(number)}]}, f"k{number}"):
        print(number, flush=True)
        number += 1
    time.sleep(0.05)
"""
"""Appends 1, 2, 3 … to its context, goes on where it was, and prints what was acknowledged."""

SEEN = """
import http.client, json, os, socket, urllib.parse
def names():
    url = urllib.parse.urlsplit(os.environ["AIOS_URL"])
    yield http.client.HTTPConnection(url.hostname, url.port, timeout=5)
    unix = http.client.HTTPConnection("localhost", timeout=5)
    unix.sock = socket.socket(socket.AF_UNIX)
    unix.sock.settimeout(5)
    unix.sock.connect(os.environ["AIOS_SOCKET"])
    yield unix
def name(call):
    call.request("GET", "/v1/agent")
    return json.loads(call.getresponse().read())["identity"]["name"]
try:
    socket.create_connection(("192.0.2.1", 443), timeout=3)
    fenced = False
except TimeoutError:
    fenced = False
except OSError:
    fenced = True
def connect(host):
    call = next(names())
    call.request("CONNECT", f"{host}:443", headers={"Host": f"{host}:443"})
    return call.getresponse().status
loopback, unix = map(name, names())
items, following = [], 1
while following is not None:
    call = next(names())
    call.request("GET", f"/v1/context/items?first={following}&limit=1000")
    answer = json.loads(call.getresponse().read())
    items += [int(item["content"]) for item in answer["items"]]
    following = answer["next"]
print(json.dumps({"fenced": fenced, "loopback": loopback, "socket": unix, "items": items,
    "bound": connect("bound.example"), "other": connect("other.example")}))
"""


class Upheaval:
    """The cluster, with Agents that go on all the time."""

    def __init__(self, cluster: LocalCluster, space: Any) -> None:
        self.cluster = cluster
        self.space = space
        self.acknowledged = dict.fromkeys(AGENTS, 0)
        self.mute_seconds = 60

    def begin(self) -> None:
        agents = [self.space.agent(name, memory=memory, code=PROGRAM, expose=EXPOSED) for name, memory in AGENTS.items()]
        for agent in agents:
            agent["metadata"]["labels"] = {"bound": "yes"}
        self.space.apply(BINDING, *agents)
        self.space.ready(*AGENTS)
        self.pods = self._pods()

    def _pods(self) -> dict[str, tuple[str, int]]:
        """By name: the uid, and how often a container of it was started again."""
        return {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], sum(each["restartCount"] for each in pod["status"]["containerStatuses"]))
            for pod in self.space.objects("pods")
        }

    def _note(self) -> None:
        """What was acknowledged so far, by the logs that the node has of all containers of the pod, is remembered."""
        for name in AGENTS:
            pod = self.space.pod_of(name)
            uid, _ = self.pods[pod]
            logs = self.cluster.node_exec(["sh", "-c", f"cat /var/log/pods/{SPACE}_{pod}_{uid}/*/*.log 2>/dev/null || true"])
            said = [line.rpartition(" ")[2] for line in logs.splitlines()]
            self.acknowledged[name] = max(self.acknowledged[name], *(int(each) for each in said if each.isdecimal()), 0)

    def check(self, what: str, *, undisturbed: bool, seconds: float = PATIENCE_SECONDS) -> Outcome:
        """Everything is as it must be after `what`; with `undisturbed`, no container of an Agent was started again."""
        self.space.ready(*AGENTS, timeout_seconds=seconds)
        found = self._settled(seconds)
        self.space.ready(*AGENTS, timeout_seconds=seconds)
        if not all(self.acknowledged.values()):
            raise AssertionError(f"the Agents must have gone on: {self.acknowledged} items were acknowledged")
        after = self._pods()
        moved = [name for name, (uid, _) in self.pods.items() if after.get(name, ("", 0))[0] != uid]
        restarted = [name for name, pod in self.pods.items() if undisturbed and after.get(name) != pod]
        self.pods = after
        notes = [f"pod {name} is another one" for name in moved] + [f"a container of pod {name} was started again" for name in restarted]
        total = found + Outcome(objects_lost=len(notes), notes=tuple(notes))
        return Outcome(**{**vars(total), "notes": tuple(f"after {what}: {note}" for note in total.notes)})

    def _settled(self, seconds: float) -> Outcome:
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = self._look()
            except (ValueError, KeyError, OSError, LocalClusterError, subprocess.CalledProcessError) as error:
                found = Outcome(objects_lost=1, notes=(f"an Agent could not be asked: {getattr(error, 'stderr', '') or error}",))
            if not found.broken or time.monotonic() > deadline:
                return found
            time.sleep(1)

    def _look(self) -> Outcome:
        self._note()
        claims = {claim["metadata"]["labels"][names.LABEL_AGENT]: claim for claim in self.space.objects("resourceclaims")}
        seen = {name: json.loads(self.space.inside(name, SEEN)) for name in AGENTS}
        uids = {name: claim["metadata"]["uid"] for name, claim in claims.items()}
        held = {uids[name]: Held(name, _booked(claim), name) for name, claim in claims.items()}
        states = {state["claim_uid"]: state for state in map(self._state, self._files("/var/lib/aios/claims", ".json"))}
        voices = {f"loopback {name}": each["loopback"] for name, each in seen.items()}
        voices |= {f"socket {uids[name]}": each["socket"] for name, each in seen.items()}
        workers = self.cluster.node_exec(["ps", "-eo", "args"]).count("aios_sidecar.vram.worker")
        wrong = judge(
            held,
            Look(
                states=frozenset(states),
                known=frozenset(uid for uid, state in states.items() if state["pod_uid"] and state["sandbox"]),
                cdi_files=frozenset(name.removeprefix("gpu.aios.dev-") for name in self._files("/run/cdi", ".json")),
                directories=frozenset(self._files("/run/aios/agents")),
                strays=tuple(self._files("/var/lib/aios/claims", ".tmp")),
                fenced={uids[name]: each["fenced"] for name, each in seen.items()},
                voices=voices,
                booked_bytes=int(self._said("node", "aios_gpu_booked_bytes")),
                prepared=int(self._said("node", "aios_node_prepared_claims")),
                served=int(self._said("gateway", "aios_gateway_agents")),
                workers=workers,
                gpus=GPUS,
            ),
        )
        lost = sum(
            max(self.acknowledged[name] - len(each["items"]), 0) + (each["items"] != list(range(1, len(each["items"]) + 1)))
            for name, each in seen.items()
        )
        open_ = [
            f"{name} was told {each['bound']} of its own host and {each['other']} of another"
            for name, each in seen.items()
            if each["bound"] == 403 or each["other"] != 403
        ]
        wrong += Outcome(unfenced_starts=len(open_), notes=tuple(open_))
        return wrong + Outcome(context_items_lost=lost, notes=(f"{lost} items are lost or not in their place",) if lost else ())

    def _said(self, component: str, metric: str) -> float:
        """By the program itself; all labels together."""
        own = ("-n", kubeaios.NAMESPACE, "get")
        pods = json.loads(kubeaios.kubectl(self.cluster, *own, "pods", "-l", f"app.kubernetes.io/component={component}", "-o", "json"))[
            "items"
        ]
        (pod,) = [pod for pod in pods if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]]
        port = next(each["containerPort"] for each in pod["spec"]["containers"][0]["ports"] if each["name"] == "http")
        path = f"/api/v1/namespaces/{kubeaios.NAMESPACE}/pods/{pod['metadata']['name']}:{port}/proxy/metrics"
        lines = kubeaios.kubectl(self.cluster, "get", "--raw", path).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition(" ")[0].partition("{")[0] == metric)

    def _files(self, directory: str, ending: str = "") -> list[str]:
        """Names in a directory of the node, without the ending that they have."""
        listed = self.cluster.node_exec(["sh", "-c", f"ls -A {directory} 2>/dev/null || true"]).split()
        return [name.removesuffix(ending) for name in listed if name.endswith(ending)]

    def _state(self, uid: str) -> Object:
        state: Object = json.loads(self.cluster.node_exec(["cat", f"/var/lib/aios/claims/{uid}.json"]))["claim"]
        return state

    # ── what happens ──

    def upgrade(self) -> Outcome:
        """All three programs are replaced, one after the other: for a while two versions speak with each other."""
        self.mute_seconds += 5
        chart = (kubeaios.RELEASE, str(kubeaios.CHART), "--namespace", kubeaios.NAMESPACE, "--reuse-values")
        kubeaios.helm(self.cluster, "upgrade", *chart, *self._value(), "--wait", "--timeout", f"{PATIENCE_SECONDS}s")
        return Outcome(1) + self.check("the chart was upgraded", undisturbed=True)

    def kill(self, component: str) -> Outcome:
        """A part of the node that is not ours ends, and its supervisor starts it again."""
        starts = self._starts(component)
        self.cluster.kill(component)
        self._until(lambda: self._starts(component) > starts, f"{component} was started again")
        self.cluster.up(_say_nothing)
        return Outcome(1) + self.check(f"{component} was killed", undisturbed=True)

    def _starts(self, component: str) -> int:
        return next(int(each["starts"]) for each in self.cluster.status() if each["name"] == component)

    def reboot(self) -> Outcome:
        """The power fails: every process of the cluster ends at once, and what lay under /run is gone; it is switched on again."""
        self.cluster.down(keep_state=True)
        self.cluster.up(_say_nothing)
        return Outcome(1) + self.check("the machine was switched off and on", undisturbed=False, seconds=REBOOT_SECONDS)

    def reinstall(self) -> Outcome:
        """The chart is removed, and with it all Agents; and it is installed again, and they are applied again."""
        kubeaios.uninstall(self.cluster)
        left = [f"{each['kind']} {each['metadata']['name']}" for each in self.space.objects(",".join(MADE))]
        for directory, ending in (("/var/lib/aios/claims", ".json"), ("/run/cdi", ".json"), ("/run/aios/agents", "")):
            left += [f"{directory}/{name}" for name in self._files(directory, ending) if ".aios.dev-" in name or directory != "/run/cdi"]
        kubeaios.install(self.cluster, _say_nothing, kubeaios.FAKE_GPUS)
        self.acknowledged = dict.fromkeys(AGENTS, 0)
        self.begin()
        gone = Outcome(1, orphans=len(left), notes=tuple(f"after the chart was removed: {each} is left" for each in left))
        return gone + self.check("the chart was removed and installed again", undisturbed=True)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise LocalClusterError(f"not within {PATIENCE_SECONDS} s: {what}")
            time.sleep(0.3)

    def _value(self) -> tuple[str, str]:
        """One that each of the three programs is given."""
        return "--set", f"muteSeconds={self.mute_seconds}"


def _booked(claim: Object) -> int:
    results = claim["status"]["allocation"]["devices"]["results"]
    return sum(parse_bytes(each["consumedCapacity"][names.CAPACITY_MEMORY]) for each in results if each["request"] == names.REQUEST_GPU)


def _say_nothing(line: str) -> None:
    del line


def are_survived(seed: int, size: str) -> Outcome:
    """One after the other; in the long form often, in an order of the seed's."""
    chance = random.Random(seed)  # noqa: S311 - repeatable
    cluster, support = LocalCluster(name=NAME), of_tests("e2e.support")
    cluster.down()
    try:
        cluster.up(_say_nothing)
        tags = kubeaios.install(cluster, _say_nothing, kubeaios.FAKE_GPUS)
        with support.namespace(cluster, SPACE, tags["example"]) as space:
            upheaval, total = Upheaval(cluster, space), Outcome()
            upheaval.begin()
            kinds: list[Callable[[], Outcome]] = [
                upheaval.upgrade,
                lambda: upheaval.kill("kubelet"),
                lambda: upheaval.kill("containerd"),
                upheaval.reboot,
                upheaval.reinstall,
            ]
            for happens in kinds if size == "small" else chance.choices(kinds, k=20):
                total += happens()
            return total
    finally:
        cluster.down()


SCENARIOS = (
    Scenario(
        "cluster-upheavals",
        "Agents run while the chart is upgraded, kubelet and containerd are killed, the power fails, the chart is removed and put back.",
        "cluster",
        are_survived,
        why_not,
    ),
)

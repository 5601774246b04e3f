"""A cluster of its own whose chart is upgraded while Agents go on in it."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from aios_api import names
from aios_api.quantity import parse_bytes
from aios_bench.faults.checkout import of_tests
from aios_bench.faults.node_checker import Held, Look, judge
from aios_bench.faults.scenario import Outcome, Scenario
from aios_localcluster import kubeaios
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.errors import LocalClusterError
from aios_localcluster.host import why_not

Object = dict[str, Any]
NAME, SPACE = "faults", "upheavals"
AGENTS = {"a": "4Gi", "b": None, "c": "8Gi"}
PATIENCE_SECONDS = 120
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
loopback, unix = map(name, names())
items, following = [], 1
while following is not None:
    call = next(names())
    call.request("GET", f"/v1/context/items?first={following}&limit=1000")
    answer = json.loads(call.getresponse().read())
    items += [int(item["content"]) for item in answer["items"]]
    following = answer["next"]
print(json.dumps({"fenced": fenced, "loopback": loopback, "socket": unix, "items": items}))
"""


class Upheaval:
    """The cluster, with Agents that go on all the time."""

    def __init__(self, cluster: LocalCluster, space: Any) -> None:
        self.cluster = cluster
        self.space = space
        self.acknowledged = dict.fromkeys(AGENTS, 0)
        self.mute_seconds = 60

    def begin(self) -> None:
        self.space.apply(*(self.space.agent(name, memory=memory, code=PROGRAM) for name, memory in AGENTS.items()))
        self.space.ready(*AGENTS)
        self.pods = self._pods()

    def _pods(self) -> dict[str, tuple[str, int]]:
        """By name: the uid, and how often a container of it was started again."""
        return {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], sum(each["restartCount"] for each in pod["status"]["containerStatuses"]))
            for pod in self.space.objects("pods")
        }

    def note(self) -> None:
        """What was acknowledged so far is remembered."""
        for name in AGENTS:
            said = self.space.kubectl("logs", self.space.pod_of(name)).split()
            self.acknowledged[name] = max(self.acknowledged[name], *map(int, said), 0)

    def check(self, what: str, *, undisturbed: bool) -> Outcome:
        """Everything is as it must be after `what`; with `undisturbed`, no container of an Agent was started again."""
        self.space.ready(*AGENTS, timeout_seconds=PATIENCE_SECONDS)
        found = self._settled()
        self.space.ready(*AGENTS, timeout_seconds=PATIENCE_SECONDS)
        after = self._pods()
        moved = [name for name, (uid, _) in self.pods.items() if after.get(name, ("", 0))[0] != uid]
        restarted = [name for name, pod in self.pods.items() if undisturbed and after.get(name) != pod]
        self.pods = after
        notes = [f"pod {name} is another one" for name in moved] + [f"a container of pod {name} was started again" for name in restarted]
        total = found + Outcome(objects_lost=len(notes), notes=tuple(notes))
        return Outcome(**{**vars(total), "notes": tuple(f"after {what}: {note}" for note in total.notes)})

    def _settled(self) -> Outcome:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                found = self._look()
            except (ValueError, KeyError, OSError, LocalClusterError, subprocess.CalledProcessError) as error:
                found = Outcome(objects_lost=1, notes=(f"an Agent could not be asked: {getattr(error, 'stderr', '') or error}",))
            if not found.broken or time.monotonic() > deadline:
                return found
            time.sleep(1)

    def _look(self) -> Outcome:
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
                booked_bytes=sum((state["gpu"] or {}).get("memory_bytes", 0) for state in states.values()),
                prepared=len(states),
                served=len(seen),
                workers=workers,
                gpus=GPUS,
            ),
        )
        lost = sum(
            max(self.acknowledged[name] - len(each["items"]), 0) + (each["items"] != list(range(1, len(each["items"]) + 1)))
            for name, each in seen.items()
        )
        return wrong + Outcome(context_items_lost=lost, notes=(f"{lost} items are lost or not in their place",) if lost else ())

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

    def _value(self) -> tuple[str, str]:
        """One that each of the three programs is given."""
        return "--set", f"muteSeconds={self.mute_seconds}"


def _booked(claim: Object) -> int:
    results = claim["status"]["allocation"]["devices"]["results"]
    return sum(parse_bytes(each["consumedCapacity"][names.CAPACITY_MEMORY]) for each in results if each["request"] == names.REQUEST_GPU)


def _say_nothing(line: str) -> None:
    del line


def upgrades(seed: int, size: str) -> Outcome:
    """Each replaces all three programs, which say the same at each seed."""
    del seed
    cluster, support = LocalCluster(name=NAME), of_tests("e2e.support")
    cluster.down()
    try:
        cluster.up(_say_nothing)
        tags = kubeaios.install(cluster, _say_nothing, kubeaios.FAKE_GPUS)
        with support.namespace(cluster, SPACE, tags["example"]) as space:
            upheaval, total = Upheaval(cluster, space), Outcome()
            upheaval.begin()
            for _ in range(1 if size == "small" else 10):
                upheaval.note()
                total += upheaval.upgrade()
            return total
    finally:
        cluster.down()


SCENARIOS = (
    Scenario(
        "chart-upgraded",
        "The chart is upgraded with Agents running: all three programs are replaced, and no Agent is started again.",
        "cluster",
        upgrades,
        why_not,
    ),
)

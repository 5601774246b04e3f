"""Who takes more of a GPU than his share, in a real cluster on GPUs that do not exist: programs in the pods say what they use."""

import json
import time
import urllib.request

from aios_localcluster.kubeaios import NAMESPACE, kubectl
from e2e.support import Object, Space, eventually

PLAYS = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
os.makedirs("/tmp/aios-fake-vram", exist_ok=True)
while True:
    signal.pause()
"""
"""An agent that waits; what it uses is told by `uses`."""

SAY = """
import os
open("/tmp/aios-fake-vram/1.new", "w").write("gpu={gpu} used={mib}Mi\\n")
os.rename("/tmp/aios-fake-vram/1.new", "/tmp/aios-fake-vram/1")
"""
FORK = """
import os, time
if os.fork() == 0:
    os.setsid()
    [os.close(n) for n in (0, 1, 2)]
    open(f'/tmp/aios-fake-vram/{{os.getpid()}}', 'w').write('gpu={gpu} used={mib}Mi\\n')
    time.sleep(1000)
"""


def player(space: Space, name: str, memory: str) -> Object:
    return space.agent(name, memory=memory, code=PLAYS, gpu={"models": ["NVIDIA L40S"]})


def gpu_of(space: Space, name: str) -> str:
    found = space.get("agent", name)
    assert found is not None
    return str(found["status"]["gpu"]["uuid"])


def uses(space: Space, name: str, mib: int) -> None:
    space.inside(name, SAY.format(gpu=gpu_of(space, name), mib=mib))


def restarts(space: Space, name: str) -> int:
    pod = space.get("pod", space.pod_of(name))
    assert pod is not None
    return sum(int(status["restartCount"]) for status in pod["status"]["containerStatuses"])


def metrics(space: Space) -> dict[str, float]:
    """Of the node agent, by name and labels."""
    pods = json.loads(kubectl(space.cluster, "-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component=node", "-o", "json"))
    pod = pods["items"][0]
    port = next(p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"] if p["name"] == "http")
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:{port}/metrics", timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_an_agent_that_takes_more_than_its_share_is_killed_and_named_and_its_neighbour_is_not(space):
    space.apply(player(space, "greedy", "2Gi"), player(space, "neighbour", "4Gi"))
    space.ready("greedy", "neighbour", timeout_seconds=150)
    for name in ("greedy", "neighbour"):
        assert space.wait(name, "EnforcementVerified")["status"]["gpu"]["enforcement"] == "Watch"
        space.wait(name, "WithinShare")
        space.wait(name, "EgressFenced")
    assert gpu_of(space, "greedy") == gpu_of(space, "neighbour")
    label = f'{{gpu="{gpu_of(space, "greedy")}"}}'

    uses(space, "neighbour", 4096)
    uses(space, "greedy", 2048)
    eventually(lambda: metrics(space).get(f"aios_gpu_used_bytes{label}") == 6144 << 20, "both are seen")
    eventually(lambda: metrics(space).get(f"aios_gpu_booked_bytes{label}") == 6144 << 20, "what tests before have left is released")
    eventually(lambda: metrics(space).get(f"aios_gpu_unattributed_bytes{label}") == 0, "each is an Agent's")
    assert metrics(space)[f"aios_gpu_capacity_bytes{label}"] == 48 << 30
    space.at_rest(4)
    assert restarts(space, "greedy") == 0, "a share that is used in full is watched without a word"

    uses(space, "greedy", 5000)
    began = time.monotonic()
    eventually(lambda: restarts(space, "greedy") == 1, "the container was killed")
    ended = space.get("pod", space.pod_of("greedy"))["status"]["containerStatuses"][0]["lastState"]["terminated"]
    print(f"seen restarted after {time.monotonic() - began:.1f} s: {ended}")
    assert ended["exitCode"] == 137
    said = space.wait("greedy", "WithinShare", "False")["status"]
    message = next(c for c in said["conditions"] if c["type"] == "WithinShare")["message"]
    assert "used 5000Mi" in message
    assert "2440Mi more than its share of 2Gi and 512Mi for contexts" in message
    events = eventually(lambda: [e for e in space.objects("events") if e["reason"] == "ShareExceeded"], "there is an event")
    assert [(e["involvedObject"]["kind"], e["involvedObject"]["name"]) for e in events] == [("Agent", "greedy")]
    assert restarts(space, "neighbour") == 0
    assert space.condition("neighbour", "WithinShare")["status"] == "True"
    space.wait("greedy", "Ready")


def test_the_processes_of_an_agent_count_together(space):
    space.apply(player(space, "forks", "2Gi"))
    space.ready("forks", timeout_seconds=150)
    space.wait("forks", "EnforcementVerified")
    label = f'{{gpu="{gpu_of(space, "forks")}"}}'
    uses(space, "forks", 1500)
    space.inside("forks", FORK.format(gpu=gpu_of(space, "forks"), mib=1500))
    eventually(lambda: metrics(space).get(f"aios_gpu_used_bytes{label}") == 3000 << 20, "both are seen")
    assert restarts(space, "forks") == 0, "two contexts beside 2Gi make room for 3000Mi"
    uses(space, "forks", 1600)
    eventually(lambda: restarts(space, "forks") == 1, "100 MiB more of one of them end them both")


KILL_WORKERS = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        command = open(f"/proc/{pid}/cmdline").read().split(chr(0))
    except OSError:
        continue
    if "aios_sidecar.vram.worker" in command:
        os.kill(int(pid), signal.SIGKILL)
"""


def test_a_killed_worker_is_replaced_and_agents_never_notice(space):
    space.apply(player(space, "calm", "2Gi"))
    space.ready("calm", timeout_seconds=150)
    space.wait("calm", "EnforcementVerified")
    label = f'{{gpu="{gpu_of(space, "calm")}"}}'
    kubectl(space.cluster, "-n", NAMESPACE, "exec", "daemonset/aios-node", "--", "python3", "-c", KILL_WORKERS)
    uses(space, "calm", 700)
    eventually(lambda: metrics(space).get(f"aios_gpu_used_bytes{label}") == 700 << 20, "the next worker reads")
    assert space.condition("calm", "EnforcementVerified")["status"] == "True"
    assert restarts(space, "calm") == 0
    uses(space, "calm", 5000)
    eventually(lambda: restarts(space, "calm") == 1, "the next worker watches")

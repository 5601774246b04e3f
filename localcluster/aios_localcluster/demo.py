"""`make demo`: a real Kubernetes on this machine, KubeAIOS in it, Agents that run, and what a person wants to see of them."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from aios_localcluster import demo_reach, kubeaios
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.errors import LocalClusterError
from aios_localcluster.kubeaios import ROOT, kubectl

QUICKSTART = ROOT / "examples" / "quickstart"
RESEARCH, SUPPORT = "research", "support"
RUNNING = {RESEARCH: ("researcher", "coder", "greedy", "scribe"), SUPPORT: ("answerer",)}
AGENT_SECONDS = 90
"""How long an Agent may take to be as it should be, images loaded."""

INSIDE = """
import json, os, socket, time, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
who = json.load(opener.open(os.environ["AIOS_URL"] + "/v1/agent"))
for part in ("identity", "node", "gpu"):
    print(f"{part:<11} {json.dumps(who[part])}")
print(f"{'conditions':<11} {', '.join(each['type'] for each in who['conditions'] if each['status'] == 'True')}")
for family, address in ((socket.AF_INET, ("192.0.2.1", 443)), (socket.AF_INET6, ("2001:db8::1", 443))):
    began = time.monotonic()
    try:
        socket.create_connection(address[:2], timeout=5)
        print(f"connect to {address[0]}: it went out")
    except OSError as error:
        print(f"connect to {address[0]}: {error.strerror or error} after {(time.monotonic() - began) * 1000:.0f} ms")
"""


class Steps:
    """Prints each step with the time since the start, so that a person sees what takes how long."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)


def show(why: str, command: str, output: str) -> None:
    print(f"\n{why}\n$ {command}\n{output.rstrip()}", flush=True)


def tour(cluster: LocalCluster, step: Callable[[str], None], fake: bool) -> None:
    """The quickstart is applied, and what a person wants to see of it is printed: who runs, who waits and why, who took too much.

    `fake`: the GPUs are those of the fake driver library, on which agents can pretend to use VRAM.
    """
    step("applying examples/quickstart with kubectl: two teams, six Agents")
    kubectl(cluster, "apply", "-f", str(QUICKSTART))
    for space, names in RUNNING.items():
        _wait(cluster, space, "Ready", *names)
    _wait(cluster, SUPPORT, "Placed=False", "translator")
    step("the Agents are ready, but for one that waits")

    show("Two teams share the GPUs:", "kubectl get agents -A", kubectl(cluster, "get", "agents", "-A"))
    pending = json.loads(kubectl(cluster, "-n", SUPPORT, "get", "agent", "translator", "-o", "json"))["status"]["pending"]
    show(
        "Who waits says why, and the smallest change that would help:",
        "kubectl -n support get agent translator -o jsonpath='{.status.pending}'",
        f"{pending['message']}\nwhat would help: {pending['smallestChange']}",
    )
    pod = _pod(cluster, "researcher")
    show(
        "An agent knows who it is, and there is no way out that was not granted:",
        f"from inside the pod {pod}: GET $AIOS_URL/v1/agent, and two connections to the outside",
        kubectl(cluster, "-n", RESEARCH, "exec", pod, "--", "python3", "-c", INSIDE),
    )
    demo_reach.tour(cluster, show)
    remembers = _pod(cluster, demo_reach.AGENT)
    show(
        "What an agent was told stays in its context; a window of it is shown to a model, by a strategy, within a budget of tokens:",
        f"kubectl -n research exec {remembers} -- remember",
        kubectl(cluster, "-n", RESEARCH, "exec", remembers, "--", "remember"),
    )
    if fake:
        _take_too_much(cluster)
    # No terminal, so it prints once. 100 columns: half of a screen.
    top = [str(Path(sys.executable).with_name("aiosctl")), "top", "--once", "-A", "--kubeconfig", str(cluster.kubeconfig)]
    seen = subprocess.run(top, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    show("All of it at a glance (live in your terminal without --once):", "aiosctl top --once -A", seen.stdout)


def _take_too_much(cluster: LocalCluster) -> None:
    """greedy has 2Gi and takes 6Gi: it is stopped, by name, and its neighbours on the GPU are not."""
    pod = _pod(cluster, "greedy")
    restarts = "jsonpath={.status.containerStatuses[0].restartCount}"
    before = int(kubectl(cluster, "-n", RESEARCH, "get", "pod", pod, "-o", restarts))  # of a tour before this one, too
    said = kubectl(cluster, "-n", RESEARCH, "exec", pod, "--", "agent", "pretend", "6Gi")
    show("One takes more than its share. It has booked 2Gi:", f"kubectl -n research exec {pod} -- agent pretend 6Gi", said)
    _wait(cluster, RESEARCH, "WithinShare=False", "greedy")
    kubectl(cluster, "-n", RESEARCH, "wait", f"--for={restarts}={before + 1}", f"--timeout={AGENT_SECONDS}s", f"pod/{pod}")
    kubectl(cluster, "-n", RESEARCH, "wait", "--for=condition=Ready", f"--timeout={AGENT_SECONDS}s", f"pod/{pod}")
    _wait(cluster, RESEARCH, "Ready", "greedy")
    found = json.loads(kubectl(cluster, "-n", RESEARCH, "get", "agent", "greedy", "-o", "json"))["status"]["conditions"]
    share = next(each["message"] for each in found if each["type"] == "WithinShare")
    show(
        "A moment later it was stopped, by name, and has started again:", "kubectl -n research describe agent greedy   (WithinShare)", share
    )
    show("Its neighbours on the same GPU noticed nothing:", "kubectl -n research get pods", kubectl(cluster, "-n", RESEARCH, "get", "pods"))


def _wait(cluster: LocalCluster, space: str, condition: str, *names: str) -> None:
    agents = [f"agents/{name}" for name in names]
    kubectl(cluster, "-n", space, "wait", f"--for=condition={condition}", f"--timeout={AGENT_SECONDS}s", *agents)


def _pod(cluster: LocalCluster, agent: str) -> str:
    return kubectl(cluster, "-n", RESEARCH, "get", "agent", agent, "-o", "jsonpath={.status.podName}")


def up() -> None:
    step = Steps()
    cluster = LocalCluster()
    cluster.up(step)
    fake = None
    if kubeaios.real_gpu_library() is None:
        fake = kubeaios.FAKE_GPUS
        step("this machine has no NVIDIA GPU: the node agent runs on a FAKE driver library that describes two GPUs;")
        step("placement and bookkeeping are real, VRAM is not")
    kubeaios.install(cluster, step, fake)
    tour(cluster, step, fake is not None)
    print(f"""
That was a real kube-apiserver, kube-scheduler, kubelet, containerd and runc{", and a fake GPU driver" if fake else ""}.
Go on from here:
  export KUBECONFIG={cluster.kubeconfig}
  alias kubectl={cluster.kubectl_path}
  kubectl explain agent.spec.gpu
  kubectl -n support edit gpuquota team          # raise it to what translator says, and see it start
  aiosctl top -A                                 # {Path(sys.executable).with_name("aiosctl")}
  aiosctl explain translator -n support
  make demo-down                                 # remove all of it""")
    step("done")


def main() -> int:
    arguments = argparse.ArgumentParser(prog="demo", description=__doc__)
    arguments.add_argument("--down", action="store_true", help="remove the local cluster and all that runs in it")
    try:
        if arguments.parse_args().down:
            LocalCluster().down()
            print("The local cluster is gone. What was built stays in the cache for the next time.")
        else:
            up()
    except subprocess.CalledProcessError as failed:
        command = " ".join(Path(str(part)).name if i == 0 else str(part) for i, part in enumerate(failed.cmd))
        print(f"\n{command}\nfailed: {(failed.stderr or failed.stdout or '').strip()}", file=sys.stderr)
        print("aiosctl local status and aiosctl local logs COMPONENT say more.", file=sys.stderr)
        return 1
    except LocalClusterError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

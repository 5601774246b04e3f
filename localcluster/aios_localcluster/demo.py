"""`make demo`: a real Kubernetes on this machine, KubeAIOS in it, Agents that run, and what a person wants to see of them."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from aios_localcluster import kubeaios
from aios_localcluster.cluster import LocalCluster
from aios_localcluster.errors import LocalClusterError
from aios_localcluster.kubeaios import ROOT, kubectl

QUICKSTART = ROOT / "examples" / "quickstart"
SPACE = "quickstart"
RUNNING = ("researcher", "coder", "scribe")

INSIDE = """
import json, os, socket, time, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
who = json.load(opener.open(os.environ["AIOS_URL"] + "/v1/agent"))
for part in ("identity", "node", "gpu", "share"):
    print(f"{part:<9} {json.dumps(who[part])}")
for condition in who["conditions"]:
    print(f"{condition['type']:<9} {condition['status']}: {condition['message']}")
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


def show(command: str, output: str) -> None:
    print(f"\n$ {command}\n{output.rstrip()}", flush=True)


def wait_for_agents(cluster: LocalCluster, timeout_seconds: int = 90) -> None:
    names = [f"agents/{name}" for name in RUNNING]
    kubectl(cluster, "-n", SPACE, "wait", "--for=condition=Ready", f"--timeout={timeout_seconds}s", *names)
    kubectl(cluster, "-n", SPACE, "wait", "--for=condition=Placed=False", f"--timeout={timeout_seconds}s", "agents/giant")


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
    step("applying examples/quickstart with kubectl")
    kubectl(cluster, "apply", "-f", str(QUICKSTART))
    wait_for_agents(cluster)
    step("the Agents are ready")

    show("kubectl -n quickstart get agents", kubectl(cluster, "-n", SPACE, "get", "agents"))
    pending = json.loads(kubectl(cluster, "-n", SPACE, "get", "agent", "giant", "-o", "json"))["status"]["pending"]
    show(
        "kubectl -n quickstart get agent giant -o jsonpath='{.status.pending}'",
        f"{pending['message']}\nwhat would help: {pending['smallestChange']}",
    )
    pod = kubectl(cluster, "-n", SPACE, "get", "agent", "researcher", "-o", "jsonpath={.status.podName}")
    inside = kubectl(cluster, "-n", SPACE, "exec", pod, "--", "python3", "-c", INSIDE)
    show(f"from inside the pod {pod}: GET $AIOS_URL/v1/agent, and two connections to the outside", inside)

    print(f"""
That was a real kube-apiserver, kube-scheduler, kubelet, containerd and runc{", and a fake GPU driver" if fake else ""}.
Go on from here:
  export KUBECONFIG={cluster.kubeconfig}
  alias kubectl={cluster.kubectl_path}
  kubectl explain agent.spec.gpu
  kubectl -n quickstart describe agent researcher
  kubectl -n quickstart edit agent giant        # lower spec.gpu.memory to what it says, and see it start
  make demo-down                                # remove all of it""")
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

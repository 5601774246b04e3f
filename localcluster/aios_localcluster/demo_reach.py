"""The part of the demo about the way out: an agent asks a model by its name, is refused elsewhere, and a binding is changed as in Git."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.kubeaios import ROOT, kubectl

REACH = ROOT / "examples" / "reach"
SPACE, AGENT, BINDING = "research", "scribe", "models"
MODEL, ELSEWHERE = "http://model.models.svc.cluster.local", "http://paste.example.com"
IN_FORCE_SECONDS = 30
"""How long a gateway may take to confirm a policy; it takes a fraction of a second."""

Show = Callable[[str, str, str], None]


def tour(cluster: LocalCluster, show: Show) -> None:
    """Applies `examples/reach` and prints what the agent then reaches."""
    kubectl(cluster, "apply", "-f", str(REACH))
    kubectl(cluster, "-n", "models", "rollout", "status", "deployment/model", "--timeout=90s")
    _in_force(cluster)
    pod = kubectl(cluster, "-n", SPACE, "get", "agent", AGENT, "-o", "jsonpath={.status.podName}")
    command = f"kubectl -n {SPACE} exec {pod} -- chat"
    show("A ToolBinding lets it ask a model by its name:", f"{command} {MODEL} hello", _answer(cluster, pod))
    show("Nothing else, and a refusal says what to do:", f"{command} {ELSEWHERE} hello", _chat(cluster, pod, ELSEWHERE))
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / "head"
        head.mkdir()
        changed = _without_the_model(REACH / "binding.yaml")
        (head / "binding.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
        (head / "agent.yaml").write_text(_agent(cluster))
        base = Path(folder) / "base"
        base.mkdir()
        (base / "binding.yaml").write_text((REACH / "binding.yaml").read_text())
        (base / "agent.yaml").write_text(_agent(cluster))
        difference = subprocess.run(
            [str(Path(sys.executable).with_name("aiosctl")), "diff", str(base), str(head)], capture_output=True, text=True, check=False
        )
        show("A change of the binding in Git is reviewed as what it is:", "aiosctl diff base head", difference.stdout)
        began = time.monotonic()
        kubectl(cluster, "apply", "-f", str(head / "binding.yaml"))
        _in_force(cluster)
        took = time.monotonic() - began
    show(f"Applied, and in force {took:.1f} s later, on the running pod:", f"{command} {MODEL} hello", _chat(cluster, pod, MODEL))


def _answer(cluster: LocalCluster, pod: str) -> str:
    """What the model says, once kube-proxy knows where its Service leads, which is a moment after its pod is ready."""
    until = time.monotonic() + IN_FORCE_SECONDS
    while (said := _chat(cluster, pod, MODEL)).startswith("502") and time.monotonic() < until:
        time.sleep(0.3)
    return said


def _chat(cluster: LocalCluster, pod: str, url: str) -> str:
    """What it prints, also when it is refused."""
    try:
        return kubectl(cluster, "-n", SPACE, "exec", pod, "--", "chat", url, "hello")
    except subprocess.CalledProcessError as refused:
        return str(refused.stdout)


def _in_force(cluster: LocalCluster) -> None:
    """The gateway has confirmed the newest generation of the binding. Raises TimeoutError."""
    until = time.monotonic() + IN_FORCE_SECONDS
    while True:
        found = json.loads(kubectl(cluster, "-n", SPACE, "get", "toolbinding", BINDING, "-o", "json"))
        status: dict[str, Any] = found.get("status") or {}
        if status.get("observedGeneration") == found["metadata"]["generation"] and status.get("programmed") == status.get("agents") == 1:
            return
        if time.monotonic() > until:
            raise TimeoutError(f"ToolBinding {BINDING} was not in force within {IN_FORCE_SECONDS} s: {status}")
        time.sleep(0.05)


def _without_the_model(manifest: Path) -> dict[str, Any]:
    """The binding with another host in the place of the model."""
    binding: dict[str, Any] = yaml.safe_load(manifest.read_text())
    egress = binding["spec"]["egress"]
    egress[0] = {"name": "model", "host": "api.openai.com"}
    return binding


def _agent(cluster: LocalCluster) -> str:
    found = json.loads(kubectl(cluster, "-n", SPACE, "get", "agent", AGENT, "-o", "json"))
    kept = {key: found["metadata"][key] for key in ("name", "namespace", "labels")}
    return json.dumps({"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": kept, "spec": found["spec"]})

"""The context of an Agent on a real node: the agent appends, people look at it with `aiosctl`, and it goes with the Agent."""

import json
import os
import subprocess
import sys

from e2e.support import Space, eventually

REMEMBER = """
import json, os, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
items = [{"role": "user", "author": "ann", "content": text} for text in ("the report is due on Tuesday", "sesquipedalian small talk")]
request = urllib.request.Request(os.environ["AIOS_URL"] + "/v1/context/items", json.dumps({"items": items}).encode())
print(opener.open(request, timeout=10).status)
"""


def aiosctl(space: Space, *arguments: str) -> str:
    """What `aiosctl context` prints; it finds the cluster's own kubectl."""
    path = f"{space.cluster.kubectl_path.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(space.cluster.kubeconfig), "COLUMNS": "120", "PATH": path}
    program = [sys.executable, "-c", "from aios_cli.main import main; main(prog_name='aiosctl')"]
    done = subprocess.run(
        [*program, "context", *arguments, "-n", space.name], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def contexts(space: Space) -> set[str]:
    """The uids of those who have one, as the node's gateway says."""
    selector = "app.kubernetes.io/component=gateway"
    (pod,) = json.loads(space.kubectl("get", "pods", "-A", "-l", selector, "-o", "json"))["items"]
    admin = ["python3", "-m", "aios_sidecar.gateway.contexts.admin", "GET", "/contexts"]
    said = space.kubectl("exec", "-n", pod["metadata"]["namespace"], pod["metadata"]["name"], "--", *admin)
    return {each["uid"] for each in json.loads(said)["contexts"]}


def test_a_context_is_seen_and_exported_and_goes_with_its_agent_if_that_was_asked_for(space: Space):
    space.apply(space.agent("forgets", context={"reclaim": "Erase"}), space.agent("stays"))
    space.ready("forgets", "stays")
    uids = {name: (space.get("agent", name) or {})["metadata"]["uid"] for name in ("forgets", "stays")}
    for name in uids:
        assert space.inside(name, REMEMBER).strip() == "201"
    shown = aiosctl(space, "show", "forgets")
    assert "2 items" in shown
    exported = [json.loads(line) for line in aiosctl(space, "export", "forgets").splitlines()]
    assert [item["content"] for item in exported] == ["the report is due on Tuesday", "sesquipedalian small talk"]
    assert "Tuesday" in aiosctl(space, "search", "forgets", "report tuesday")
    assert "Tuesday" in aiosctl(space, "window", "forgets", "--model", "gpt-4o", "--budget", "500", "--query", "When is the report due?")
    space.kubectl("delete", "agents", "forgets", "stays")
    eventually(lambda: uids["forgets"] not in contexts(space), "the context of an Agent with reclaim Erase is gone")
    assert uids["stays"] in contexts(space)
    (erased,) = eventually(lambda: [each for each in space.objects("events") if each["reason"] == "ContextErased"], "that is told")
    assert erased["involvedObject"]["uid"] == uids["forgets"]
    assert "2 items" in erased["message"]

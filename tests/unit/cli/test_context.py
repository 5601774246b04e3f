"""The context of an Agent from the command line, with a gateway that answers as the real one does."""

import json
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aios_api.context import Strategy
from aios_cli import context as command
from aios_cli.cluster import Target
from aios_cli.main import main
from aios_kube import resources
from aios_kube.fake import FakeCluster

TO = Target(Path("/somewhere/config"), "admin@cluster", "team")
PLACE = command.Place("6a9c", "aios", "aios-gateway-x")


class Gateway:
    """Answers by method and path; what it was asked, and with which environment, stays."""

    def __init__(self, answers: dict[tuple[str, str], object], refuse: bool = False) -> None:
        self.answers, self.refuse, self.asked, self.commands = answers, refuse, [], []

    def __call__(self, argv, environment):
        self.commands.append((argv, environment["KUBECONFIG"]))
        method, path, *content = argv[argv.index("aios_sidecar.gateway.contexts.admin") + 1 :]
        path = path.removeprefix("/contexts/6a9c")
        self.asked.append((method, path, json.loads(content[0]) if content else None))
        return subprocess.CompletedProcess(argv, int(self.refuse), json.dumps(self.answers[method, path]), "")


@pytest.fixture
def aiosctl(monkeypatch):
    def run(gateway: Gateway, *arguments: str, answer: str | None = None):
        monkeypatch.setattr(command, "_run", gateway)
        monkeypatch.setattr(command, "_place", lambda agent, **where: (TO, PLACE))
        return CliRunner().invoke(main, ["context", *arguments], input=answer)

    return run


def item(seq: int, text: str) -> dict:
    return {"seq": seq, "time": "2026-01-01T00:00:00Z", "author": None, "role": "user", "content": text}


def test_the_gateway_is_asked_in_its_pod_with_the_chosen_cluster():
    gateway = Gateway({("GET", "/sessions"): {"sessions": []}})
    assert command.ask(TO, PLACE, "GET", "/sessions", run=gateway) == {"sessions": []}
    ((argv, kubeconfig),) = gateway.commands
    assert argv[:9] == ["kubectl", "--context", "admin@cluster", "exec", "-n", "aios", "aios-gateway-x", "-c", "gateway"]
    assert kubeconfig == "/somewhere/config"


def test_a_refusal_says_what_must_be_true():
    problem = {"detail": "budget must be given.", "nextStep": "Change the field that is named."}
    with pytest.raises(click.ClickException, match=r"budget must be given\. Change the field"):
        command.ask(TO, PLACE, "POST", "/window", {}, run=Gateway({("POST", "/window"): problem}, refuse=True))


def test_a_gateway_that_does_not_answer_is_told_in_its_own_words():
    def run(argv, environment):
        return subprocess.CompletedProcess(argv, 1, "", "error: pods is forbidden\n")

    with pytest.raises(click.ClickException, match="did not answer: error: pods is forbidden"):
        command.ask(TO, PLACE, "GET", "", run=run)


def test_all_items_are_exported_page_by_page(aiosctl):
    gateway = Gateway(
        {
            ("GET", "/items?first=1&limit=1000"): {"items": [item(1, "a"), item(2, "b")], "next": 7},
            ("GET", "/items?first=7&limit=1000"): {"items": [item(7, "Łódź")], "next": None},
        }
    )
    done = aiosctl(gateway, "export", "coder")
    assert [json.loads(line)["content"] for line in done.output.splitlines()] == ["a", "b", "Łódź"]


def test_a_search_shows_a_line_for_each_item(aiosctl):
    gateway = Gateway({("POST", "/search"): {"found": [{"item": item(4, "the\nships"), "score": 2.0}]}})
    done = aiosctl(gateway, "search", "coder", "ships", "--limit", "3")
    assert gateway.asked == [("POST", "/search", {"query": "ships", "limit": 3})]
    assert done.output == "      4  2026-01-01T00:00:00Z  user: the ships\n"


def test_erasing_asks_first_and_prints_the_receipt(aiosctl):
    receipt = {"items": 2, "seqs": "1,4", "places": {"items": 1, "derived": 1}}
    gateway = Gateway({("POST", "/erase"): receipt})
    assert aiosctl(gateway, "erase", "coder", "--author", "ann", answer="n\n").exit_code == 1
    assert gateway.asked == []
    done = aiosctl(gateway, "erase", "coder", "--label", "case=7", "--yes")
    assert gateway.asked == [("POST", "/erase", {"label": {"case": "7"}})]
    assert "2 items erased: 1,4" in done.output
    for wrong in ([], ["--author", "a", "--everything"]):
        refused = aiosctl(gateway, "erase", "coder", *wrong, "--yes")
        assert refused.exit_code == 2
        assert "exactly one of" in refused.output


def test_a_window_is_asked_for_and_drawn(aiosctl):
    answer = {
        "format": "ours",
        "items": [{"seq": 1, "text": "we saw ships"}],
        "tokens": {"used": 9, "budget": 100, "reserve": 0, "exact": True, "countedBy": "o200k"},
        "prefix": {"digest": "sha256:0"},
        "receipt": {"in": [{"items": [1], "reason": "Newest", "tokens": 9}], "out": [], "notNamed": 0},
        "lastSeq": 1,
    }
    gateway = Gateway({("POST", "/window"): answer})
    done = aiosctl(gateway, "window", "coder", "--model", "gpt-4o", "--budget", "100", "--strategy", "sliding")
    assert gateway.asked == [("POST", "/window", {"model": "gpt-4o", "budget": 100, "strategy": {"type": "sliding"}})]
    assert "we saw ships" in done.output
    aiosctl(gateway, "window", "coder", "--model", "gpt-4o", "--strategy", "hierarchical")
    (*_, (_, _, asked)) = gateway.asked
    assert Strategy.model_validate(asked["strategy"]).preset == "CoreWorkingArchive"


async def test_the_gateway_is_that_of_the_node_with_the_context():
    fake = FakeCluster()
    body = {"apiVersion": "aios.dev/v1alpha1", "kind": "Agent", "metadata": {"namespace": "team", "name": "coder"}, "spec": {}}
    labels = {"app.kubernetes.io/part-of": "kubeaios", "app.kubernetes.io/component": "gateway"}
    await fake.create(resources.AGENTS, body, field_manager="user")
    with pytest.raises(click.ClickException, match="has no context yet"):
        await command.locate(fake, "team", "coder")
    known = await fake.get(resources.AGENTS, "coder", "team")
    status = {"nodeName": "n1", "context": {"nodeName": "n2"}}
    await fake.patch(resources.AGENTS, "coder", {"status": status}, namespace="team", subresource="status", field_manager="aios-operator")
    with pytest.raises(click.ClickException, match="no gateway runs on node n2"):
        await command.locate(fake, "team", "coder")
    for node in ("n1", "n2"):
        pod = {"metadata": {"namespace": "aios", "name": f"gateway-{node}", "labels": labels}, "spec": {"nodeName": node}}
        await fake.create(resources.PODS, pod, field_manager="user")
    assert await command.locate(fake, "team", "coder") == command.Place(known["metadata"]["uid"], "aios", "gateway-n2")

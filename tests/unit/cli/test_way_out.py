"""`aiosctl explain AGENT --host`: allowed or not, by whom, and what would allow it; on files and on a cluster's objects."""

import copy
import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from aios_api.egress import EgressPolicy, compile_policy, read_binding
from aios_cli import way_out
from aios_cli.explain import answer_of
from aios_cli.main import main
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, AGENTS, TOOL_BINDINGS
from unit.cli.files import agent, binding, rule, write

X = agent("x", team="a")
ONE = binding("b", rule("r", "api.example.com"))


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "meant"),
    [
        ("api.example.com", None, "api.example.com", 443, "https"),
        ("api.example.com:8443", None, "api.example.com", 8443, "https"),
        ("api.example.com:80", None, "api.example.com", 80, "http"),
        ("api.example.com", "http", "api.example.com", 80, "http"),
        ("2001:db8::1", None, "2001:db8::1", 443, "https"),
        ("[2001:db8::1]:80", None, "2001:db8::1", 80, "http"),
    ],
)
def test_what_is_asked(text: str, scheme: Any, host: str, port: int, meant: str):
    assert way_out.asked(text, scheme) == way_out.Asked(host, port, meant)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "host:0", "host:70000", "host:http", "[::1]:x"])
def test_what_is_no_host_is_refused(text: str):
    with pytest.raises(click.BadParameter, match="HOST:PORT"):
        way_out.asked(text, None)


def explain(directory: Path, host: str, *options: str) -> Any:
    return CliRunner().invoke(main, ["explain", "x", "-n", "default", "-f", str(directory), "--host", host, *options])


def test_allowed_names_binding_and_rule(tmp_path: Path):
    result = explain(write(tmp_path, X, ONE), "api.example.com")
    assert result.exit_code == 0
    assert "default/x to https://api.example.com:443: allowed" in result.output
    assert "by rule r (api.example.com) of ToolBinding b\n" in result.output


def test_denied_says_why_and_the_rule_that_it_names_would_allow_it(tmp_path: Path):
    directory = write(tmp_path, X, ONE)
    result = explain(directory, "other.example.com:8443", "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert (told["allowed"], told["reason"]) == (False, "NotAllowed")
    lines = told["text"]
    proposed = yaml.safe_load("\n".join(lines[next(n for n, line in enumerate(lines) if line.startswith("what would")) + 1 :]))
    write(directory, X, ONE, binding("c", *proposed["egress"]))
    assert explain(directory, "other.example.com:8443").exit_code == 0


def test_audit_mode_says_that_it_would_be_denied(tmp_path: Path):
    result = explain(write(tmp_path, X, binding("b", mode="Audit")), "other.example.com")
    assert result.exit_code == 0
    assert "would be denied, is let through" in result.output


def test_a_range_of_the_clusters_own_is_inside(tmp_path: Path):
    directory = write(tmp_path, X, binding("b", {"name": "all", "cidr": "0.0.0.0/0"}))
    assert explain(directory, "203.0.113.7").exit_code == 0
    result = explain(directory, "203.0.113.7", "--internal-cidr", "198.51.100.0/24", "--internal-cidr", "203.0.113.0/24")
    assert result.exit_code == 1
    assert "the address is inside" in result.output
    wrong = explain(directory, "203.0.113.7", "--internal-cidr", "203.0.113.7/24")
    assert wrong.exit_code == 2
    assert "'203.0.113.7/24' must be an address range" in wrong.output


def test_an_agent_that_is_not_there_is_named(tmp_path: Path):
    result = explain(write(tmp_path, ONE), "api.example.com")
    assert result.exit_code == 1
    assert "there is no Agent x of namespace default" in result.output


def cluster(policy: EgressPolicy | None, in_force: str | None) -> FakeCluster:
    fake = FakeCluster()
    for resource, raw in ((AGENTS, X), (TOOL_BINDINGS, ONE)):
        placed = copy.deepcopy(raw)
        placed["metadata"]["namespace"] = "default"
        fake.put(resource, placed)
    runtime: dict[str, Any] = {
        "apiVersion": X["apiVersion"],
        "kind": "AgentRuntime",
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {} if policy is None else {"egress": policy.model_dump(by_alias=True, exclude_none=True, mode="json")},
        "status": {"egress": {"policyDigest": in_force}},
    }
    fake.put(AGENT_RUNTIMES, runtime)
    return fake


HOST = way_out.Asked("api.example.com", 443, "https")


async def test_on_a_cluster_the_ordered_policy_counts_and_what_is_not_ordered_yet_is_told():
    fake = cluster(None, None)
    answer = await answer_of(fake, "default", "x", HOST)
    assert not answer.decision.allowed
    assert "the bindings have changed since; the operator has not ordered that yet" in answer.lines


async def test_on_a_cluster_a_policy_that_the_gateway_has_not_confirmed_is_told():
    (raw,) = (await cluster(None, None).list(TOOL_BINDINGS)).items
    policy = compile_policy([read_binding(raw)], {"team": "a"})
    for in_force, told in ((None, True), (policy.digest, False)):
        answer = await answer_of(cluster(policy, in_force), "default", "x", HOST)
        assert answer.decision.allowed
        assert any("has not confirmed" in line for line in answer.lines) is told

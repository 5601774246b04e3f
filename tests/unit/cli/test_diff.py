"""`aiosctl diff`: who gains and who loses which destination, and how loudly that is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aios_cli.main import main
from unit.cli.files import agent, binding, rule, write


def diff(tmp_path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], *options: str) -> Result:
    base, head = write(tmp_path / "base", *before), write(tmp_path / "head", *after)
    return CliRunner().invoke(main, ["diff", "-n", "default", *options, str(base), str(head)])


X = agent("x", team="a")
ONE = binding("b", rule("r", "api.example.com"))


def test_nothing_changed(tmp_path: Path):
    result = diff(tmp_path, [X, ONE], [X, ONE])
    assert (result.exit_code, result.output) == (0, "no agent gains or loses a destination\n")


def test_a_rule_that_moved_to_another_binding_is_no_change(tmp_path: Path):
    moved = [binding("b"), binding("c", rule("other", "api.example.com"))]
    assert diff(tmp_path, [X, ONE], [X, *moved]).exit_code == 0


def test_a_gained_host_is_told_with_its_agent_binding_and_rule(tmp_path: Path):
    after = binding("b", rule("r", "api.example.com"), rule("s", "new.example.com", ports=[8443]))
    result = diff(tmp_path, [X, ONE], [X, agent("y", team="b"), after])
    assert result.exit_code == 3
    assert "default/x\n  + https://new.example.com:8443   (b, s)\n" in result.output
    assert "default/y" not in result.output


def test_a_label_that_brings_an_agent_under_a_binding_is_a_gain(tmp_path: Path):
    result = diff(tmp_path, [agent("x"), ONE], [X, ONE])
    assert result.exit_code == 3
    assert "+ https://api.example.com:443" in result.output


def test_what_is_only_lost_needs_no_second_look(tmp_path: Path):
    result = diff(tmp_path, [X, ONE], [X])
    assert result.exit_code == 0
    assert "- https://api.example.com:443" in result.output


@pytest.mark.parametrize(
    "dangerous",
    [
        binding("b", rule("r", "*.s3.amazonaws.com")),
        binding("b", {"name": "r", "cidr": "10.0.0.0/24"}),
        binding("b", {"name": "r", "cidr": "0.0.0.0/0"}),
        binding("b", {"name": "r", "cidr": "203.0.113.9", "scheme": "tcp", "ports": [22]}),
        binding("b", mode="Audit"),
    ],
)
def test_what_one_should_not_give_without_thinking_has_an_exit_code_of_its_own(dangerous: dict[str, Any], tmp_path: Path):
    result = diff(tmp_path, [X], [X, dangerous])
    assert result.exit_code == 4
    assert "!" in result.output


def test_json_has_every_part(tmp_path: Path):
    told = json.loads(diff(tmp_path, [X], [X, ONE], "--format", "json").output)
    assert told == {
        "severity": "GAIN",
        "changes": [
            {
                "agent": {"namespace": "default", "name": "x"},
                "change": "gains",
                "destination": {"scheme": "https", "target": "api.example.com", "port": 443},
                "binding": "b",
                "rule": "r",
                "severity": "GAIN",
                "why": "",
            }
        ],
    }


def test_markdown_is_one_table_row_for_each_change(tmp_path: Path):
    output = diff(tmp_path, [X], [X, ONE], "--format", "markdown").output
    assert "| `default/x` | gains | `https://api.example.com:443` | `b` / `r` |  |" in output


@pytest.mark.parametrize("field", ["name", "namespace"])
def test_no_name_brings_markup_into_the_comment(field: str, tmp_path: Path):
    odd = {**X, "metadata": {**X["metadata"], "namespace": "default", field: "a` <img src=x> `"}}
    gained = diff(tmp_path, [X], [odd, {**ONE, "metadata": {**ONE["metadata"], "namespace": odd["metadata"]["namespace"]}}])
    assert gained.exit_code == 1
    assert f"metadata.{field}" in gained.output
    lost = diff(
        tmp_path / "back",
        [odd, {**ONE, "metadata": {**ONE["metadata"], "namespace": odd["metadata"]["namespace"]}}],
        [X],
        "--format",
        "markdown",
    )
    assert lost.exit_code == 0
    assert "a' <img src=x> '" in lost.output
    assert "a`" not in lost.output


def test_errors_in_the_new_state_end_with_1_and_name_them(tmp_path: Path):
    result = diff(tmp_path, [X], [X, binding("b", {"name": "r", "host": "UPPER.example.com"})])
    assert result.exit_code == 1
    assert "ToolBinding default/b" in result.output


@pytest.mark.parametrize("name", [".evil.yaml", "list.yaml"])
def test_what_kubectl_applies_is_seen_wherever_it_stands(name: str, tmp_path: Path):
    evil = binding("b", {"name": "metadata", "cidr": "169.254.169.254", "ports": [80], "scheme": "http"})
    base, head = write(tmp_path / "base", X), write(tmp_path / "head", X)
    write(head, {"apiVersion": "v1", "kind": "FooList", "items": [evil]} if name == "list.yaml" else evil, name=name)
    result = CliRunner().invoke(main, ["diff", "-n", "default", str(base), str(head)])
    assert result.exit_code == 4
    assert "169.254.169.254" in result.output


def test_an_object_whose_namespace_others_choose_can_not_be_compared(tmp_path: Path):
    base, head = write(tmp_path / "base", X), write(tmp_path / "head", X, ONE)
    result = CliRunner().invoke(main, ["diff", str(base), str(head)])
    assert result.exit_code == 1
    assert "must name its metadata.namespace" in result.output

"""`aiosctl lint`: what a person is told about manifests before they reach a cluster."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aios_cli import manifests
from aios_cli.lint import findings
from aios_cli.main import main
from unit.cli.files import agent, binding, rule, write

EXAMPLES = Path(__file__).parents[3] / "examples"


def texts(directory: Path, level: str = "") -> list[str]:
    return [each.text for each in findings(manifests.read(directory, "default")) if level in ("", each.level)]


@pytest.mark.parametrize("folder", ["quickstart", "gitops/teams"])
def test_our_own_examples_have_nothing_to_mend(folder: str):
    result = CliRunner().invoke(main, ["lint", "--strict", str(EXAMPLES / folder)])
    assert (result.exit_code, result.output) == (0, "0 errors, 0 warnings\n")


def test_a_good_directory_is_quiet(tmp_path: Path):
    assert texts(write(tmp_path, agent("x", team="a"), binding("b", rule("r", "api.example.com")))) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gpu": {"memory": "lots"}}, "memory"),
        ({"gpuu": {}}, "'gpuu' was unexpected"),
        ({"priority": 5000}, "spec.priority"),
        ({"template": {"spec": {"containers": []}}}, "spec.template.spec.containers"),
        ({"template": {"spec": {"containers": [{"name": "a", "image": "i", "securityContext": {"privileged": True}}]}}}, "privileged"),
    ],
)
def test_a_spec_that_a_cluster_would_refuse_is_an_error_that_names_the_field(change: dict[str, object], told: str, tmp_path: Path):
    wrong = agent("x", team="a")
    wrong["spec"].update(change)
    (error,) = texts(write(tmp_path, wrong), "error")
    assert told in error


def test_a_broken_binding_names_the_rule(tmp_path: Path):
    (error,) = texts(
        write(tmp_path, agent("x", team="a"), binding("b", {"name": "r", "host": "a.example.com", "cidr": "10.0.0.1"})), "error"
    )
    assert "exactly one of host and cidr" in error
    assert "spec.egress[0]" in error


@pytest.mark.parametrize(
    ("metadata", "told"), [({"name": "b" * 64}, "metadata.name must have at most 63"), ({"generation": "new"}, "metadata.generation")]
)
def test_a_binding_that_no_policy_could_name_is_an_error(metadata: dict[str, object], told: str, tmp_path: Path):
    wrong = binding("b", rule("r", "api.example.com"))
    wrong["metadata"].update(metadata)
    (error,) = texts(write(tmp_path, agent("x", team="a"), wrong), "error")
    assert told in error
    assert CliRunner().invoke(main, ["lint", str(tmp_path)]).exception.__class__ is SystemExit


def test_files_that_are_no_yaml_are_errors_hidden_ones_as_well_and_those_of_git_are_not_read(tmp_path: Path):
    write(tmp_path, agent("x"))
    (tmp_path / ".broken.yaml").write_text("a: [")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.yaml").write_text("a: [")
    (error,) = findings(manifests.read(tmp_path, "default"))
    assert (error.level, error.path) == ("error", ".broken.yaml")


def test_a_link_out_of_the_directory_is_an_error_and_one_within_is_none(tmp_path: Path):
    write(tmp_path, agent("x"), name="outside.yaml")
    inner = write(tmp_path / "inner", agent("y"), name="y.txt")
    (inner / "y.yaml").symlink_to("y.txt")
    (inner / "x.yaml").symlink_to("../outside.yaml")
    (error,) = findings(manifests.read(inner, "default"))
    assert (error.level, error.path) == ("error", "x.yaml")
    (inner / "x.yaml").unlink()
    assert findings(manifests.read(inner, "default")) == []


def test_an_object_that_names_no_namespace_is_an_error_unless_one_is_given(tmp_path: Path):
    write(tmp_path, agent("x"))
    (error,) = findings(manifests.read(tmp_path))
    assert error.text.startswith("Agent x must name its metadata.namespace")
    assert findings(manifests.read(tmp_path, "research")) == []


def test_what_stands_in_two_files_is_named_with_both(tmp_path: Path):
    write(tmp_path, agent("x"), name="one.yaml")
    write(tmp_path, agent("x"), name="two.yaml")
    (error,) = findings(manifests.read(tmp_path, "default"))
    assert (error.path, error.subject) == ("two.yaml", "Agent default/x")
    assert "one.yaml" in error.text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (binding("b", rule("r", "api.example.com"), agentSelector=None), "selects nothing"),
        (binding("b", rule("r", "api.example.com"), agentSelector={"matchLabels": {"team": "nobody"}}), "selects no Agent"),
        (binding("b"), "allows nothing"),
        (binding("b", rule("r", "*.github.io")), "anybody can have a name below github.io"),
        (binding("b", rule("r", "*.co.uk")), "anybody can have a name below co.uk"),
        (binding("b", {"name": "r", "cidr": "0.0.0.0/0"}), "r: 0.0.0.0/0"),
        (binding("b", {"name": "r", "cidr": "34.0.0.0/8"}), "many owners"),
        (binding("b", {"name": "r", "cidr": "169.254.169.254"}), "inside"),
        (binding("b", {"name": "r", "cidr": "192.0.2.7", "scheme": "tcp", "ports": [5432]}), "any bytes"),
        (binding("b", rule("r", "api.example.com"), mode="Audit"), "every public address"),
    ],
)
def test_what_was_hardly_meant_is_a_warning(given: dict[str, object], told: str, tmp_path: Path):
    if given["spec"]["agentSelector"] is None:  # type: ignore[index]
        del given["spec"]["agentSelector"]  # type: ignore[attr-defined]
    directory = write(tmp_path, agent("x", team="a"), given)
    (warning,) = texts(directory)
    assert told in warning
    runner = CliRunner()
    assert runner.invoke(main, ["lint", "-n", "default", str(directory)]).exit_code == 0
    assert runner.invoke(main, ["lint", "-n", "default", "--strict", str(directory)]).exit_code == 1


def test_a_wildcard_below_a_name_of_its_own_is_no_warning(tmp_path: Path):
    assert texts(write(tmp_path, agent("x", team="a"), binding("b", rule("r", "*.api.example.com")))) == []


def test_a_binding_that_finds_no_room_beside_others_is_an_error(tmp_path: Path):
    full = [binding(f"b{number}", *(rule(f"r{each}", f"h{each}.b{number}.example.com") for each in range(60))) for number in range(5)]
    found = findings(manifests.read(write(tmp_path, agent("x", team="a"), *full), "default"))
    assert [(each.level, each.subject) for each in found] == [("error", "ToolBinding default/b4")]


def test_findings_as_json(tmp_path: Path):
    result = CliRunner().invoke(main, ["lint", "-n", "default", "--json", str(write(tmp_path, binding("b", rule("r", "api.example.com"))))])
    (found,) = json.loads(result.output)
    assert (found["level"], found["path"], found["subject"]) == ("warning", "all.yaml", "ToolBinding default/b")

"""Manifests that something is built from before they are applied: no command takes the files for what reaches a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from aios_cli import manifests
from aios_cli.lint import findings
from aios_cli.main import main
from unit.cli.files import agent, binding, rule, write

OBJECTS = agent("x", team="a"), binding("b", rule("r", "api.example.com"))
WIDER = "[{op: add, path: /spec/egress/-, value: {name: all, cidr: 0.0.0.0/0, scheme: tcp, ports: [22]}}]"
PATCHING = {"resources": ["all.yaml"], "patches": [{"target": {"kind": "ToolBinding"}, "patch": WIDER}]}


def put(directory: Path, name: str, document: object) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(yaml.safe_dump(document))


def errors(directory: Path) -> list[tuple[str, str]]:
    return [(each.path, each.text) for each in findings(manifests.read(directory, "default")) if each.level == "error"]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["kustomization.yaml", "kustomization.yml", "Kustomization"])
def test_a_patch_that_a_kustomization_would_apply_is_an_error_of_lint_diff_and_explain(name: str, tmp_path: Path):
    base, head = (write(tmp_path / side / "bindings", *OBJECTS).parent for side in ("base", "head"))
    put(head / "bindings", name, PATCHING)
    told = f"bindings/{name}: patches changes what stands in the files; build it first: kustomize build {head}/bindings"
    code, output = run("lint", "-n", "default", head)
    assert (code, told in output) == (1, True)
    for sides in ((base, head), (head, base)):
        code, output = run("diff", "-n", "default", *sides)
        assert (code, told in output) == (1, True)
    code, output = run("explain", "x", "-n", "default", "-f", head, "--host", "api.example.com")
    assert (code, told in output) == (1, True)


@pytest.mark.parametrize("field", ["namespace", "commonLabels", "components", "helmCharts", "generators", "replacements", "Patches"])
def test_a_kustomization_may_name_resources_and_nothing_else(field: str, tmp_path: Path):
    write(tmp_path, *OBJECTS)
    own = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "metadata": {"name": "k"}, "resources": ["all.yaml"]}
    put(tmp_path, "kustomization.yaml", own)
    assert errors(tmp_path) == []
    put(tmp_path, "kustomization.yaml", {**own, field: ["x"]})
    ((path, text),) = errors(tmp_path)
    assert (path, text.split()[0]) == ("kustomization.yaml", field)


def test_resources_that_are_read_anyway_are_no_error(tmp_path: Path):
    write(tmp_path / "teams" / "research", *OBJECTS)
    put(tmp_path, "teams/kustomization.yaml", {"resources": ["research", "./research/../research/all.yaml"]})
    put(tmp_path, "overlay/kustomization.yaml", {"resources": ["../teams"]})
    assert errors(tmp_path) == []


@pytest.mark.parametrize(
    "resource",
    [
        *("https://example.com/all.yaml", "github.com/example/agents?ref=main", "../outside.yaml", "..", "linked", "all.txt", ".git"),
        *("missing.yaml", "bad\0name", {"path": "all.yaml"}),
    ],
)
def test_a_resource_that_is_not_read_is_an_error(resource: Any, tmp_path: Path):
    root = write(tmp_path / "root", *OBJECTS)
    write(tmp_path, *OBJECTS, name="outside.yaml")
    write(tmp_path / "elsewhere", *OBJECTS)
    write(root / ".git", *OBJECTS)
    (root / "all.txt").write_text("")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    put(root, "kustomization.yaml", {"resources": [resource]})
    ((path, text),) = errors(root)
    assert path == "kustomization.yaml"
    assert text.startswith("resources: ")
    assert text.endswith(f"build it first: kustomize build {root}")
    assert text.isprintable()


def test_a_kustomization_that_is_given_alone_names_what_is_not_read(tmp_path: Path):
    write(tmp_path, *OBJECTS)
    put(tmp_path, "kustomization.yaml", {"resources": ["all.yaml"]})
    ((path, text),) = errors(tmp_path / "kustomization.yaml")
    assert (path, text.split()[1]) == ("kustomization.yaml", "all.yaml")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("chart/Chart.yaml", "is of a Helm chart, whose templates are no manifests; build it first: helm template {}/chart"),
        ("all.jsonnet", "is a program that Argo CD runs for its manifests; build it first: jsonnet {}/all.jsonnet"),
    ],
)
def test_a_chart_and_a_program_that_makes_manifests_are_errors_whatever_is_in_them(name: str, told: str, tmp_path: Path):
    write(tmp_path, *OBJECTS)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{ [")
    assert errors(tmp_path) == [(name, told.format(tmp_path))]


def flux(**spec: object) -> dict[str, object]:
    metadata = {"name": "agents", "namespace": "flux-system"}
    return {"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": metadata, "spec": {"path": "./", **spec}}


def argo(kind: str = "Application", **spec: object) -> dict[str, object]:
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": kind, "metadata": {"name": "agents"}, "spec": spec}


BY_OTHERS = [
    (flux(patches=[{"patch": WIDER}]), "spec.patches"),
    (flux(postBuild={"substitute": {"host": "x"}}), "spec.postBuild"),
    (flux(components=["../wide"]), "spec.components"),
    (flux(targetNamespace="other"), "spec.targetNamespace"),
    (flux(nameSuffix="-x"), "spec.nameSuffix"),
    (flux(commonMetadata={"labels": {"team": "a"}}), "spec.commonMetadata"),
    (argo(source={"path": "teams", "kustomize": {"patches": [WIDER]}}), "spec.source.kustomize"),
    (argo(source={"path": "teams", "plugin": {"name": "x"}}), "spec.source.plugin"),
    (argo(sources=[{"path": "teams"}, {"path": "teams", "helm": {"values": "a: b"}}]), "spec.sources[1].helm"),
    (
        argo("ApplicationSet", template={"spec": {"source": {"path": "teams", "kustomize": {"namespace": "x"}}}}),
        "spec.template.spec.source.kustomize",
    ),
]


@pytest.mark.parametrize(("document", "field"), BY_OTHERS)
@pytest.mark.parametrize("name", ["all-of-them.yaml", "kustomization.yaml"])
def test_what_flux_and_argo_cd_would_change_is_an_error_that_names_the_field(
    name: str, document: dict[str, Any], field: str, tmp_path: Path
):
    write(tmp_path, *OBJECTS)
    put(tmp_path, name, {"apiVersion": "v1", "kind": "List", "items": [document]})
    ((path, text),) = errors(tmp_path)
    assert (path, text.split()[0]) == (name, field)
    assert "build it first: " in text


def test_an_override_that_argo_cd_finds_beside_the_manifests_is_an_error(tmp_path: Path):
    write(tmp_path, *OBJECTS)
    put(tmp_path, ".argocd-source-agents.yaml", {"kustomize": {"patches": [WIDER]}})
    ((path, text),) = errors(tmp_path)
    assert (path, text.split()[0]) == (".argocd-source-agents.yaml", "kustomize")


def test_what_only_names_manifests_or_a_published_chart_is_no_error(tmp_path: Path):
    write(tmp_path, *OBJECTS)
    write(tmp_path, flux(prune=True), argo(source={"path": "teams", "directory": {"recurse": True}}), name="apply.yaml")
    write(tmp_path, argo(source={"chart": "redis", "helm": {"values": "a: b"}}), name="redis.yaml")
    assert errors(tmp_path) == []


def test_our_own_example_of_gitops_needs_no_build():
    assert errors(Path(__file__).parents[3] / "examples" / "gitops" / "flux") == []
    assert errors(Path(__file__).parents[3] / "examples" / "gitops" / "argocd") == []

"""The rights that the chart grants: none stands for several, none opens others; the node agent has exactly what its code asks."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aios_api import names
from aios_kube import resources

ROOT = Path(__file__).parents[3]
Object = dict[str, Any]
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
CALLS = {
    "get": {"get"},
    "list": {"list"},
    "pages": {"list"},
    "watch": {"watch"},
    "create": {"create"},
    "apply": {"patch", "create"},
    "patch": {"patch"},
    "delete": {"delete"},
    "Reflector": {"list", "watch"},
    "EventRecorder": {"create", "patch"},
}
"""What each call of the client needs; an apply creates what is not there."""


def rules(release: Any) -> Iterator[tuple[str, Object]]:
    for each in release:
        if each["kind"] in ("Role", "ClusterRole"):
            yield from ((each["metadata"]["name"], rule) for rule in each["rules"])


def test_no_right_stands_for_several(release: Any) -> None:
    for name, rule in rules(release):
        written = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not [word for word in written if "*" in word], name
        assert set(rule["verbs"]) <= VERBS, f"{name}: {rule}"


def test_no_right_opens_others(release: Any) -> None:
    closed = {"secrets", "configmaps", "pods/exec", "pods/ephemeralcontainers", "serviceaccounts/token", "clusterroles", "nodes/proxy"}
    for name, rule in rules(release):
        if rule.get("resourceNames") != [names.CLUSTER_RANGES]:  # that one is ours
            assert not closed & set(rule["resources"]), name
        assert "nonResourceURLs" not in rule, name


def test_people_never_write_orders(release: Any) -> None:
    for name in ("aios-agents-viewer", "aios-agents-editor"):
        for rule in release.one("ClusterRole", name)["rules"]:
            if "agentruntimes" in rule["resources"]:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_who_edits_agents_edits_neither_their_quota_nor_what_they_may_reach(release: Any) -> None:
    for each in (each for each in release if each["kind"] == "ClusterRole"):
        aggregated = any("aggregate-to" in label for label in each["metadata"].get("labels", ()))
        for rule in each["rules"]:
            if {"gpuquotas", "toolbindings"} & set(rule["resources"]) and aggregated:
                assert set(rule["verbs"]) <= {"get", "list", "watch"}


def granted(release: Any, name: str) -> set[tuple[str, str]]:
    return {
        (f"{group}/{resource}", verb)
        for each in release
        if each["kind"] in ("Role", "ClusterRole") and each["metadata"]["name"] == name
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(*sources: Path) -> set[tuple[str, str]]:
    """The rights that the calls in these files need, read from its source."""
    needed = set()
    for path in sources:
        for call in (each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)):
            method = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
            words = [arg.id if isinstance(arg, ast.Name) else arg.attr for arg in call.args if isinstance(arg, ast.Name | ast.Attribute)]
            named = {getattr(resources, word, None) for word in words}
            if method == "EventRecorder":
                named = {resources.EVENTS}
            for resource in (each for each in named if isinstance(each, resources.Resource)):
                below = [word.value.value for word in call.keywords if word.arg == "subresource" and isinstance(word.value, ast.Constant)]
                verbs = CALLS.get(method, set()) - ({"create"} if below else set())
                needed |= {("/".join([resource.group, resource.plural, *map(str, below)]), verb) for verb in verbs}
    return needed


def test_the_node_agent_has_the_rights_that_its_code_asks_for_and_no_others(release: Any) -> None:
    assert granted(release, "aios-node") == asked(*(ROOT / "sidecar" / "aios_sidecar" / "node").rglob("*.py"))


def test_the_uninstaller_has_the_rights_that_its_code_asks_for_and_no_others(release: Any) -> None:
    assert granted(release, "aios-uninstall") == asked(ROOT / "operator" / "aios_operator" / "uninstall.py")


def test_the_operator_has_the_rights_that_its_code_names(release: Any) -> None:
    named = asked(*(ROOT / "operator" / "aios_operator").rglob("*.py")) - asked(ROOT / "operator" / "aios_operator" / "uninstall.py")
    assert ("/pods", "list") in named
    assert named <= granted(release, "aios-operator")

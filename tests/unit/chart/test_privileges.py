"""docs/security/privileges.md has every privilege and every right that the chart gives, with its reason, and no other."""

from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "security" / "privileges.md"
EVERYTHING = {"node": {"driverLibraryDir": "/usr/lib/nvidia", "calibrateContext": True}}
"""Values with which the node agent has all that it can have."""

Object = dict[str, Any]


def rows(program: str, first: str) -> list[list[str]]:
    """The table of the program's chapter whose first column has this head."""
    chapter = next(part for part in PAGE.read_text().split("\n## ") if part.startswith(f"`{program}`"))
    lines = chapter.partition(f"| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def privileges(release: Any) -> set[str]:
    """What the node agent has beyond a pod that has nothing, in the words of the page."""
    pod, only = release.pod("DaemonSet", "aios-node"), release.container("DaemonSet", "aios-node")
    context = {**pod.get("securityContext", {}), **only["securityContext"]}
    assert context.pop("readOnlyRootFilesystem") is True
    found = {"root (user 0)" if context.pop("runAsUser") == 0 else "another user"}
    found |= {f"`{field}: {str(value).lower()}`" for field, value in context.items()}
    found |= {f"`{field}: true`" for field in ("hostPID", "hostIPC", "hostNetwork") if pod.get(field)}
    tolerated = "every taint" if pod["tolerations"] == [{"operator": "Exists"}] else str(pod["tolerations"])
    found.add(f"{tolerated} tolerated, priority class `{pod['priorityClassName']}`")
    mounts = {mount["name"]: mount for mount in only["volumeMounts"]}
    for volume in (each for each in pod["volumes"] if "hostPath" in each):
        path, kind = volume["hostPath"]["path"], volume["hostPath"]["type"]
        name = path.rpartition("/")[2] if kind == "File" else path.replace("/var/lib/kubelet", "<kubelet>")
        only_read = ", read-only" if mounts[volume["name"]].get("readOnly") else ""
        found.add(f"host {'file' if kind == 'File' else 'directory'} `{name}`{only_read}")
    return found


def told() -> set[str]:
    """The privileges in the page's table; a row of several directories is several."""
    found = set()
    for privilege, *_ in rows("aios-node", "privilege"):
        what, _, names = privilege.partition("host directories ")
        found |= {f"host directory {name}" for name in names.split(", ")} if not what else {privilege.partition(", only with")[0]}
    return found


def test_the_node_agent_has_the_privileges_that_the_page_gives_reasons_for_and_no_others(chart: Any) -> None:
    assert privileges(chart.render(EVERYTHING)) == told()
    for privilege, why, nothing_less in rows("aios-node", "privilege"):
        assert why, privilege
        assert nothing_less, privilege


def test_what_depends_on_a_value_is_there_only_with_it(chart: Any, release: Any) -> None:
    conditional = {row[0].partition(", only with")[0] for row in rows("aios-node", "privilege") if ", only with" in row[0]}
    assert len(conditional) == 2
    assert privileges(release) == told() - conditional


@pytest.mark.parametrize("program", ["aios-node", "aios-operator"])
def test_each_right_in_the_api_stands_in_the_page_with_its_reason(release: Any, program: str) -> None:
    granted: dict[str, set[str]] = {}
    for rule in (
        rule
        for each in release
        if each["kind"] in ("Role", "ClusterRole") and each["metadata"]["name"] == program
        for rule in each["rules"]
    ):
        for name in (f"{group}/{resource}" for group in rule["apiGroups"] for resource in rule["resources"]):
            granted.setdefault(name, set()).update(rule["verbs"])
    page: dict[str, set[str]] = {}
    for names, verbs, why in rows(program, "right in the API"):
        assert why, names
        page |= {name.strip("`"): set(verbs.split(", ")) for name in names.split(", ")}
    assert page == granted

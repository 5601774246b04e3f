"""The chart as helm renders it."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from aios_localcluster.build import MODULES, default_cache, directory_of

Object = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """Every object that helm would write, hooks included."""

    objects: list[Object]

    def __iter__(self) -> Iterator[Object]:
        return iter(self.objects)

    def of(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"] == name)
        return found

    def pod(self, kind: str, name: str) -> Object:
        """The pod's spec."""
        spec: Object = self.one(kind, name)["spec"]["template"]["spec"]
        return spec

    def container(self, kind: str, name: str) -> Object:
        (only,) = self.pod(kind, name)["containers"]
        result: Object = only
        return result

    def environment(self, kind: str, name: str) -> dict[str, str]:
        """The variables with a value; those from fields have their path."""
        entries = self.container(kind, name)["env"]
        return {entry["name"]: entry["value"] if "value" in entry else entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in entries}

    def host_paths(self, kind: str, name: str) -> dict[str, str]:
        return {volume["name"]: volume["hostPath"]["path"] for volume in self.pod(kind, name)["volumes"] if "hostPath" in volume}

    def mounts(self, kind: str, name: str) -> dict[str, str]:
        return {mount["name"]: mount["mountPath"] for mount in self.container(kind, name)["volumeMounts"]}


@dataclass(frozen=True)
class Chart:
    program: Path
    path: Path
    namespace: str = "aios-system"

    def helm(self, *arguments: str, values: Object | None = None) -> subprocess.CompletedProcess[str]:
        given = ["--values", "-"] if values is not None else []
        text = yaml.safe_dump(values) if values is not None else None
        return subprocess.run([self.program, *arguments, *given], input=text, capture_output=True, text=True, check=False)

    def template(self, values: Object | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.helm("template", "kubeaios", str(self.path), "--namespace", self.namespace, *arguments, values=values)

    def render(self, values: Object | None = None, *arguments: str) -> Release:
        done = self.template(values, *arguments)
        assert done.returncode == 0, done.stderr
        return Release([document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document])

    def refusal(self, values: Object | None = None, *arguments: str) -> str:
        """What helm says of values that it must not accept."""
        done = self.template(values, *arguments)
        assert done.returncode != 0, "helm accepted it"
        return done.stderr

    def notes(self, values: Object) -> str:
        done = self.helm("install", "kubeaios", str(self.path), "--namespace", self.namespace, "--dry-run=client", values=values)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]


@pytest.fixture(scope="session")
def chart() -> Chart:
    """Our chart with the helm of the local cluster; skips where that is not built."""
    program = directory_of(MODULES["helm"], default_cache(os.environ)) / "helm"
    if not program.exists():
        pytest.skip("helm is not built: python -m aios_localcluster.build helm")
    return Chart(program, Path(__file__).parents[3] / "charts" / "kubeaios")


@pytest.fixture(scope="session")
def release(chart: Chart) -> Release:
    """With the chart's defaults."""
    return chart.render()

"""Manifests in a directory: the objects of our group that Git holds, without a cluster. What can't be read is a fault, never left out.

They are read as they stand. What would be built from them before it is applied (by kustomize, Helm, Flux or Argo CD) is a fault, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aios_api.names import GROUP
from aios_cli import builds

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 8 << 20
"""Of one file. An etcd object has at most 1.5 MiB; what is larger is no manifest."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object, and the file that has it."""

    raw: Mapping[str, Any]
    path: str

    @property
    def kind(self) -> str:
        return str(self.raw["kind"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        labels = self.raw["metadata"].get("labels")
        return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file, or an object in it, that can't be read or is not what would be applied, and why."""

    path: str
    why: str


@dataclass
class Manifests:
    """All objects of our group below a directory, in the order of their files."""

    found: list[Manifest] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)

    def of(self, kind: str) -> list[Manifest]:
        return [each for each in self.found if each.kind == kind]


def read(root: Path, namespace: str | None = None) -> Manifests:
    """The manifests below `root`, or of the one file that it is. `namespace`: of objects that name none; without it such an object can't be
    read, since who applies it chooses. Files whose names begin with a dot are read as others are, as kubectl reads them; .git is not.

    Raises FileNotFoundError when there is no such path.
    """
    if not root.exists():
        raise FileNotFoundError(root)
    manifests = Manifests()
    paths = [root] if root.is_file() else sorted(_files(root))
    files, whole = {path.resolve() for path in paths}, root.resolve()
    known = files | {each for file in files for each in file.parents if each.is_relative_to(whole)}
    for path in paths:
        shown = str(path.relative_to(root)) if path != root else path.name
        if why := builds.of_a_program(path):
            manifests.unreadable.append(Unreadable(shown, why))
            continue
        if not path.resolve().is_relative_to(whole):
            manifests.unreadable.append(
                Unreadable(shown, "must not be a link out of the directory: what it leads to may be something else there")
            )
            continue
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES >> 20} MiB, which no manifest is")
            documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, ValueError, OSError) as problem:
            manifests.unreadable.append(Unreadable(shown, " ".join(str(problem).split())))
            continue
        for document in documents:
            for each in _objects(document):
                manifests.unreadable += [Unreadable(shown, why) for why in sorted(builds.changes(each, path, known))]
                _take(each, shown, namespace, manifests)
    return manifests


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if ".git" not in path.relative_to(root).parts and _may_be_read(path) and path.is_file():
            yield path


def _may_be_read(path: Path) -> bool:
    return path.suffix in (*SUFFIXES, builds.JSONNET) or path.name in builds.KUSTOMIZATIONS


def _objects(document: object) -> Iterator[Mapping[str, Any]]:
    """`document`, or the items of a list of any kind: who applies it applies each."""
    if not isinstance(document, Mapping):
        return
    if isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _objects(item)
    else:
        yield document


def _take(document: Mapping[str, Any], path: str, namespace: str | None, manifests: Manifests) -> None:
    if not str(document.get("apiVersion", "")).startswith(f"{GROUP}/"):
        return
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping) or not metadata.get("name") or not document.get("kind"):
        manifests.unreadable.append(Unreadable(path, "an object of our group must have kind and metadata.name"))
        return
    if not metadata.get("namespace") and namespace is None:
        where = f"{document['kind']} {metadata['name']}"
        manifests.unreadable.append(Unreadable(path, f"{where} must name its metadata.namespace, or -n must: who applies it would choose"))
        return
    named = {**metadata, "namespace": metadata.get("namespace") or namespace}
    manifests.found.append(Manifest({**document, "metadata": named}, path))

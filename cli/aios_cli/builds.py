"""What kustomize, Helm, Flux and Argo CD make of manifests before they apply them; what stands in the files is not what is applied then."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

KUSTOMIZATIONS = frozenset({"kustomization.yaml", "kustomization.yml", "Kustomization"})
JSONNET = ".jsonnet"
HARMLESS = frozenset({"apiVersion", "kind", "metadata", "resources"})
"""Fields of a kustomization that leave the objects as they are in their files."""
FLUX_CHANGES = (
    *("patches", "patchesStrategicMerge", "patchesJson6902", "postBuild", "components"),
    *("targetNamespace", "namePrefix", "nameSuffix", "commonMetadata"),
)
ARGO_CHANGES = ("kustomize", "helm", "plugin")
ARGO_OVERRIDES = ".argocd-source"
"""How the names of the files begin by which a directory itself sets what an Application's source would."""


def of_a_program(file: Path) -> str | None:
    """Why `file` is no manifest but part of a program that makes some, and the way out; None when it is none, by its name."""
    if file.name == "Chart.yaml":
        return f"is of a Helm chart, whose templates are no manifests; build it first: helm template {_quoted(file.parent)}"
    if file.suffix == JSONNET:
        return f"is a program that Argo CD runs for its manifests; build it first: jsonnet {_quoted(file)}"
    return None


def changes(document: Mapping[str, Any], file: Path, known: Collection[Path]) -> Iterator[str]:
    """Why what is applied is not what stands in the files, as far as `document` of `file` says so; the field, and the way out.

    `known`: the files that are read and their directories, resolved.
    """
    group = str(document.get("apiVersion", "")).partition("/")[0]
    match group, document.get("kind"):
        case _ if file.name.startswith(ARGO_OVERRIDES):
            yield from _of_source(document, "")
        case "kustomize.toolkit.fluxcd.io", "Kustomization":
            yield from _of_flux(document)
        case "argoproj.io", "Application" | "ApplicationSet":
            yield from _of_argo(document)
        case _ if file.name in KUSTOMIZATIONS or group == "kustomize.config.k8s.io":
            yield from _of_kustomize(document, file, known)


def _of_kustomize(document: Mapping[str, Any], file: Path, known: Collection[Path]) -> Iterator[str]:
    way_out = f"build it first: kustomize build {_quoted(file.parent)}"
    for name in document.keys() - HARMLESS:
        yield f"{_shown(name)} changes what stands in the files; {way_out}"
    for resource in _list(document.get("resources")):
        path = str(resource)
        if not path.isprintable() or Path(os.path.realpath(file.parent / path)) not in known:
            yield f"resources: {_shown(path)} is none of the files that are read, nor a directory of them; {way_out}"


def _of_flux(document: Mapping[str, Any]) -> Iterator[str]:
    spec = _mapping(document.get("spec"))
    for name in FLUX_CHANGES:
        if spec.get(name):
            yield f"spec.{name} changes what stands in the files; build it first: flux build kustomization"


def _of_argo(document: Mapping[str, Any]) -> Iterator[str]:
    spec, where = _mapping(document.get("spec")), "spec."
    if document["kind"] == "ApplicationSet":
        spec, where = _mapping(_mapping(spec.get("template")).get("spec")), "spec.template.spec."
    yield from _of_source(_mapping(spec.get("source")), f"{where}source.")
    for number, source in enumerate(_list(spec.get("sources"))):
        yield from _of_source(_mapping(source), f"{where}sources[{number}].")


def _of_source(source: Mapping[str, Any], where: str) -> Iterator[str]:
    """Of what stands in Git. A published chart is no manifest of this directory, whatever its values are."""
    for name in ARGO_CHANGES:
        if source.get(name) and not source.get("chart"):
            yield f"{where}{name} changes what stands in the files; build it first: argocd app manifests"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _shown(value: object) -> str:
    """On one line, whatever it is."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))

"""Builds our images with buildah, and only those whose inputs changed; a container daemon and a registry are not needed.

    python -m aios_localcluster.imagebuild [--base IMAGE]

An image is named by what it is made of: `localhost/kubeaios/<name>:<digest of its inputs>`. Images that are built together leave one
archive, in which they share their layers, so that importing them reads the base once.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aios_localcluster import host
from aios_localcluster import images as imports
from aios_localcluster.build import default_cache
from aios_localcluster.buildah import Buildah, run
from aios_localcluster.imagebase import base_key, prepare_base
from aios_localcluster.imagetrees import PROGRAMS, Trees, digest_of
from aios_localcluster.locks import exclusive_file_lock

if TYPE_CHECKING:
    from aios_localcluster.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
NAMES = (*PROGRAMS, "example")
REPOSITORY = "localhost/kubeaios"
STABLE_TAG = "dev"
"""Always the last image that was imported; manifests that people write by hand use it."""
KEEP_DAYS = 2
"""Archives and libraries that nobody asked for so long are removed: each change of our code leaves 60 MB, made again in seconds."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ImageSettings:
    """Where images are made from, and where what is made is kept."""

    root: Path = ROOT
    cache: Path = default_cache(os.environ) / "images"
    """Outside the tree: base, libraries, buildah's storage and archives outlive a clean checkout."""
    base: str | None = None
    """A public image to build from. None: this machine's Debian or Ubuntu, bootstrapped, which needs a package mirror and no registry."""


@dataclass(frozen=True)
class BuiltImage:
    """An image in an archive (OCI), together with those that were built with it."""

    tag: str
    archive_path: Path
    digest: str
    """Of the manifest."""

    @property
    def stable(self) -> str:
        return f"{self.tag.rpartition(':')[0]}:{STABLE_TAG}"


def build_images(progress: Progress, settings: ImageSettings = ImageSettings()) -> dict[str, BuiltImage]:
    """Every image by its name (operator, node, gateway, example), built where its inputs changed.

    Packages that the build needs are installed where they are missing. Raises CannotRunHere, or subprocess.CalledProcessError with the
    words of the command that failed.
    """
    host.install_missing(progress, host.IMAGE_PACKAGES)
    settings.cache.mkdir(parents=True, exist_ok=True)
    with exclusive_file_lock(settings.cache / ".lock", lambda: progress("waiting for another build of the images …")):
        run("make", "--no-print-directory", "-C", settings.root / "sidecar" / "native")
        tags = {name: f"{REPOSITORY}/{name}:{_input_digest(name, settings)}" for name in NAMES}
        kept = {name: image for name, tag in tags.items() if (image := _kept(tag, settings)) is not None}
        missing = {name: tag for name, tag in tags.items() if name not in kept}
        if missing:
            began = time.monotonic()
            kept |= _Builder(settings, progress).build(missing)
            progress(f"built {', '.join(missing)} in {time.monotonic() - began:.0f} s")
        _remove_old(settings, keep={image.archive_path for image in kept.values()})
    return {name: kept[name] for name in NAMES}


def _inputs(name: str, root: Path) -> list[Path]:
    """The files of which the image consists, besides its base."""
    containerfile = root / "images" / f"Containerfile.{name}"
    if name == "example":
        return [containerfile, root / "examples" / "agent"]
    rooms = {package.name: package for package in root.glob("*/aios_*")}
    sources = [rooms[package] for package in PROGRAMS[name]]
    locks = [root / "requirements" / f"{program}.txt" for program in PROGRAMS]
    native = (
        [root / "sidecar" / "native" / "out" / file for file in ("aios-hook", "libnvidia-ml.so.1", "libcuda.so.1")]
        if name == "node"
        else []
    )
    makers = [Path(__file__).with_name(f"{module}.py") for module in ("imagebuild", "imagetrees")]
    return [containerfile, *sources, *locks, *native, *makers, root / "pyproject.toml"]


def _input_digest(name: str, settings: ImageSettings) -> str:
    inputs = digest_of(_inputs(name, settings.root), settings.root)
    return hashlib.sha256(f"{base_key(settings.base)} {inputs}".encode()).hexdigest()[:12]


def _record(tag: str, settings: ImageSettings) -> Path:
    return settings.cache / "built" / f"{tag.rpartition('/')[2].replace(':', '-')}.json"


def _kept(tag: str, settings: ImageSettings) -> BuiltImage | None:
    """The image as it was built before, if its archive is still there."""
    try:
        record = json.loads(_record(tag, settings).read_text())
    except FileNotFoundError:
        return None
    archive = settings.cache / "archives" / record["archive"]
    return BuiltImage(tag, archive, record["digest"]) if archive.exists() else None


def _remove_old(settings: ImageSettings, keep: set[Path]) -> None:
    for path in keep:
        os.utime(path)
    oldest = time.time() - KEEP_DAYS * 86_400
    for path in (settings.cache / "archives").glob("*.tar"):
        if path.stat().st_mtime < oldest:
            path.unlink()
    for path in (settings.cache / "libraries").glob("*"):
        if path.stat().st_mtime < oldest:
            shutil.rmtree(path)


def import_images(cluster: "LocalCluster", images: Mapping[str, BuiltImage], progress: Progress) -> None:
    """Every image is in the cluster's containerd, under its own tag and under the stable one; what is there already is not read again."""
    present = imports.present(cluster)
    archives = {image.archive_path for image in images.values() if present.get(image.tag) != image.digest}
    for archive in sorted(archives):
        progress(f"importing {archive.stat().st_size / 1e6:.0f} MB of images")
        imports.import_archive(cluster, archive)
    for image in images.values():
        if present.get(image.stable) != image.digest:
            imports.tag(cluster, image.tag, image.stable)


class _Builder:
    """One run of buildah over the images whose inputs changed."""

    def __init__(self, settings: ImageSettings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self._buildah = Buildah(settings.cache / "storage")

    def build(self, tags: Mapping[str, str]) -> dict[str, BuiltImage]:
        settings = self._settings
        base = prepare_base(self._buildah, settings.cache, settings.base, self._progress)
        trees = Trees(self._buildah, base, settings.root, settings.cache)
        with tempfile.TemporaryDirectory(dir=settings.cache) as scratch:
            programs, layout = Path(scratch) / "programs", Path(scratch) / "layout"
            contexts = {"packages": base.packages, "native": settings.root / "sidecar" / "native" / "out"}
            if ours := [name for name in tags if name in PROGRAMS]:
                self._progress("collecting the locked Python packages")
                contexts["libraries"] = trees.libraries()
                trees.programs(ours, programs)
            for name in tags:
                self._progress(f"building the image {name}")
                context = settings.root / "examples" / "agent"
                self._bud(name, base.image, context, {**contexts, "program": programs / name} if name in PROGRAMS else {})
                self._buildah("push", "--quiet", f"{REPOSITORY}/{name}:{STABLE_TAG}", f"oci:{layout}:{name}")
            digests, archive = self._archive(layout, tags)
        self._buildah("rm", "--all")  # what a build that was interrupted left; the storage is ours, and we hold its lock
        self._buildah("rmi", "--prune")
        images = {name: BuiltImage(tag, archive, digests[name]) for name, tag in tags.items()}
        for image in images.values():
            record = _record(image.tag, settings)
            record.parent.mkdir(exist_ok=True)
            record.write_text(json.dumps({"archive": archive.name, "digest": image.digest}))
        return images

    def _bud(self, name: str, base: str, context: Path, contexts: Mapping[str, Path]) -> None:
        containerfile = self._settings.root / "images" / f"Containerfile.{name}"
        named = [f"--build-context={key}={path}" for key, path in contexts.items()]
        self._buildah(
            "bud", "--quiet", "--layers", "--pull-never", "--network=none" if self._settings.base is None else "--network=host",
            "--build-arg", f"BASE={base}", *named, "--file", containerfile, "--tag", f"{REPOSITORY}/{name}:{STABLE_TAG}", context,
        )  # fmt: skip

    def _archive(self, layout: Path, tags: Mapping[str, str]) -> tuple[dict[str, str], Path]:
        """The layout as one archive, in which each image has its full name. Returns the manifests' digests and the archive."""
        index = json.loads((layout / "index.json").read_text())
        digests = {}
        for manifest in index["manifests"]:
            name = manifest["annotations"]["org.opencontainers.image.ref.name"]
            digests[name] = manifest["digest"]
            manifest["annotations"] = {"io.containerd.image.name": tags[name], "org.opencontainers.image.ref.name": tags[name]}
        (layout / "index.json").write_text(json.dumps(index))
        key = hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:12]
        archive = self._settings.cache / "archives" / f"kubeaios-{key}.tar"
        archive.parent.mkdir(exist_ok=True)
        partial = archive.with_suffix(".partial")
        with tarfile.open(partial, "w") as tar:
            tar.add(layout, arcname=".")
        partial.rename(archive)
        return digests, archive


def main() -> int:
    arguments = argparse.ArgumentParser(prog="imagebuild", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--base", help="a public image with Python 3.11 or newer and apt to build from, such as docker.io/library/python:3.13-slim"
    )
    settings = ImageSettings(base=arguments.parse_args().base)
    for name, image in build_images(print, settings).items():
        print(f"{name:9} {image.tag}  {image.archive_path}  {image.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

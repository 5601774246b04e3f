"""The directories that images copy: locked packages, split by which images share them, and our own packages per image.

Everything is fetched and compiled outside of the image builds, which then need no network and none of this machine's certificates.
"""

import configparser
import filecmp
import hashlib
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from aios_localcluster.buildah import Buildah, run
from aios_localcluster.imagebase import Base

PROGRAMS: dict[str, tuple[str, ...]] = {
    "operator": ("aios_api", "aios_kube", "aios_operator"),
    "node": ("aios_api", "aios_kube", "aios_sidecar"),
    "gateway": ("aios_api", "aios_sidecar"),
}
"""Our packages in each image; an image is built anew only when one of its own changed."""

LIBRARY_DIR = "/opt/aios/lib"
SHEBANG = "#!/usr/bin/env python3"

COMPILE = """
import compileall, pathlib, sys
from py_compile import PycInvalidationMode
for tree in pathlib.Path("/trees").glob(sys.argv[1]):
    done = compileall.compile_dir(tree, quiet=1, stripdir=str(tree), prependdir=sys.argv[2], workers=0,
                                  invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    if not done:
        sys.exit(f"{tree} did not compile")
"""


def digest_of(paths: Iterable[Path], root: Path) -> str:
    """Over names and contents of files and of everything below directories; Python's caches aside."""
    digest = hashlib.sha256()
    for path in sorted(file for start in paths for file in (start.rglob("*") if start.is_dir() else [start])):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


class Trees:
    """Makes the trees for one base, with that base's own Python."""

    def __init__(self, buildah: Buildah, base: Base, root: Path, cache: Path) -> None:
        self._buildah, self._base, self._root, self._cache = buildah, base, root, cache

    def libraries(self) -> Path:
        """`shared` (in all images), `cluster` (operator and node), and what each image has alone. Made once per locks and base."""
        locks = {name: self._root / "requirements" / f"{name}.txt" for name in PROGRAMS}
        key = hashlib.sha256(f"{self._base.key} {digest_of(locks.values(), self._root)}".encode()).hexdigest()[:12]
        trees = self._cache / "libraries" / key
        if trees.exists():
            os.utime(trees)  # in use: what nobody asked for in a long time is removed
            return trees
        partial = trees.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        version = self._python("-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
        for name, lock in locks.items():
            _install(lock, partial / name, version)
        _split(partial / "shared", [partial / name for name in PROGRAMS])
        _split(partial / "cluster", [partial / "operator", partial / "node"])
        self._compile(partial, "*", LIBRARY_DIR)
        partial.rename(trees)
        return trees

    def programs(self, names: Iterable[str], target: Path) -> None:
        """Writes to `target`/<name> what stands under /opt/aios in that image: our packages, and the commands that start them."""
        wheel = self._wheel(target)
        for name in names:
            with zipfile.ZipFile(wheel) as archive:
                kept = (*PROGRAMS[name], *{member.split("/")[0] for member in archive.namelist() if ".dist-info/" in member})
                archive.extractall(target / name / "lib", [member for member in archive.namelist() if member.split("/")[0] in kept])
            _write_commands(target / name, f"aios-{name}")
        wheel.unlink()
        self._compile(target, "*/lib", LIBRARY_DIR)

    def _wheel(self, target: Path) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", target, cwd=self._root)
        (wheel,) = target.glob("*.whl")
        return wheel

    def _python(self, *arguments: str, volume: str | None = None) -> str:
        """Runs the base's Python."""
        container = self._buildah("from", "--pull-never", self._base.image).strip()
        try:
            mount = ["--volume", volume] if volume else []
            return self._buildah("run", "--network", "host", *mount, container, "--", "python3", *arguments)
        finally:
            self._buildah("rm", container)

    def _compile(self, trees: Path, pattern: str, final: str) -> None:
        """Bytecode beside every source. By hash and unchecked, so that it does not depend on times, which copying changes."""
        self._python("-c", COMPILE, pattern, final, volume=f"{trees}:/trees")


def _install(lock: Path, target: Path, python: str) -> None:
    """The locked packages as wheels for the image's Python, checked against their hashes; sources are never built."""
    uv = Path(sys.executable).with_name("uv")
    run(
        uv, "pip", "install", "--quiet", "--target", target,
        "--python-version", python, "--python-platform", f"{platform.machine()}-manylinux_2_28",
        "--require-hashes", "--no-deps", "--only-binary", ":all:", "--link-mode", "copy", "--requirements", lock,
    )  # fmt: skip
    # Commands of libraries would start with this machine's Python, and no image calls them.
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)


def _split(common: Path, trees: list[Path]) -> None:
    """Moves what stands alike in all trees to `common`, which becomes one layer for all of them."""
    first, *others = trees
    for file in sorted(path for path in first.rglob("*") if path.is_file()):
        name = file.relative_to(first)
        if all((tree / name).is_file() and filecmp.cmp(file, tree / name, shallow=False) for tree in others):
            (common / name).parent.mkdir(parents=True, exist_ok=True)
            file.rename(common / name)
            for tree in others:
                (tree / name).unlink()
    for tree in trees:
        for path in sorted((path for path in tree.rglob("*") if path.is_dir()), reverse=True):
            if not any(path.iterdir()):
                path.rmdir()
    common.mkdir(exist_ok=True)


def _write_commands(program: Path, name: str) -> None:
    """The command of the wheel's entry points, for whichever Python the image has."""
    (described,) = (program / "lib").glob("*.dist-info/entry_points.txt")
    points = configparser.ConfigParser()
    points.read(described)
    module, function = points["console_scripts"][name].split(":")
    command = program / "bin" / name
    command.parent.mkdir(parents=True)
    command.write_text(f"{SHEBANG}\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n")
    command.chmod(0o755)

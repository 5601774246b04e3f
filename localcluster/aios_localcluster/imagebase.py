"""The base of our images: a public Python image where one is named, else this machine's own Debian or Ubuntu, bootstrapped once."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aios_localcluster.buildah import Buildah, require, run
from aios_localcluster.errors import CannotRunHere

PACKAGES = ("python3",)
NODE_PACKAGES = ("nftables", "libstdc++6")
"""What only the node image needs: nft, and the library of grpcio. Kept beside the base as packages, so that the images still
share their first layer."""

UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/i18n", "usr/share/lintian", "usr/share/bug")
"""Left out of every package: nobody reads manuals in these containers."""
REMOVED = ("var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "var/log", "usr/lib/python3*/__pycache__", "usr/share/python-wheels")
KEPT_OF_UNUSED = "/usr/share/doc/*/copyright"
"""Licences of the packages stay: some of them ask for it."""

MERGED_USR = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")
"""Merges /usr before the first package: else the package usrmerge does it afterwards, and brings 45 MB of Perl."""

SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list.d/ubuntu.sources", "/etc/apt/sources.list")


@dataclass(frozen=True)
class Base:
    """What images are built from. `packages` holds Debian packages for the node image; empty when the base brings its own apt."""

    key: str
    image: str
    packages: Path


def suite() -> str:
    """The code name of this machine's Debian or Ubuntu, whose mirrors and keys are known to work here."""
    words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    name = words.get("VERSION_CODENAME", "").strip('"')
    if not name:
        raise CannotRunHere("/etc/os-release names no VERSION_CODENAME: this is no Debian or Ubuntu to bootstrap; name a base image")
    return name


def base_key(public: str | None) -> str:
    """Changes exactly when the base would be made anew."""
    recipe: object = public or [suite(), platform.machine(), PACKAGES, NODE_PACKAGES, UNUSED, REMOVED]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def prepare_base(buildah: Buildah, cache: Path, public: str | None, progress: Callable[[str], None]) -> Base:
    """The base stands in buildah's storage."""
    key = base_key(public)
    directory = cache / "base" / key
    base = Base(key, public or f"localhost/kubeaios/base:{key}", directory / "packages")
    base.packages.mkdir(parents=True, exist_ok=True)
    if buildah.has(base.image):
        return base
    if public is not None:
        progress(f"pulling {public}")
        buildah("pull", public)
        return base
    archive = directory / "base.tar"
    if not archive.exists():
        progress(f"bootstrapping a minimal {suite()} with Python (once, about half a minute)")
        _bootstrap(archive, base.packages)
    containerfile = directory / "Containerfile"
    containerfile.write_text("FROM scratch\nADD base.tar /\n")
    buildah("bud", "--quiet", "--file", containerfile, "--tag", base.image, directory)
    archive.unlink()  # it is in the storage now
    return base


def _bootstrap(archive: Path, packages: Path) -> None:
    """Writes the root file system to `archive` and, to `packages`, what the node image adds to exactly this file system."""
    require("mmdebstrap", "mmdebstrap")
    partial = archive.with_suffix(".partial.tar")
    options = [f"--dpkgopt=path-exclude=/{path}/*" for path in UNUSED] + [f"--dpkgopt=path-include={KEPT_OF_UNUSED}"]
    fetch = (
        'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get clean && '
        f'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get install --yes --download-only {" ".join(NODE_PACKAGES)} && '
        f'cp "$1"/var/cache/apt/archives/*.deb "{packages}"/'
    )
    remove = 'cd "$1" && rm -rf ' + " ".join(f"{path}/*" for path in REMOVED)
    sources = [path for path in SOURCES if Path(path).exists() and Path(path).read_text().strip()][:1]
    shutil.rmtree(packages)
    packages.mkdir()
    run(
        "mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(PACKAGES)}", '--aptopt=APT::Install-Recommends "false"',
        *([f"--hook-dir={MERGED_USR}"] if MERGED_USR.exists() else []), *options,
        f"--customize-hook={fetch}", f"--customize-hook={remove}", suite(), partial, *sources,
    )  # fmt: skip
    partial.rename(archive)

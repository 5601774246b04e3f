"""What decides whether an image is built anew, and how packages are shared among images."""

import os
from pathlib import Path

import pytest

from aios_localcluster import host, imagebuild, imagetrees
from aios_localcluster.errors import CannotRunHere
from aios_localcluster.imagebuild import BuiltImage, ImageSettings

ROOT = Path(__file__).parents[3]


def write(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def names(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}


def test_what_stands_alike_in_all_trees_is_shared_and_the_rest_stays(tmp_path: Path) -> None:
    one = write(tmp_path / "one", lib__same="x", lib__differs="1", only="1")
    two = write(tmp_path / "two", lib__same="x", lib__differs="2")
    imagetrees._split(tmp_path / "common", [one, two])
    assert names(tmp_path / "common") == {"lib/same"}
    assert (names(one), names(two)) == ({"lib/differs", "only"}, {"lib/differs"})


def test_trees_that_share_nothing_still_leave_a_directory_to_copy(tmp_path: Path) -> None:
    imagetrees._split(tmp_path / "common", [write(tmp_path / "one", a="1"), write(tmp_path / "two", b="1")])
    assert (tmp_path / "common").is_dir()


def test_caches_of_python_are_no_input(tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", a="1")
    before = imagetrees.digest_of([tree], tmp_path)
    write(tree / "__pycache__", a="bytecode")
    assert imagetrees.digest_of([tree], tmp_path) == before


@pytest.mark.parametrize("change", [{"a": "2"}, {"c": ""}, {"a": "12", "b": ""}])
def test_every_change_of_a_file_changes_the_digest(tmp_path: Path, change: dict[str, str]) -> None:
    tree = write(tmp_path / "tree", a="1", b="2")
    before = imagetrees.digest_of([tree], tmp_path)
    write(tree, **change)
    assert imagetrees.digest_of([tree], tmp_path) != before


@pytest.mark.parametrize(
    ("room", "images"),
    [
        ("operator/aios_operator", {"operator"}),
        ("sidecar/aios_sidecar", {"node", "gateway"}),
        ("crds/aios_api", {"operator", "node", "gateway"}),
        ("examples/agent", {"example"}),
        ("cli/aios_cli", set()),
    ],
)
def test_a_change_in_a_room_builds_only_the_images_that_have_it(room: str, images: set[str]) -> None:
    assert {name for name in imagebuild.NAMES if ROOT / room in imagebuild._inputs(name, ROOT)} == images


def test_every_input_of_an_image_that_is_committed_exists() -> None:
    for name in imagebuild.NAMES:
        missing = [path for path in imagebuild._inputs(name, ROOT) if not path.exists() and "native" not in path.parts]
        assert missing == []


def test_commands_start_with_the_python_of_the_image(tmp_path: Path) -> None:
    write(tmp_path, **{"lib__kubeaios-1.dist-info__entry_points.txt": "[console_scripts]\naios-node = some.module:main\n"})
    imagetrees._write_commands(tmp_path, "aios-node")
    command = tmp_path / "bin" / "aios-node"
    assert command.read_text().startswith("#!/usr/bin/env python3\n")
    assert "from some.module import main" in command.read_text()
    assert command.stat().st_mode & 0o111 == 0o111


def test_an_image_whose_archive_is_gone_is_built_again(tmp_path: Path) -> None:
    settings = ImageSettings(root=ROOT, cache=tmp_path)
    tag = f"{imagebuild.REPOSITORY}/node:abc"
    write(tmp_path, **{"built__node-abc.json": '{"archive": "a.tar", "digest": "sha256:1"}'})
    assert imagebuild._kept(tag, settings) is None
    write(tmp_path, **{"archives__a.tar": ""})
    assert imagebuild._kept(tag, settings) == BuiltImage(tag, tmp_path / "archives" / "a.tar", "sha256:1")


def test_what_a_build_needs_is_installed_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(say: object, packages: tuple[host.Package, ...]) -> None:
        raise CannotRunHere(" ".join(package.name for package in packages))

    monkeypatch.setattr(host, "install_missing", install)
    with pytest.raises(CannotRunHere, match="make gcc libc6-dev buildah mmdebstrap"):
        imagebuild.build_images(print, ImageSettings(cache=tmp_path))


def test_locks_name_no_place_of_this_machine_and_every_package_has_hashes() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text, lock
        assert "--index" not in text, lock
        pins = [line for line in text.splitlines() if line and line[0] not in " #"]
        assert pins, lock
        assert all("==" in pin and pin.endswith("\\") for pin in pins), lock


def test_what_nobody_asked_for_in_a_long_time_is_removed_and_the_rest_is_kept(tmp_path: Path) -> None:
    write(tmp_path, archives__used="", archives__old="", archives__new="", libraries__old__x="", libraries__new__x="")
    used, old, new = ((tmp_path / "archives" / name).rename(tmp_path / "archives" / f"{name}.tar") for name in ("used", "old", "new"))
    for path in (used, old, tmp_path / "libraries" / "old"):
        os.utime(path, (0, 0))
    imagebuild._remove_old(ImageSettings(root=ROOT, cache=tmp_path), keep={used})
    assert (used.exists(), old.exists(), new.exists()) == (True, False, True)
    assert {path.name for path in (tmp_path / "libraries").iterdir()} == {"new"}

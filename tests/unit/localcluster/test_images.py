"""The archive of the sandbox image."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from aios_localcluster.images import single_program_archive


def archive(tmp_path: Path, machine: str = "x86_64") -> dict[str, bytes]:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF a program")
    with tarfile.open(fileobj=io.BytesIO(single_program_archive(program, "localhost/pause:1", machine))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_the_archive_names_its_image_and_holds_the_program_as_entry_point(tmp_path: Path):
    parts = archive(tmp_path)
    (manifest,) = json.loads(parts["manifest.json"])
    assert manifest["RepoTags"] == ["localhost/pause:1"]
    config = json.loads(parts[manifest["Config"]])
    assert config["config"]["Entrypoint"] == ["/pause"]
    layer = parts[manifest["Layers"][0]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        member = tar.getmember("pause")
        assert member.mode == 0o755


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_the_architecture_has_the_name_that_images_use(tmp_path: Path, machine: str, architecture: str):
    parts = archive(tmp_path, machine)
    (manifest,) = json.loads(parts["manifest.json"])
    assert json.loads(parts[manifest["Config"]])["architecture"] == architecture


def test_the_same_program_gives_the_same_bytes(tmp_path: Path):
    assert archive(tmp_path) == archive(tmp_path)

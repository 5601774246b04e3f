"""Images without a registry: archives go straight into the cluster's containerd."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from aios_localcluster.configuration import CONTAINERD_SOCKET
from aios_localcluster.errors import LocalClusterError

if TYPE_CHECKING:
    from aios_localcluster.cluster import LocalCluster

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def single_program_archive(program: Path, image: str, machine: str) -> bytes:
    """A docker archive of an image that is one static program at `/<its name>`, its entry point. The same input gives the same bytes."""
    layer = _tar({program.name: (program.read_bytes(), 0o755)})
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [image], "Layers": ["layer.tar"]}]).encode()
    return _tar({"layer.tar": (layer, 0o644), config_name: (config, 0o644), "manifest.json": (manifest, 0o644)})


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _ctr(cluster: "LocalCluster", *arguments: str) -> list[str]:
    return [str(cluster.ctr_path), "--address", CONTAINERD_SOCKET, "-n", "k8s.io", *arguments]


def import_archive(cluster: "LocalCluster", archive: Path) -> list[str]:
    """Import a docker or OCI archive into the cluster's containerd; returns the names of the images that it brought.

    After that, pods can use the names with `imagePullPolicy: IfNotPresent` or `Never`. Raises LocalClusterError with what `ctr` said.
    """
    with archive.open("rb") as file:  # handed over open: the cluster's mounts may not show this path
        done = subprocess.run(
            cluster.node_argv(_ctr(cluster, "images", "import", "-")), stdin=file, capture_output=True, text=True, check=False, timeout=300
        )
    if done.returncode != 0:
        raise LocalClusterError(f"{archive} must be a docker or OCI archive that containerd can import; ctr said: {done.stderr.strip()}")
    return [name for name, *rest in map(str.split, filter(str.strip, done.stdout.splitlines())) if rest == ["saved"]]


def tag(cluster: "LocalCluster", image: str, name: str) -> None:
    """Give an image of the cluster's containerd a further name, taken from whichever image had it. Raises LocalClusterError."""
    cluster.node_exec(_ctr(cluster, "images", "tag", "--force", image, name))


def present(cluster: "LocalCluster") -> dict[str, str]:
    """The images in the cluster's containerd: name to digest."""
    listed = cluster.node_exec(_ctr(cluster, "images", "list"))
    rows = (line.split() for line in listed.splitlines()[1:])
    return {row[0]: row[2] for row in rows if len(row) > 2}

"""KubeAIOS on a local cluster: our images imported, our chart installed by Helm, nothing else touched."""

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aios_localcluster.cluster import LocalCluster
from aios_localcluster.imagebuild import build_images, import_images
from aios_localcluster.settings import RELEASE_NAMESPACE

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "kubeaios"
NAMESPACE = RELEASE_NAMESPACE
RELEASE = "kubeaios"

FAKE_GPUS = """\
# Two GPUs that do not exist, so that a machine without one can show what the bookkeeping does. 512 MiB of each are kept back.
gpu uuid=GPU-00000000-0000-0000-0000-00000000000a model="NVIDIA H100 80GB HBM3" memory=82432Mi
gpu uuid=GPU-00000000-0000-0000-0000-00000000000b model="NVIDIA L40S" memory=49664Mi
# Programs play what they use of them, in /tmp/aios-fake-vram/<pid> of their own containers.
programs proc=/proc
"""


def real_gpu_library() -> Path | None:
    """The directory of the NVIDIA driver's libnvidia-ml.so.1, when this machine has a device for it."""
    if not Path("/dev/nvidiactl").exists():
        return None
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        if "libnvidia-ml.so.1" in line and "=>" in line:
            return Path(line.rsplit("=>", 1)[1].strip()).parent
    return None


def values(cluster: LocalCluster, tags: dict[str, str], fake_gpus: str | None) -> dict[str, Any]:
    """What this cluster needs other than the chart's defaults."""
    library = real_gpu_library()
    node: dict[str, Any] = {"image": tags["node"], "kubeletDir": str(cluster.kubelet_dir)}
    if fake_gpus is None and library is not None:
        node["driverLibraryDir"] = str(library)
    if cluster.settings.kwok_nodes:
        node["nodeSelector"] = {"kubernetes.io/hostname": cluster.settings.node_name}  # the others have no kubelet and no driver
    return {
        "operator": {"image": tags["operator"]},
        "node": node,
        "gateway": {"image": tags["gateway"]},
        "fakeGpus": fake_gpus or "",
    }


def install(
    cluster: LocalCluster, progress: Callable[[str], None], fake_gpus: str | None = None, timeout_seconds: int = 120
) -> dict[str, str]:
    """The chart is installed or upgraded and its pods are ready. Returns the image tags by name.

    Raises subprocess.CalledProcessError with Helm's words when the chart can't be installed.
    """
    images = build_images(progress)
    import_images(cluster, images, progress)
    tags = {name: image.tag for name, image in images.items()}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values(cluster, tags, fake_gpus), file)
        file.flush()
        progress("installing the chart with Helm")
        helm(cluster, "upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace",
             "--values", file.name, "--wait", "--timeout", f"{timeout_seconds}s")  # fmt: skip
    return tags


def uninstall(cluster: LocalCluster, timeout_seconds: int = 120) -> None:
    """Agents are removed first (the chart's pre-delete hook), then the chart."""
    helm(cluster, "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", f"{timeout_seconds}s")


def helm(cluster: LocalCluster, *arguments: str) -> str:
    return _run(cluster, cluster.helm_path, *arguments)


def kubectl(cluster: LocalCluster, *arguments: str, stdin: str | None = None) -> str:
    """Its output; raises subprocess.CalledProcessError, whose stderr says why."""
    return _run(cluster, cluster.kubectl_path, *arguments, stdin=stdin)


def _run(cluster: LocalCluster, program: Path, *arguments: str, stdin: str | None = None) -> str:
    result = subprocess.run(
        [str(program), "--kubeconfig", str(cluster.kubeconfig), *arguments], capture_output=True, text=True, input=stdin, check=False
    )
    if result.returncode != 0:
        raise subprocess.CalledProcessError(result.returncode, [program.name, *arguments], result.stdout, result.stderr)
    return result.stdout

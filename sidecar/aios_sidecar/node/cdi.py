"""What the container runtime does to an agent's containers, as CDI files: ours per claim, and the GPU vendor's, which we only look up."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from aios_api.names import AGENT_DIR, AGENT_SOCKET, AGENT_URL, CDI_KIND
from aios_sidecar.node.files import write_atomically
from aios_sidecar.node.settings import NodeSettings
from aios_sidecar.node.state import ClaimState

CDI_VERSION = "0.6.0"
"""The oldest that has all we use and is understood by containerd 2.0."""
VENDOR_KIND = "nvidia.com/gpu"
LOOPBACK = "127.0.0.1,localhost,::1"


class VendorDeviceMissing(Exception):
    """No CDI file of the vendor describes the GPU; the message says how to make one."""


def device_id(claim_uid: str) -> str:
    """The claim's device, as the kubelet hands it to the runtime."""
    return f"{CDI_KIND}={claim_uid}"


def content(settings: NodeSettings, state: ClaimState) -> bytes:
    """The claim's CDI file: the agent's directory, its environment, and the hook without whose answer no container starts."""
    edits: dict[str, Any] = {
        "env": [f"{name}={value}" for name, value in environment(state).items()],
        "mounts": [
            {
                "hostPath": str(settings.agent_dir(state.claim_uid)),
                "containerPath": AGENT_DIR,
                "type": "bind",
                "options": ["ro", "rbind", "nosuid", "nodev", "noexec"],
            }
        ],
        "hooks": [
            {
                "hookName": "createRuntime",
                "path": str(settings.hook_path),
                "args": [settings.hook_path.name, str(settings.hook_socket), state.claim_uid],
            }
        ],
    }
    document = {"cdiVersion": CDI_VERSION, "kind": CDI_KIND, "devices": [{"name": state.claim_uid, "containerEdits": edits}]}
    return json.dumps(document, indent=1).encode() + b"\n"


def put(settings: NodeSettings, state: ClaimState) -> None:
    """The claim's CDI file is there, as it must be. A file that is so already is not written. Raises OSError."""
    path, wanted = settings.cdi_file(state.claim_uid), content(settings, state)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != wanted:
        write_atomically(path, wanted, 0o644)


def environment(state: ClaimState) -> dict[str, str]:
    """The variables of every container of the agent. Both spellings of the proxy's, because programs disagree about them."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), AGENT_URL)
    return {
        "AIOS_URL": AGENT_URL,
        "AIOS_SOCKET": AGENT_SOCKET,
        "AIOS_AGENT": f"{state.namespace}/{state.agent}",
        **proxies,
        "no_proxy": LOOPBACK,
        "NO_PROXY": LOOPBACK,
        # Where NVIDIA's runtime is the default one, an image's own value would bring it all GPUs of the node.
        "NVIDIA_VISIBLE_DEVICES": "void",
    }


def vendor_device(directories: Iterable[Path], uuid: str) -> str:
    """The CDI device of the GPU with this uuid. Raises VendorDeviceMissing."""
    places = list(dict.fromkeys(directories))
    for path in (path for place in places for path in _files(place)):
        if _describes(path, uuid):
            return f"{VENDOR_KIND}={uuid}"
    raise VendorDeviceMissing(
        f"no CDI file in {', '.join(map(str, places))} describes {VENDOR_KIND}={uuid}: on the node, run "
        "nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml"
    )


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in (".json", ".yaml", ".yml"))


def _describes(path: Path, uuid: str) -> bool:
    """Whether the file describes the device. A file that can't be read describes nothing: the runtime ignores it too."""
    try:
        document = yaml.safe_load(path.read_bytes())  # JSON is YAML
        return document["kind"] == VENDOR_KIND and any(device["name"] == uuid for device in document["devices"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False

"""What the node agent is told by its environment, read once at its start."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aios_api.names import CDI_KIND, DRIVER

LEAST_MUTE_SECONDS, MOST_MUTE_SECONDS = 20, 3600
"""Shorter than that, and one slow answer of the API server would silence agents."""


class InvalidSettings(ValueError):
    """A variable of the environment that must be set, or set differently; the message names it."""


@dataclass(frozen=True)
class NodeSettings:
    """Paths are those of the host: the kubelet, the runtime and the hook read them too, so the container mounts them where they are."""

    node_name: str
    """The Node this agent speaks for (AIOS_NODE_NAME, from the downward API)."""
    namespace: str = "aios-system"
    """Where the Lease of this node agent is: the release's namespace (AIOS_NAMESPACE, from the downward API)."""
    mute_seconds: float = 60.0
    """How long the gateway may act on what it was told last (AIOS_MUTE_SECONDS); operator and gateway have the same value. Longer bridges
    longer absences of the API server, shorter replaces the agents of a lost node sooner. A minute bridges a restart of the API server."""
    kubelet_dir: Path = Path("/var/lib/kubelet")
    """The kubelet's root directory (AIOS_KUBELET_DIR); its plug-in sockets and our hook are below it."""
    run_dir: Path = Path("/run/aios")
    """Sockets (AIOS_RUN_DIR). May be empty after a reboot: everything in it is restored from `state_dir`."""
    state_dir: Path = Path("/var/lib/aios")
    """State of prepared claims (AIOS_STATE_DIR). Must survive reboots, as the kubelet's own checkpoint does."""
    cdi_dir: Path = Path("/var/run/cdi")
    """Where the container runtime looks for CDI files that programs write (AIOS_CDI_DIR); containerd's default."""
    vendor_cdi_dirs: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))
    """Where the CDI files of the GPU vendor are (AIOS_VENDOR_CDI_DIRS, separated by colons); the directories of the CDI specification."""
    driver_module: Path = Path("/sys/module/nvidia")
    """The loaded driver. Another one at the same place is a new start, before which a GPU's faults mean nothing."""
    hook_binary: Path = Path("/usr/local/libexec/aios-hook")
    """The hook in this program's image (AIOS_HOOK_BINARY); installed on the host at each start."""
    host_namespace_paths: tuple[Path, ...] = (Path("/proc/1/ns/net"), Path("/proc/self/ns/net"))
    """Network namespaces that are never an agent's. Both, because either may be unreadable or another than the host's."""
    gateway_uid: int = 64489
    """The user id that may take listeners on `gateway_socket` (AIOS_GATEWAY_UID): the gateway's, which is nobody else's on the node."""
    slots: int = 110
    """Agents on this node at once (AIOS_SLOTS). The kubelet's own default limit of pods, so that ours is not the tighter one."""
    http_port: int = 9487
    """Health and metrics (AIOS_HTTP_PORT), on `http_host`."""
    http_host: str = "0.0.0.0"  # noqa: S104  scraped from outside the node; nothing but counters and health is served
    """Address of health and metrics (AIOS_HTTP_HOST)."""
    inventory_seconds: float = 5.0
    """Between two looks at the GPUs (AIOS_INVENTORY_SECONDS). A look costs milliseconds; placement hears of a change within this time."""
    prepare_seconds: float = 40.0
    """How long Prepare waits for orders. The kubelet's call ends after 45 s, and it tries again only 60 to 90 s after a failure."""
    hook_seconds: float = 20.0
    """How long one question of the hook may take. The hook itself waits 30 s in all, so a lost answer leaves time for another."""
    api_seconds: float = 5.0
    """How long the hook's answer waits for the API server before the question is left unanswered (and asked again)."""
    inspection_seconds: float = 60.0
    """Between two inspections of one agent's fence and listeners. One costs a run of nft (10 ms); spread over the time, 110 agents cost
    2 % of a core."""
    probe_seconds: float = 300.0
    """Between two probes of one agent's fence from inside (AIOS_PROBE_SECONDS). One costs three runs of nft and some thirty packets that go
    nowhere, 20 ms of CPU in all: 110 agents cost 1 % of a core."""
    sweep_seconds: float = 300.0
    """Between two looks for what was left behind. At rest one costs the names of two directories, and no request."""
    resolver_files: tuple[Path, ...] = (Path("/etc/resolv.conf"), Path("/proc/1/root/etc/resolv.conf"))
    """Where the name servers stand that a probe tries to reach: the cluster's, as our own pod has them, and the node's."""
    leftover_seconds: float = 5.0
    """Between two questions whether the pod of a claim whose order went away is still there. Soon: another may have its GPU by then."""
    reservation_seconds: float = 300.0
    """The same for a claim whose order stands. One costs a read of the claim: on a full node, one in three seconds."""
    relist_seconds: float = 300.0
    """Between two lists of orders, slices and the node. What a watch did not tell stays unknown for so long at most; the operator's audits
    are as often."""
    handback_seconds: float = 6.0
    """How long a start waits for the gateway to hand listeners back before it opens them anew; a gateway tries at least every 5 s."""

    @property
    def plugin_dir(self) -> Path:
        """Ours below the kubelet: the plug-in's socket and the hook."""
        return self.kubelet_dir / "plugins" / DRIVER

    @property
    def plugin_socket(self) -> Path:
        return self.plugin_dir / "dra.sock"

    @property
    def registration_socket(self) -> Path:
        """Where the kubelet's plug-in watcher finds us."""
        return self.kubelet_dir / "plugins_registry" / f"{DRIVER}-reg.sock"

    @property
    def hook_path(self) -> Path:
        """The hook on the host, as CDI files name it."""
        return self.plugin_dir / "aios-hook"

    @property
    def hook_socket(self) -> Path:
        return self.run_dir / "hook.sock"

    @property
    def gateway_socket(self) -> Path:
        return self.run_dir / "gateway" / "node.sock"

    @property
    def claims_dir(self) -> Path:
        return self.state_dir / "claims"

    @property
    def context_dir(self) -> Path:
        """Where the gateway keeps the contexts of agents: the one directory there that is its own."""
        return self.state_dir / "context"

    @property
    def gpus_dir(self) -> Path:
        """What is known of each GPU's health."""
        return self.state_dir / "gpus"

    def agent_dir(self, claim_uid: str) -> Path:
        """The directory that is mounted in the containers of the claim's pod."""
        return self.run_dir / "agents" / claim_uid

    def agent_socket(self, claim_uid: str) -> Path:
        return self.agent_dir(claim_uid) / "agent.sock"

    def cdi_file(self, claim_uid: str) -> Path:
        return self.cdi_dir / f"{CDI_KIND.partition('/')[0]}-{claim_uid}.json"


def from_environment(environment: Mapping[str, str] | None = None) -> NodeSettings:
    """The settings that the environment describes. Raises InvalidSettings for a missing node name or a value that can't be read."""
    given = os.environ if environment is None else environment
    name = given.get("AIOS_NODE_NAME", "")
    if not name:
        raise InvalidSettings("AIOS_NODE_NAME must be set to the name of the Node (spec.nodeName by the downward API)")
    namespace = given.get("AIOS_NAMESPACE", "")
    if not namespace:
        raise InvalidSettings("AIOS_NAMESPACE must be set to the namespace of the release (metadata.namespace by the downward API)")
    defaults = NodeSettings(name)
    return NodeSettings(
        node_name=name,
        namespace=namespace,
        mute_seconds=float(_number(given, "AIOS_MUTE_SECONDS", int(defaults.mute_seconds), LEAST_MUTE_SECONDS, MOST_MUTE_SECONDS)),
        kubelet_dir=_path(given, "AIOS_KUBELET_DIR", defaults.kubelet_dir),
        run_dir=_path(given, "AIOS_RUN_DIR", defaults.run_dir),
        state_dir=_path(given, "AIOS_STATE_DIR", defaults.state_dir),
        cdi_dir=_path(given, "AIOS_CDI_DIR", defaults.cdi_dir),
        vendor_cdi_dirs=_paths(given, "AIOS_VENDOR_CDI_DIRS", defaults.vendor_cdi_dirs),
        hook_binary=_path(given, "AIOS_HOOK_BINARY", defaults.hook_binary),
        gateway_uid=_number(given, "AIOS_GATEWAY_UID", defaults.gateway_uid, 1, 2**32 - 2),
        slots=_number(given, "AIOS_SLOTS", defaults.slots, 1, 10_000),
        http_port=_number(given, "AIOS_HTTP_PORT", defaults.http_port, 0, 65_535),
        http_host=given.get("AIOS_HTTP_HOST", defaults.http_host),
        inventory_seconds=float(_number(given, "AIOS_INVENTORY_SECONDS", int(defaults.inventory_seconds), 1, 3600)),
        probe_seconds=float(_number(given, "AIOS_PROBE_SECONDS", int(defaults.probe_seconds), 10, 86_400)),
    )


def _path(given: Mapping[str, str], name: str, default: Path) -> Path:
    path = Path(given.get(name) or default)
    if not path.is_absolute():
        raise InvalidSettings(f"{name} must be an absolute path of the host, not {str(path)!r}")
    return path


def _paths(given: Mapping[str, str], name: str, default: tuple[Path, ...]) -> tuple[Path, ...]:
    parts = [part for part in given.get(name, "").split(":") if part]
    return tuple(_path({name: part}, name, default[0]) for part in parts) or default


def _number(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise InvalidSettings(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)

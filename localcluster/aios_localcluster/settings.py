"""What one may choose about a local cluster, and where its files are."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from aios_localcluster.build import default_cache

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
FULL = (*CONTROL_PLANE, "containerd", "kubelet", "kube-proxy")
"""A control plane and one real node."""
RELEASE_NAMESPACE = "aios-system"
"""Where the chart is installed."""
API_ONLY = ("etcd", "kube-apiserver", "kube-controller-manager")
"""The API with its controllers (namespaces, garbage collection, service accounts), without scheduler and node: for tests of the API."""


def _cache() -> Path:
    return default_cache(os.environ)


@dataclass(frozen=True)
class ClusterSettings:
    """One local cluster. Two clusters run side by side when their names or their state roots differ."""

    name: str = "aios"
    """Names the cluster, its node (`<name>-node`) and its state directory: a DNS label of at most 40 characters."""
    state_root: Path = Path("/var/lib/kubeaios-local")
    """Where the state directory `<state_root>/<name>` is made. It must be on a disk file system (containerd's overlay file systems are
    there) and have some GiB free for images."""
    cache: Path = field(default_factory=_cache)
    """Where built programs are kept, outside the tree, so that a clean checkout does not build them again."""
    components: tuple[str, ...] = FULL
    """What runs: FULL, or API_ONLY when no pod has to run; that saves seconds and half of the memory."""
    kwok_nodes: int = 0
    """How many simulated nodes there are besides, run by KWOK. Pods on them are said to run; nothing does. Fifty take a second to make."""
    gpus_per_node: int = 8
    """How many GPUs of 80 GiB each simulated node has."""
    subnet: str | None = None
    """A /16 for node, pods and services. None picks a free one by the cluster's name from 10.128.0.0/10, which few networks use."""
    start_timeout_seconds: float = 120.0
    """How long `up` waits until API and node are ready. A start takes 10 s on two idle cores; the rest is for busy ones."""
    stop_timeout_seconds: float = 30.0
    """How long `down` waits for the kernel to end every process after the kill: a process in a long disk write delays its end."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise ValueError(f"name must be a DNS label of at most 40 characters (a-z, 0-9, -), not {self.name!r}")
        unknown = [component for component in self.components if component not in FULL]
        if unknown:
            raise ValueError(f"components must be among {', '.join(FULL)}; not {', '.join(unknown)}")
        missing = [component for component in ("etcd", "kube-apiserver") if component not in self.components]
        if missing:
            raise ValueError(f"components must contain {' and '.join(missing)}: every other component needs the API")
        if "kubelet" in self.components and "containerd" not in self.components:
            raise ValueError("components must contain containerd when they contain kubelet")
        if not (0 <= self.kwok_nodes <= 5000 and 0 <= self.gpus_per_node <= 16):
            raise ValueError("kwok_nodes must be 0 to 5000, and gpus_per_node 0 to 16")
        if self.kwok_nodes and "kube-scheduler" not in self.components:
            raise ValueError("components must contain kube-scheduler when there are simulated nodes: nothing would be bound to them")
        if self.subnet is not None and IPv4Network(self.subnet).prefixlen != 16:
            raise ValueError(f"subnet must be an IPv4 network with a prefix of 16 bits, not {self.subnet}")

    @property
    def has_node(self) -> bool:
        """Whether pods can run."""
        return "kubelet" in self.components

    @property
    def node_name(self) -> str:
        """The name of the one Node."""
        return f"{self.name}-node"

    @property
    def layout(self) -> "Layout":
        """Where the files of this cluster are."""
        return Layout(self.state_root.absolute() / self.name)


@dataclass(frozen=True)
class Layout:
    """The files below one cluster's state directory."""

    root: Path

    @property
    def identity(self) -> str:
        """Names what the kernel holds for this cluster (cgroup, lock): unique for name and place."""
        return f"{self.root.name}-{hashlib.sha256(str(self.root).encode()).hexdigest()[:6]}"

    @property
    def link(self) -> str:
        """The host's end of the cluster's veth pair; link names have at most 15 characters."""
        return f"ka{hashlib.sha256(self.identity.encode()).hexdigest()[:8]}"

    @property
    def marker(self) -> Path:
        """Says that the directory is a cluster's: `down` removes no other one."""
        return self.root / "local-cluster"

    @property
    def plan(self) -> Path:
        """What the supervisor runs, as JSON."""
        return self.root / "plan.json"

    @property
    def network(self) -> Path:
        """The network this cluster was given."""
        return self.root / "network.json"

    @property
    def holder(self) -> Path:
        """Process id and start time of the process that holds the namespaces."""
        return self.root / "holder.json"

    @property
    def control(self) -> Path:
        """The supervisor's Unix socket."""
        return self.root / "control.sock"

    @property
    def kubeconfig(self) -> Path:
        """For people and tests: cluster administrator."""
        return self.root / "kubeconfig"

    @property
    def certificates(self) -> Path:
        """Keys and certificates; readable by root only."""
        return self.root / "pki"

    @property
    def configuration(self) -> Path:
        """Configuration files of the components, and their kubeconfigs."""
        return self.root / "config"

    @property
    def names(self) -> Path:
        """Names beside those of Services that the cluster's name server knows: a JSON object of names to lists of addresses."""
        return self.configuration / "names.json"

    @property
    def pause_image(self) -> Path:
        """The archive of the sandbox image."""
        return self.configuration / "pause.tar"

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.root / "logs"

    def log(self, component: str) -> Path:
        """The log of one component, or of the supervisor itself."""
        return self.logs / f"{component}.log"

    @property
    def etcd(self) -> Path:
        """etcd's data."""
        return self.root / "etcd"

    @property
    def private(self) -> Path:
        """What the cluster writes to /etc, /var and /opt, and what it has there alone."""
        return self.root / "private"


def environment_settings(environment: Mapping[str, str], name: str, state_dir: Path | None = None) -> ClusterSettings:
    """The settings that a command starts from: `state_dir`'s parent and name win over `name`."""
    root, name = (state_dir.absolute().parent, state_dir.name) if state_dir else (ClusterSettings.state_root, name)
    return ClusterSettings(name=name, state_root=root, cache=default_cache(environment))

"""The cluster's own network: one veth pair between the host and the cluster's network namespace, and three ranges of one /16."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from aios_localcluster.errors import LocalClusterError

POOL = IPv4Network("10.128.0.0/10")
INSIDE = "eth0"


@dataclass(frozen=True)
class ClusterNetwork:
    """The ranges of one cluster. Nothing outside this machine can reach them, and they reach nothing outside it."""

    subnet: IPv4Network

    @property
    def host(self) -> IPv4Address:
        """The host's end, which is also the node's default gateway: what listens on the host can be reached from pods."""
        return self.subnet[1]

    @property
    def node(self) -> IPv4Address:
        """The node's address, where the API server listens. A loopback address would be refused as a node's."""
        return self.subnet[2]

    @property
    def pods(self) -> IPv4Network:
        """The node's pods: 254 addresses, more than the 110 pods that a kubelet takes."""
        return IPv4Network(f"{self.subnet[64 * 256]}/24")

    @property
    def services(self) -> IPv4Network:
        """Cluster addresses of Services; the first one is the API's."""
        return IPv4Network(f"{self.subnet[128 * 256]}/20")

    @property
    def api_service(self) -> IPv4Address:
        """The address of the Service `kubernetes` in the namespace `default`."""
        return self.services[1]

    @property
    def api_url(self) -> str:
        """Where the API is for the host, the node and hostNetwork pods."""
        return f"https://{self.node}:6443"


def candidates(identity: str) -> list[ClusterNetwork]:
    """Every /16 of the pool, starting at a place that depends on the cluster, so that most clusters get their first."""
    subnets = list(POOL.subnets(new_prefix=16))
    first = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big") % len(subnets)
    return [ClusterNetwork(subnet) for subnet in subnets[first:] + subnets[:first]]


def choose(identity: str, wanted: str | None, taken: Iterable[IPv4Network]) -> ClusterNetwork:
    """`wanted`, or the first candidate that overlaps nothing in `taken`. Raises LocalClusterError when that can't be."""
    taken = list(taken)
    if wanted is not None:
        network = ClusterNetwork(IPv4Network(wanted))
        if overlapping := [str(other) for other in taken if other.overlaps(network.subnet)]:
            raise LocalClusterError(f"subnet {wanted} must not overlap networks of this machine; it overlaps {', '.join(overlapping)}")
        return network
    for network in candidates(identity):
        if not any(other.overlaps(network.subnet) for other in taken):
            return network
    raise LocalClusterError(f"no free /16 is left in {POOL}: name another one as the subnet, or take a cluster down")


def networks_of_routes(routes: str, but_of: str) -> list[IPv4Network]:
    """The networks in the output of `ip -json route show table all`, save default routes and those of the link `but_of`."""
    found = []
    for route in json.loads(routes or "[]"):
        destination = route.get("dst", "default")
        if destination != "default" and ":" not in destination and route.get("dev") != but_of:
            found.append(IPv4Network(destination, strict=False))
    return [network for network in found if network.prefixlen > 0]


def taken_on_this_machine(link: str) -> list[IPv4Network]:
    """What this machine routes already."""
    return networks_of_routes(ip("-json", "-4", "route", "show", "table", "all"), link)


def ip(*arguments: str, host: int | None = None) -> str:
    """Run `ip`, in the network namespace behind file descriptor `host` when one is given. Raises LocalClusterError with what it said."""
    inside = ["nsenter", f"--net=/proc/self/fd/{host}"] if host is not None else []
    done = subprocess.run(
        [*inside, "ip", *arguments], capture_output=True, text=True, pass_fds=() if host is None else (host,), check=False, timeout=30
    )
    if done.returncode != 0:
        raise LocalClusterError(f"`ip {' '.join(arguments)}` must succeed; it said: {done.stderr.strip()}")
    return done.stdout


def connect(network: ClusterNetwork, link: str, pid: int, host: int) -> None:
    """Join this process's network namespace (that of process `pid`) with the host's, and set addresses and routes of both ends."""
    ip("link", "add", link, "type", "veth", "peer", "name", INSIDE, "netns", str(pid), host=host)
    ip("address", "add", f"{network.host}/30", "dev", link, host=host)
    ip("link", "set", link, "up", host=host)
    for inner in (network.pods, network.services):
        ip("route", "add", str(inner), "via", str(network.node), "dev", link, host=host)
    ip("link", "set", "lo", "up")
    ip("address", "add", f"{network.node}/30", "dev", INSIDE)
    ip("link", "set", INSIDE, "up")
    ip("route", "add", "default", "via", str(network.host))


def disconnect(link: str) -> None:
    """Remove the host's end, and so the pair. The kernel does the same with the namespace, a little later."""
    if (Path("/sys/class/net") / link).exists():
        done = subprocess.run(["ip", "link", "delete", link], capture_output=True, text=True, check=False, timeout=30)
        if done.returncode != 0 and (Path("/sys/class/net") / link).exists():
            raise LocalClusterError(f"the link {link} must go; `ip link delete` said: {done.stderr.strip()}")


def write(path: Path, network: ClusterNetwork) -> None:
    """Keep the choice, so that a cluster that is started again has its addresses again."""
    path.write_text(json.dumps({"subnet": str(network.subnet)}) + "\n")


def read(path: Path) -> ClusterNetwork | None:
    """The choice that was kept."""
    return ClusterNetwork(IPv4Network(json.loads(path.read_text())["subnet"])) if path.exists() else None

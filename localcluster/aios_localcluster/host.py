"""What the machine itself must bring: Debian packages, and a kernel that lets us make namespaces.

python -m aios_localcluster.host        install what is missing, and say whether the cluster can run
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aios_localcluster import cgroups
from aios_localcluster.errors import CannotRunHere

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Package:
    """A Debian package, the file or command that shows that it is there, and why it is needed."""

    name: str
    shows: str
    reason: str

    @property
    def is_present(self) -> bool:
        """Whether what we need of it is on this machine, whoever brought it."""
        if self.shows.startswith("/"):
            return Path(self.shows).exists()
        return find(self.shows) is not None


NODE_PACKAGES = (
    Package("ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "Go fetches modules over TLS"),
    Package("iproute2", "ip", "links and routes"),
    Package("util-linux", "nsenter", "commands inside the cluster's namespaces"),
    Package("mount", "mount", "the kubelet mounts volumes with it"),
    Package("nftables", "nft", "kube-proxy and the agents' fence"),
    Package("runc", "runc", "runs containers"),
    Package("containernetworking-plugins", "/usr/lib/cni/ptp", "pods' network"),
)
IMAGE_PACKAGES = (
    Package("make", "make", "builds what is written in C"),
    Package("gcc", "gcc", "compiles the hook and the fake driver library"),
    Package("libc6-dev", "/usr/include/stdio.h", "the C library that they are linked with"),
    Package("buildah", "buildah", "builds images without a daemon"),
    Package("mmdebstrap", "mmdebstrap", "bootstraps their base without a registry"),
)
TEST_PACKAGES = (
    Package("curl", "curl", "tests ask through an agent's proxy with it"),
    Package("git", "git", "as curl"),
    Package("node-undici", "/usr/share/nodejs/undici", "as curl, for Node"),
    Package("busybox-static", "/bin/busybox", "the root file system of a container that runc starts"),
)
"""For tests alone."""


def find(command: str) -> str | None:
    """The path of `command`, system directories included, which are not on everybody's PATH."""
    return shutil.which(command) or shutil.which(command, path=SBIN)


def missing(packages: tuple[Package, ...] = NODE_PACKAGES + IMAGE_PACKAGES) -> list[Package]:
    """Those packages that must be installed."""
    return [package for package in packages if not package.is_present]


def install_missing(say: Callable[[str], None] = print, packages: tuple[Package, ...] = NODE_PACKAGES + IMAGE_PACKAGES) -> None:
    """Install what is missing and print it first. Raises CannotRunHere when that can't be done."""
    wanted = missing(packages)
    if not wanted:
        return
    names = [package.name for package in wanted]
    advice = f"install {' '.join(names)} yourself (on Debian and Ubuntu: apt-get install {' '.join(names)})"
    if os.geteuid() != 0:
        raise CannotRunHere(f"only root can install packages: {advice}")
    if shutil.which("apt-get") is None:
        raise CannotRunHere(f"this machine has no apt-get: {advice}")
    say("installing Debian packages:")
    for package in wanted:
        say(f"  {package.name}: {package.reason}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *names]):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotRunHere(f"`apt-get {' '.join(arguments)}` must succeed; it said: {(done.stderr or done.stdout).strip()[-600:]}")
    if still := missing(packages):
        raise CannotRunHere(f"after the installation there must be {', '.join(package.shows for package in still)}; it is not there")


@dataclass(frozen=True)
class Trial:
    """A command that must succeed before a cluster can run, and what its failure means."""

    argv: tuple[str, ...]
    means: str


def _trials(with_node: bool) -> tuple[Trial, ...]:
    own = ("unshare", "--mount", "--net", "--pid", "--fork", "--cgroup", "--uts", "--ipc")
    first = (
        Trial((*own, "true"), "namespaces can't be made here (CAP_SYS_ADMIN is needed)"),
        Trial((*own, "ip", "link", "add", "trial0", "type", "veth", "peer", "name", "trial1"), "the kernel has no veth links"),
        Trial((*own, "mount", "-t", "sysfs", "sysfs", "/sys"), "a new sysfs can't be mounted here"),
    )
    if not with_node:
        return first
    return (*first, Trial((*own, "nft", "add", "table", "ip", "trial"), "nftables does not work here (kernel or privileges)"))


def _has_overlay() -> bool:
    if "\toverlay\n" in Path("/proc/filesystems").read_text():
        return True
    modprobe = find("modprobe")
    return modprobe is not None and subprocess.run([modprobe, "--quiet", "overlay"], check=False).returncode == 0


def why_not(with_node: bool = True) -> str | None:
    """Why this machine can't run the cluster, in one line; None when it can. Changes nothing."""
    if sys.platform != "linux":
        return "the local cluster needs Linux"
    if os.geteuid() != 0:
        return "the local cluster needs root: it makes namespaces, cgroups and links"
    usable = frozenset[str]().union(*(each.controllers for each in cgroups.of_this_machine()))
    if lacking := sorted(cgroups.NEEDED - usable):
        return f"the cgroup controllers {', '.join(lacking)} must be mounted below /sys/fs/cgroup"
    if not _has_overlay():
        return "the kernel must have the overlay file system"
    for trial in _trials(with_node):
        if find(trial.argv[0]) is None:
            return f"the command {trial.argv[0]} is missing"
        done = subprocess.run(trial.argv, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode != 0:
            return f"{trial.means}: {' '.join((done.stderr or done.stdout).split())}"
    return None


def main() -> int:
    """Install what is missing; 0 when the cluster can run, 3 when it can't, with the reason."""
    try:
        install_missing()
    except CannotRunHere as problem:
        print(problem, file=sys.stderr)
        return 3
    reason = why_not()
    if reason is not None:
        print(f"the local cluster can't run here: {reason}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

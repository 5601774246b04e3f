"""Puts one cluster into namespaces of its own and holds them: `python -m aios_localcluster.launcher PLAN LOCK-FD …`.

The process that this program becomes (the holder) lives on the host: it records itself first, makes cgroup, namespaces, mounts and link,
forks the supervisor as the first process of a new PID namespace and waits for it. Whichever of the two ends, the kernel ends everything
else: the supervisor dies with the holder, and with the supervisor every process of its namespace; with the last process go mounts, links
and rules.
"""

import json
import os
import signal
import sys
from ipaddress import IPv4Network
from pathlib import Path

from aios_localcluster import cgroups, kernel, network
from aios_localcluster.plan import Plan

SHADOWED = ("/etc", "/var", "/opt")
"""What the node may write to as if it were its own: an overlay over the host's, so that nothing is left there. Pods' hostPath volumes
and the directories that kubelet, CNI and CDI use are all below these or /run."""


def mount_everything(plan: Plan, hierarchies: list[cgroups.Hierarchy]) -> None:
    """Give this mount namespace its own /run, /sys, cgroups and a writable layer over the host's configuration and state."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    state = os.open(plan.state, os.O_PATH | os.O_DIRECTORY)
    for shadowed in SHADOWED:
        if Path(shadowed).is_dir():
            # By its open descriptor, because the path may lead through what is shadowed already, and an overlay can't be an upper layer.
            _shadow(Path(shadowed), Path(f"/proc/self/fd/{state}") / Path(plan.private).relative_to(plan.state))
    kernel.mount("tmpfs", "/run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    # The state directory may be below what is shadowed now: it must be the real one, on a disk that can be the upper layer of overlays.
    Path(plan.state).mkdir(parents=True, exist_ok=True)
    kernel.mount(f"/proc/self/fd/{state}", plan.state, flags=kernel.MS_BIND)
    os.close(state)
    for target, source in plan.binds.items():
        Path(source).mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        kernel.mount(source, target, flags=kernel.MS_BIND)
    _mount_sys(hierarchies)
    # The kubelet passes mounts on to containers that ask for it; the host is no longer part of this.
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SHARED)


def _shadow(folder: Path, private: Path) -> None:
    upper, work = private / "upper" / folder.name, private / "work" / folder.name
    for each in (upper, work):
        each.mkdir(parents=True, exist_ok=True)
    upper.chmod(0o755)
    kernel.mount("overlay", folder, "overlay", data=f"lowerdir={folder},upperdir={upper},workdir={work}")


def _mount_sys(hierarchies: list[cgroups.Hierarchy]) -> None:
    """A /sys of this network namespace, with the cgroup hierarchies where the host has them, rooted at the cluster's cgroup."""
    kernel.mount("sysfs", "/sys", "sysfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    base = Path("/sys/fs/cgroup")
    if any(each.mounted_at != base for each in hierarchies):
        kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "mode=755")
    for each in hierarchies:
        each.mounted_at.mkdir(parents=True, exist_ok=True)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount(each.kind, each.mounted_at, each.kind, flags, each.options or None)


def hold(plan_path: Path, locks: list[int]) -> int:
    """Make the cluster and wait until its supervisor ends; returns that one's exit status."""
    plan = Plan.read(plan_path)
    pid = os.getpid()
    Path(plan.holder).write_text(json.dumps({"pid": pid, "start_time": kernel.start_time(pid)}) + "\n")
    host = os.open("/proc/self/ns/net", os.O_RDONLY)
    found = cgroups.enter(plan.identity)
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWCGROUP)
    cgroups.enter_leaf(plan.identity, found)
    network.connect(network.ClusterNetwork(IPv4Network(plan.subnet)), plan.link, pid, host)
    os.close(host)
    mount_everything(plan, found)
    _set_hostname(plan.hostname)
    for lock in locks:
        os.close(lock)
    return _fork_supervisor(plan_path)


def _set_hostname(name: str) -> None:
    Path("/proc/sys/kernel/hostname").write_text(name)


def _fork_supervisor(plan_path: Path) -> int:
    alive_read, alive_write = os.pipe()
    kernel.unshare(kernel.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        os.close(alive_write)
        kernel.die_with_parent(signal.SIGKILL)
        # The supervisor also watches this pipe: a holder that ended before the line above would go unnoticed otherwise.
        os.set_inheritable(alive_read, True)
        os.execv(sys.executable, [sys.executable, "-m", "aios_localcluster.supervisor", str(plan_path), str(alive_read)])  # noqa: S606
    os.close(alive_read)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(arguments: list[str]) -> int:
    """Detach from the process that started us, then hold the cluster."""
    plan_path, *locks = arguments
    if os.fork() != 0:
        os._exit(0)  # The holder must not be our caller's child: a caller that lives on would keep it as a zombie.
    os.setsid()
    os.umask(0o022)
    os.chdir("/")
    return hold(Path(plan_path), [int(lock) for lock in locks])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

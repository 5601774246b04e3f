"""One cgroup per cluster in every hierarchy of the machine, cgroup v1 or v2.

All of a cluster's processes start below it, and a cgroup namespace makes it the root that kubelet, containerd and runc see. So whatever
they make is below it, and removing it removes everything.
"""

import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aios_localcluster.errors import LocalClusterError

GROUP = "kubeaios-local"
LEAF = "supervisor"
"""Where the cluster's own processes are: a cgroup of v2 that has controllers may not have processes of its own."""
NEEDED = frozenset({"cpu", "memory", "pids"})
"""The controllers without which the kubelet does not start."""


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy: where it is and, for v1, the mount options that name its controllers."""

    mounted_at: Path
    kind: str
    options: str

    @property
    def controllers(self) -> frozenset[str]:
        """What can be limited through this hierarchy."""
        if self.kind == "cgroup2":
            return frozenset((self.mounted_at / "cgroup.controllers").read_text().split())
        return frozenset(self.options.split(","))


V1_CONTROLLERS = frozenset(
    "cpu cpuacct cpuset memory devices freezer blkio pids hugetlb net_cls net_prio perf_event rdma misc".split()  # noqa: SIM905
)


def hierarchies(mountinfo: str) -> list[Hierarchy]:
    """The cgroup hierarchies of /proc/self/mountinfo, each once."""
    found: dict[tuple[str, str], Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        named = [option for option in options.split(",") if option in V1_CONTROLLERS or option.startswith("name=")]
        found.setdefault((kind, ",".join(named)), Hierarchy(Path(before.split()[4]), kind, ",".join(named)))
    return list(found.values())


def of_this_machine() -> list[Hierarchy]:
    """The hierarchies that this process sees."""
    return hierarchies(Path("/proc/self/mountinfo").read_text())


def enter(identity: str) -> list[Hierarchy]:
    """Make the cluster's cgroup in every hierarchy and move this process into it."""
    found = of_this_machine()
    for each in found:
        above = each.mounted_at / GROUP
        if each.kind == "cgroup2":
            _hand_out(each.mounted_at)
        _make(each, above)
        if each.kind == "cgroup2":
            _hand_out(above)
        _make(each, above / identity)
        (above / identity / "cgroup.procs").write_text("0")
    return found


def enter_leaf(identity: str, found: list[Hierarchy]) -> None:
    """Move this process into the leaf below the cluster's cgroup, and let that one hand out its controllers."""
    for each in found:
        group = each.mounted_at / GROUP / identity
        _make(each, group / LEAF)
        (group / LEAF / "cgroup.procs").write_text("0")
        if each.kind == "cgroup2":
            _hand_out(group)


def _make(hierarchy: Hierarchy, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if "cpuset" in hierarchy.options.split(","):
        # A new cpuset of v1 is empty, and an empty one takes no process.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not (folder / file).read_text().strip():
                (folder / file).write_text((folder.parent / file).read_text())


def _hand_out(group: Path) -> None:
    """Let the children of a v2 cgroup use every controller that it has itself."""
    for controller in (group / "cgroup.controllers").read_text().split():
        try:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as problem:
            if controller in NEEDED:
                raise LocalClusterError(
                    f"the cgroup controller {controller} must be usable below {group}: {problem.strerror}"
                    " (a cgroup with processes of its own can't hand out controllers)"
                ) from problem


def _folders(root: Path) -> Iterator[Path]:
    """`root` and the cgroups below it, deepest first."""
    for folder, _, _ in os.walk(root, topdown=False):
        yield Path(folder)


def processes(identity: str) -> set[int]:
    """The ids of all processes in the cluster's cgroups, as seen from here."""
    found: set[int] = set()
    for each in of_this_machine():
        for folder in _folders(each.mounted_at / GROUP / identity):
            try:
                found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
            except OSError:  # removed in between, or a threaded v2 cgroup, whose processes are listed above it
                continue
    return found - {0, os.getpid()}


def kill_all(identity: str, timeout_seconds: float) -> None:
    """End every process in the cluster's cgroups. Raises LocalClusterError when one is still there after `timeout_seconds`."""
    until = time.monotonic() + timeout_seconds
    while remaining := processes(identity):
        if time.monotonic() > until:
            raise LocalClusterError(f"processes {sorted(remaining)} must end before the cluster is down; they were killed and still run")
        for pid in remaining:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def remove(identity: str, timeout_seconds: float) -> None:
    """Remove the cluster's cgroups, and the group of all clusters when this was the last one."""
    until = time.monotonic() + timeout_seconds
    for each in of_this_machine():
        for folder in _folders(each.mounted_at / GROUP / identity):
            _remove_one(folder, until)
        try:
            (each.mounted_at / GROUP).rmdir()
        except OSError as problem:
            if problem.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
                raise


def _remove_one(folder: Path, until: float) -> None:
    """rmdir, tried again while the kernel still lets go of processes that have ended."""
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as problem:
            if problem.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)

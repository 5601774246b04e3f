"""To which container of which pod a process belongs, as its cgroups say. Read by who accounts, who stops and who recovers."""

import re
from dataclasses import dataclass
from pathlib import Path

_CONTAINER = re.compile(
    r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?/"  # systemd's driver writes the uid with underscores
    r"(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?(?=[/\n]|$)"
)


@dataclass(frozen=True, slots=True)
class Container:
    """One container of one pod."""

    pod_uid: str
    container_id: str


def containers_in(text: str) -> tuple[Container, ...]:
    """The containers that a process's cgroup file names, the outermost first: more than one where a kubelet runs in a container itself.

    Version 1 and 2 of cgroups, with the kubelet's cgroupfs and systemd drivers.
    """
    found = (Container(pod.replace("_", "-"), container) for pod, container in _CONTAINER.findall(text))
    return tuple(dict.fromkeys(found))


def containers_of(pid: int, proc: Path = Path("/proc")) -> tuple[Container, ...]:
    """As `containers_in`, of the process that has this pid now; empty for one that has ended or is in no container."""
    try:
        return containers_in((proc / str(pid) / "cgroup").read_text())
    except (OSError, ValueError):
        return ()


def pods_of(proc: Path = Path("/proc")) -> dict[str, list[int]]:
    """The processes of each pod that has one now, by the pod's uid, in the order of their pids."""
    found: dict[str, list[int]] = {}
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        for pod_uid in {container.pod_uid for container in containers_of(pid, proc)}:
            found.setdefault(pod_uid, []).append(pid)
    return found

"""Containers that are played: processes in cgroups named as a kubelet names them, which say what they use of the fake GPU."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from node.support import GPU_A

OWN_DIRECTORY = 'mkdir -p /tmp/aios-fake-vram && mount -t tmpfs tmpfs /tmp/aios-fake-vram && exec "$@"'
PROGRAM = """
import os, sys, time
os.makedirs("/tmp/aios-fake-vram", exist_ok=True)
me = "/tmp/aios-fake-vram/" + os.readlink("/proc/self")
for line in sys.stdin:
    with open(me + ".new", "w") as file:
        file.write(line)
    os.rename(me + ".new", me)
    print("said", flush=True)
time.sleep(1000)
"""


def cgroup_root() -> Path | None:
    """A cgroup hierarchy in which this program may make groups."""
    for root in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        try:
            probe = root / f"aios-probe-{os.getpid()}"
            probe.mkdir()
            probe.rmdir()
        except OSError:
            continue
        return root
    return None


class Played:
    """Processes in one container's cgroup, each in a pid namespace of its own, which say what they use of GPU_A."""

    def __init__(self, root: Path, pod_uid: str, number: int) -> None:
        self.container = f"{number:064x}"
        self.group = root / "kubepods-test" / f"pod{pod_uid}" / self.container
        self.group.mkdir(parents=True, exist_ok=True)  # one who was killed may have left it
        self.root = root
        self.processes: list[subprocess.Popen[str]] = []
        self.taken: list[int] = []

    def take(self, pid: int) -> None:
        """This process of somebody else is in the container, until the end."""
        (self.group / "cgroup.procs").write_text(str(pid))
        self.taken.append(pid)

    def start(self) -> subprocess.Popen[str]:
        def enter() -> None:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

        process = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "--kill-child",
                "sh",
                "-c",
                OWN_DIRECTORY,
                "sh",
                sys.executable,
                "-c",
                PROGRAM,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=enter,
        )
        self.processes.append(process)
        return process

    def use(self, mib: int, process: subprocess.Popen[str] | None = None) -> None:
        chosen = process or (self.processes[0] if self.processes else self.start())
        assert chosen.stdin is not None
        assert chosen.stdout is not None
        chosen.stdin.write(f"gpu={GPU_A.uuid} used={mib}Mi\n")
        chosen.stdin.flush()
        assert chosen.stdout.readline() == "said\n"

    @property
    def alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def close(self) -> None:
        for pid in self.taken:
            with contextlib.suppress(OSError):  # it has ended
                (self.root / "cgroup.procs").write_text(str(pid))
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if stream is not None:
                        stream.close()
        for path in (self.group, self.group.parent, self.group.parent.parent):
            for _ in range(50):
                try:
                    path.rmdir()
                except OSError:
                    time.sleep(0.02)
                else:
                    break

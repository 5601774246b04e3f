"""The first process of a cluster's PID namespace: it starts the components, starts them again when they end, and answers on its socket.

`python -m aios_localcluster.supervisor PLAN ALIVE-FD`, started by the launcher only. Its own end is the cluster's end.
"""

import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios_localcluster import control, kernel
from aios_localcluster.plan import Component, Plan
from aios_localcluster.readiness import Api

TICK_SECONDS = 0.1
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 10.0
STEADY_SECONDS = 10.0
"""A component that ran this long is started again at once, whatever happened before."""

KUBELET_WANTS = {"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
                 "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"}  # fmt: skip
"""The kubelet sets these for the whole machine when they differ. A file over each shows it what it wants and leaves the host alone."""


@dataclass
class Running:
    """One component as it is now."""

    component: Component
    pid: int | None = None
    started_at: float = 0.0
    starts: int = 0
    not_before: float = 0.0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    last_end: str | None = None
    done: bool = False
    """A step that ended well."""
    held: bool = False
    """Stopped on request: not started until asked to."""

    def facts(self, now: float) -> dict[str, Any]:
        """What `status` says of it."""
        if self.pid is not None:
            state = "running"
        elif self.done:
            state = "done"
        elif self.held:
            state = "stopped"
        else:
            state = "waiting"
        age = round(now - self.started_at, 1) if self.pid is not None else None
        return {
            "name": self.component.name,
            "state": state,
            "pid": self.pid,
            "age_seconds": age,
            "starts": self.starts,
            "last_end": self.last_end,
        }


class Supervisor:
    """Everything happens in one thread, in `run`."""

    def __init__(self, plan: Plan, alive: int) -> None:
        self.plan = plan
        self.alive = alive
        self.all = {component.name: Running(component) for component in plan.components}
        self.api = Api(plan.api_url, plan.certificate_authority, plan.client_certificate, plan.client_key)
        self.api_is_ready = False

    def run(self) -> None:
        """Supervise until the holder ends."""
        listener = control.listen(Path(self.plan.control))
        door = listener.fileno()
        wake_read, wake_write = os.pipe()
        for descriptor in (wake_read, wake_write):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([door, wake_read, self.alive], [], [], TICK_SECONDS)
            if self.alive in ready:
                return  # nobody writes: readable means that the holder has ended
            if wake_read in ready:
                os.read(wake_read, 4096)
            self.reap()
            if door in ready:
                control.answer(listener, self.command)
            self.start_what_may_start()

    def reap(self) -> None:
        """Take note of every child that ended; orphans of the whole namespace are ours too."""
        now = time.monotonic()
        by_pid = {running.pid: running for running in self.all.values() if running.pid is not None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in by_pid:
                self.ended(by_pid[pid], os.waitstatus_to_exitcode(status), now)

    def ended(self, running: Running, code: int, now: float) -> None:
        """One component is gone: decide when it may start again."""
        running.pid = None
        running.last_end = f"exit {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        running.done = running.component.is_step and code == 0
        if now - running.started_at >= STEADY_SECONDS:
            running.backoff_seconds = FIRST_BACKOFF_SECONDS
        running.not_before = now + running.backoff_seconds
        running.backoff_seconds = min(2 * running.backoff_seconds, LONGEST_BACKOFF_SECONDS)
        if running.component.name in ("etcd", "kube-apiserver"):
            self.api_is_ready = False
        if not running.done:
            print(f"{running.component.name} ended ({running.last_end})", flush=True)

    def start_what_may_start(self) -> None:
        """Start every component that is due and whose conditions hold."""
        now = time.monotonic()
        for running in self.all.values():
            if (
                running.pid is None
                and not running.done
                and not running.held
                and now >= running.not_before
                and self.may_start(running.component)
            ):
                self.start(running)

    def may_start(self, component: Component) -> bool:
        """Whether what the component waits for is there."""
        if component.after_step is not None and not self.all[component.after_step].done:
            return False
        if component.after_path is not None and not Path(component.after_path).exists():
            return False
        if component.after_api and not self.api_is_ready:
            self.api_is_ready = self.api.is_ready(TICK_SECONDS * 5)
        return not component.after_api or self.api_is_ready

    def start(self, running: Running) -> None:
        """Fork the component into a session of its own, with its log as output."""
        name, argv = running.component.name, running.component.argv
        log = os.open(Path(self.plan.logs) / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open("/dev/null", os.O_RDONLY)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        try:
            running.pid = os.posix_spawn(
                argv[0], argv, self.plan.environment, file_actions=actions, setsid=True, setsigdef=(signal.SIGCHLD, signal.SIGPIPE)
            )
        except OSError as problem:
            print(f"{name} could not be started: {problem}", flush=True)
            running.last_end, running.not_before = str(problem), time.monotonic() + LONGEST_BACKOFF_SECONDS
            return
        finally:
            os.close(log)
            os.close(null)
        running.started_at = time.monotonic()
        running.starts += 1

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request of the control socket."""
        now = time.monotonic()
        verb, name = request.get("verb"), request.get("component")
        if verb == "status":
            return {"components": [running.facts(now) for running in self.all.values()]}
        running = self.all.get(str(name))
        if running is None:
            return {"error": f"no component {name}; there are {', '.join(self.all)}"}
        if verb == "start":
            running.held, running.done, running.not_before = False, False, now
        elif verb in ("signal", "restart", "stop"):
            running.held = verb == "stop"
            number = int(request.get("signal", signal.SIGTERM))
            if verb != "signal":
                running.not_before, running.backoff_seconds = now, FIRST_BACKOFF_SECONDS
            if running.pid is not None:
                os.kill(running.pid, number)
            elif verb == "signal":
                return {"error": f"{name} does not run"}
        else:
            return {"error": f"no verb {verb}; there are status, start, stop, restart, signal"}
        return running.facts(now)


def prepare(plan: Plan) -> None:
    """What needs the PID namespace: its /proc, and over it what the kubelet wants to see."""
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    for key, value in KUBELET_WANTS.items():
        if not (Path("/proc/sys") / key).exists():
            continue
        shown = Path(plan.private) / "sysctl" / key
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(f"{value}\n")
        kernel.mount(str(shown), Path("/proc/sys") / key, flags=kernel.MS_BIND)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


def main(arguments: list[str]) -> int:
    """Prepare and supervise; the exit status is of interest to the supervisor's log only."""
    plan = Plan.read(Path(arguments[0]))
    alive = int(arguments[1])
    os.set_inheritable(alive, False)
    prepare(plan)
    print(json.dumps({"supervisor": "started", "components": [component.name for component in plan.components]}), flush=True)
    Supervisor(plan, alive).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""One local cluster, as a library: up, down, and what tests do in between."""

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aios_localcluster import build, cgroups, control, host, kernel, locks, network, preparation
from aios_localcluster.configuration import Programs
from aios_localcluster.errors import CannotRunHere, LocalClusterError, NotRunning
from aios_localcluster.network import ClusterNetwork
from aios_localcluster.readiness import Api
from aios_localcluster.settings import ClusterSettings

POLL_SECONDS = 0.1
LOCK_SECONDS = 60.0
"""Longer than any launch or stop: whoever waits this long is told."""


class LocalCluster:
    """A cluster by its settings, whether it runs or not. Used as a context manager it is up inside and down after."""

    def __init__(self, settings: ClusterSettings | None = None, say: Callable[[str], None] = print) -> None:
        self.settings = settings or ClusterSettings()
        self.layout = self.settings.layout
        self.say = say
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    # ── places ──

    @property
    def programs(self) -> Programs:
        """Where the programs are, or will be once built."""
        cache = self.settings.cache
        return Programs(**{name: build.directory_of(module, cache) for name, module in build.MODULES.items()})

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.kubeconfig

    @property
    def kubectl_path(self) -> Path:
        """kubectl of the cluster's version."""
        return self.programs.kubernetes / "kubectl"

    @property
    def helm_path(self) -> Path:
        """Helm."""
        return self.programs.helm / "helm"

    @property
    def ctr_path(self) -> Path:
        """containerd's own client."""
        return self.programs.containerd / "ctr"

    @property
    def network(self) -> ClusterNetwork:
        """The cluster's addresses. Raises NotRunning before the first `up`."""
        found = network.read(self.layout.network)
        if found is None:
            raise NotRunning(f"the cluster {self.settings.name} has no network yet: `up` gives it one")
        return found

    # ── up and down ──

    def up(self) -> None:
        """The cluster runs and is ready: the API answers, the node takes pods. Returns at once where that is so already."""
        self._began = time.monotonic()
        if self.settings.has_node:
            host.install_missing(self.say, host.NODE_PACKAGES)
        with self._lock() as lock:
            if self._holder() is None:
                self._launch(lock.fileno())
            else:
                self._refuse_other_components()
        self._wait_until_ready()

    def down(self, keep_state: bool = False) -> None:
        """Nothing of the cluster is left: no process, mount, namespace, link, cgroup, and (unless `keep_state`) no file."""
        with self._lock():
            holder = self._holder()
            if holder is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder, signal.SIGKILL)
            self._clear_kernel_state()
            self.layout.holder.unlink(missing_ok=True)
            if not keep_state:
                shutil.rmtree(self.layout.root, ignore_errors=False) if self.layout.root.exists() else None
                with contextlib.suppress(OSError):
                    self.settings.state_root.rmdir()

    def _clear_kernel_state(self) -> None:
        timeout = self.settings.stop_timeout_seconds
        cgroups.kill_all(self.layout.identity, timeout)
        cgroups.remove(self.layout.identity, timeout)
        network.disconnect(self.layout.link)

    def _lock(self) -> contextlib.closing[Any]:
        return contextlib.closing(locks.named_lock(f"kubeaios-local/{self.layout.identity}", LOCK_SECONDS))

    def _launch(self, lock: int) -> None:
        if reason := host.why_not(self.settings.has_node):
            raise CannotRunHere(reason)
        for name in ("kubernetes", *(("containerd", "pause") if self.settings.has_node else ())):
            build.build(name, self.settings.cache, self.say)
        self._clear_kernel_state()  # of a cluster whose supervisor was killed
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        self.layout.root.chmod(0o700)
        with contextlib.closing(locks.named_lock("kubeaios-local/networks", LOCK_SECONDS)) as networks:
            chosen = self._choose_network()
            plan = preparation.prepare(self.settings, chosen, self.programs, datetime.datetime.now(datetime.UTC))
            plan.write(self.layout.plan)
            self._step(f"prepared {self.layout.root}; node, pods and services in {chosen.subnet}")
            inherited = (lock, networks.fileno())
            with self.layout.log("supervisor").open("a") as log:
                subprocess.run(
                    [sys.executable, "-m", "aios_localcluster.launcher", str(self.layout.plan), *map(str, inherited)],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    check=True,
                )

    def _choose_network(self) -> ClusterNetwork:
        kept = network.read(self.layout.network)
        wanted = self.settings.subnet or (str(kept.subnet) if kept else None)
        chosen = network.choose(self.layout.identity, wanted, network.taken_on_this_machine(self.layout.link))
        network.write(self.layout.network, chosen)
        return chosen

    def _refuse_other_components(self) -> None:
        runs = {component["name"] for component in self.status()}
        if lacking := [name for name in self.settings.components if name not in runs]:
            raise LocalClusterError(f"the cluster {self.settings.name} runs without {', '.join(lacking)}: take it down first, or use another name")

    # ── readiness ──

    def _wait_until_ready(self) -> None:
        api = self._api()
        self._wait("the API is ready", lambda: (api.is_ready(2), api.not_ready_checks(2)), "kube-apiserver")
        if "kube-controller-manager" in self.settings.components:
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            self._wait("controllers work", lambda: (api.get(path, 2)[0] == 200, "no default service account yet"), "kube-controller-manager")
        if self.settings.has_node:
            self._wait("the node is ready", lambda: api.node_condition(self.settings.node_name, 2), "kubelet")

    def _wait(self, what: str, check: Callable[[], tuple[bool, str]], component: str) -> None:
        """Wait for `check`; fail when it takes too long or the cluster ends, with the end of the log that matters."""
        until = self._began + self.settings.start_timeout_seconds
        while True:
            fine, why = check()
            if fine:
                self._step(what)
                return
            if self._holder(settled=True) is None:
                raise NotRunning(f"the cluster ended while it started. The end of its log:\n{self._tail('supervisor')}")
            if time.monotonic() > until:
                took = self.settings.start_timeout_seconds
                raise LocalClusterError(f"after {took:.0f} s: {what} must be true, but {why}. The end of {component}'s log:\n{self._tail(component)}")
            time.sleep(POLL_SECONDS)

    def _api(self) -> Api:
        pki = self.layout.certificates
        return Api(self.network.api_url, str(pki / "ca.crt"), str(pki / "admin.crt"), str(pki / "admin.key"))

    def _step(self, what: str) -> None:
        self.say(f"{time.monotonic() - self._began:5.1f} s  {what}")

    def _tail(self, component: str) -> str:
        log = self.layout.log(component)
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else "(no log)"

    # ── a running cluster ──

    def _holder(self, settled: bool = False) -> int | None:
        """The process that holds the namespaces; None when the cluster does not run.

        The holder records itself while it has the lock. With `settled` (called without the lock), a holder that is about to do so counts.
        """
        try:
            recorded = json.loads(self.layout.holder.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            recorded = None
        if recorded and kernel.start_time(recorded["pid"]) == recorded["start_time"]:
            return int(recorded["pid"])
        if settled and self._is_locked():
            return 0
        return None

    def _is_locked(self) -> bool:
        try:
            locks.named_lock(f"kubeaios-local/{self.layout.identity}", 0).close()
        except LocalClusterError:
            return True
        return False

    @property
    def is_running(self) -> bool:
        """Whether the cluster's supervisor runs."""
        return self._holder() is not None

    def status(self) -> list[dict[str, Any]]:
        """Each component: name, state (running, waiting, stopped, done), pid inside the cluster, age_seconds, starts, last_end."""
        return list(self._ask(verb="status")["components"])

    def restart(self, component: str) -> None:
        """End `component` with SIGTERM; the supervisor starts it again at once."""
        self._ask(verb="restart", component=component)

    def kill(self, component: str, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to `component`; when it ends, the supervisor starts it again after its back-off."""
        self._ask(verb="signal", component=component, signal=int(signal_number))

    def stop(self, component: str) -> None:
        """End `component` and keep it stopped until `start`."""
        self._ask(verb="stop", component=component)

    def start(self, component: str) -> None:
        """Let a stopped component run again; a step that is done runs once more."""
        self._ask(verb="start", component=component)

    def _ask(self, **request: object) -> dict[str, Any]:
        until = time.monotonic() + 5
        while True:
            try:
                return control.ask(self.layout.control, **request)
            except NotRunning:
                if self._holder() is None:
                    raise NotRunning(f"the cluster {self.settings.name} does not run") from None
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_SECONDS)  # the supervisor opens its socket a moment after the holder recorded itself

    def node_argv(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on the cluster's node: in its mounts, network, processes and host name."""
        holder = self._holder()
        if holder is None:
            raise NotRunning(f"the cluster {self.settings.name} does not run")
        namespaces = [f"--{kind}" for kind in ("mount", "net", "uts", "ipc", "cgroup")]
        return ["nsenter", f"--target={holder}", *namespaces, f"--pid=/proc/{holder}/ns/pid_for_children", "--", *argv]

    def node_exec(self, argv: Sequence[str], timeout_seconds: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `argv` on the node and wait; like subprocess.run with captured text."""
        return subprocess.run(self.node_argv(argv), capture_output=True, text=True, check=False, timeout=timeout_seconds, **options)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator and wait; like subprocess.run with captured text."""
        command = [str(self.kubectl_path), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_seconds)

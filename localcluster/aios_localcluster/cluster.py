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
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aios_localcluster import build, cgroups, configuration, control, files, host, kernel, locks, network
from aios_localcluster.configuration import Programs
from aios_localcluster.errors import CannotRunHere, LocalClusterError, NotRunning
from aios_localcluster.network import ClusterNetwork
from aios_localcluster.plan import Plan
from aios_localcluster.readiness import Api, http_is_ok
from aios_localcluster.settings import ClusterSettings

POLL_SECONDS = 0.1
GIVE_UP_AFTER_STARTS = 5
"""A component that ended this often during `up` will not come: that is 6 s of back-off."""
LOCK_SECONDS = 60.0
"""Longer than any launch or stop: whoever waits this long is told."""


def default_kubeconfig() -> Path:
    """The kubeconfig of the cluster that `aiosctl local up` and the demo make."""
    return ClusterSettings().layout.kubeconfig


class LocalCluster:
    """A cluster by its settings, whether it runs or not. Used as a context manager it is up inside and down after."""

    def __init__(self, settings: ClusterSettings | None = None, *, name: str | None = None) -> None:
        """With `name`: the cluster of that name, other settings as given or by default."""
        chosen = settings or ClusterSettings()
        self.settings = replace(chosen, name=name) if name is not None else chosen
        self.layout = self.settings.layout

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
    def kubelet_dir(self) -> Path:
        """The kubelet's root directory, as the node sees it."""
        return configuration.KUBELET_DIR

    @property
    def network(self) -> ClusterNetwork:
        """The cluster's addresses. Raises NotRunning before the first `up`."""
        found = network.read(self.layout.network)
        if found is None:
            raise NotRunning(f"the cluster {self.settings.name} has no network yet: `up` gives it one")
        return found

    # ── up and down ──

    def up(self, say: Callable[[str], None] = print) -> None:
        """The cluster runs and is ready: the API answers, the node takes pods. Returns at once where that is so already.

        Packages that are missing are installed, programs that are missing are built; `say` gets a line for each step.
        """
        if self.settings.has_node:
            host.install_missing(say, host.NODE_PACKAGES)
        with self._lock() as lock:
            if self.is_running:
                self._refuse_other_components()
            else:
                self._launch(lock.fileno(), say)
        with self._lock():
            pass  # the holder inherited the lock: it lets go when its namespaces are made, or when it ends
        self._wait_until_ready(say)

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
                self._remove_files()

    def _remove_files(self) -> None:
        root, marker = self.layout.root, self.layout.marker
        if not root.exists():
            return
        if not marker.exists() and any(root.iterdir()):
            raise LocalClusterError(f"{root} must be the directory of a local cluster to be removed; it has no file {marker.name}")
        for child in root.iterdir():
            if child == marker:
                continue  # last, so that a removal that is cut short can be continued
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
        marker.unlink(missing_ok=True)
        root.rmdir()
        with contextlib.suppress(OSError):
            self.settings.state_root.rmdir()  # only when this was the last cluster there

    def _clear_kernel_state(self) -> None:
        timeout = self.settings.stop_timeout_seconds
        cgroups.kill_all(self.layout.identity, timeout)
        cgroups.remove(self.layout.identity, timeout)
        network.disconnect(self.layout.link)

    def _lock(self) -> contextlib.closing[Any]:
        return contextlib.closing(locks.named_lock(f"kubeaios-local/{self.layout.identity}", LOCK_SECONDS))

    def _launch(self, lock: int, say: Callable[[str], None]) -> None:
        if reason := host.why_not(self.settings.has_node):
            raise CannotRunHere(f"this machine can't run the local cluster: {reason}")
        if self.settings.has_node:
            build.build_all(self.settings.cache, say)
        else:
            build.build("kubernetes", self.settings.cache, say)
        if self.settings.kwok_nodes:
            build.build("kwok", self.settings.cache, say)
        self._clear_kernel_state()  # of a cluster whose supervisor was killed
        self._make_directory()
        with contextlib.closing(locks.named_lock("kubeaios-local/networks", LOCK_SECONDS)) as networks:
            chosen = self._choose_network()
            plan = files.write(self.settings, chosen, self.programs, datetime.datetime.now(datetime.UTC))
            plan.write(self.layout.plan)
            say(f"the files are written to {self.layout.root}; node, pods and services are in {chosen.subnet}")
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

    def _make_directory(self) -> None:
        root, marker = self.layout.root, self.layout.marker
        root.mkdir(parents=True, exist_ok=True)
        if not marker.exists() and any(root.iterdir()):
            raise LocalClusterError(f"the state directory {root} must be empty or a local cluster's")
        marker.write_text("aiosctl local down removes this directory\n")
        root.chmod(0o700)
        self.layout.logs.mkdir(exist_ok=True)

    def _choose_network(self) -> ClusterNetwork:
        kept = network.read(self.layout.network)
        wanted = self.settings.subnet or (str(kept.subnet) if kept else None)
        chosen = network.choose(self.layout.identity, wanted, network.taken_on_this_machine(self.layout.link))
        network.write(self.layout.network, chosen)
        return chosen

    def _refuse_other_components(self) -> None:
        runs = {component["name"] for component in self.status()}
        simulated = {each.name: each.argv for each in Plan.read(self.layout.plan).components if each.name == "simulation"}
        wanted = configuration.components(self.settings, self.network, self.programs)
        if simulated != {each.name: each.argv for each in wanted if each.name == "simulation"}:
            raise LocalClusterError(f"the cluster {self.settings.name} runs with other simulated nodes: take it down first")
        if lacking := [name for name in self.settings.components if name not in runs]:
            raise LocalClusterError(
                f"the cluster {self.settings.name} runs without {', '.join(lacking)}: take it down first, or use another name"
            )

    # ── readiness ──

    def _wait_until_ready(self, say: Callable[[str], None]) -> None:
        api, until = self._api(), time.monotonic() + self.settings.start_timeout_seconds
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        checks: list[tuple[str, str, Callable[[], tuple[bool, str]]]] = [
            ("kube-apiserver", "the API is ready", lambda: (api.is_ready(2), api.not_ready_checks(2))),
            ("kube-controller-manager", "controllers work", lambda: (api.get(account, 2)[0] == 200, "there is no default service account")),
            ("kubelet", "the node is ready", lambda: api.node_condition(self.settings.node_name, 2)),
            ("kube-proxy", "Services have their addresses", self._proxy_is_ready),
        ]
        for component, what, check in checks:
            if component in self.settings.components:
                self._wait(component, what, check, until)
                say(what)

    def _wait(self, component: str, what: str, check: Callable[[], tuple[bool, str]], until: float) -> None:
        """Wait for `check`; fail with the end of a log when it takes too long, the cluster ends or `component` keeps ending."""
        while True:
            fine, why = check()
            if fine:
                return
            if not self.is_running:
                raise NotRunning(f"the cluster ended while it started. The end of its log:\n{self._tail('supervisor')}")
            ends = next((each["starts"] for each in self._status_so_far() if each["name"] == component and each["pid"] is None), 0)
            if ends > GIVE_UP_AFTER_STARTS:
                raise LocalClusterError(f"{component} ended {ends} times. The end of its log:\n{self._tail(component)}")
            if time.monotonic() > until:
                took = f"after {self.settings.start_timeout_seconds:.0f} s"
                raise LocalClusterError(
                    f"{took} it must be true that {what}, but {why}. The end of {component}'s log:\n{self._tail(component)}"
                )
            time.sleep(POLL_SECONDS)

    def _status_so_far(self) -> list[dict[str, Any]]:
        """As `status`; nothing while the supervisor does not listen yet, which on a busy machine is seconds after the holder has begun."""
        try:
            return self.status()
        except NotRunning:
            return []

    def _proxy_is_ready(self) -> tuple[bool, str]:
        return http_is_ok(f"http://{self.network.node}:10256/healthz", 2), "kube-proxy has not written its rules yet"

    def _api(self) -> Api:
        pki = self.layout.certificates
        return Api(self.network.api_url, str(pki / "ca.crt"), str(pki / "admin.crt"), str(pki / "admin.key"))

    def _tail(self, component: str) -> str:
        log = self.layout.log(component)
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else "(no log)"

    # ── a running cluster ──

    def _holder(self) -> int | None:
        """The process that holds the namespaces; None when the cluster does not run."""
        try:
            recorded = json.loads(self.layout.holder.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return int(recorded["pid"]) if kernel.start_time(recorded["pid"]) == recorded["start_time"] else None

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

    def node_exec(self, argv: Sequence[str], timeout_seconds: float = 60) -> str:
        """What `argv` prints, run on the node. Raises LocalClusterError with what it said when it fails."""
        done = subprocess.run(self.node_argv(argv), capture_output=True, text=True, check=False, timeout=timeout_seconds)
        if done.returncode != 0:
            raise LocalClusterError(
                f"`{' '.join(argv)}` ended with {done.returncode} on the node; it said: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout

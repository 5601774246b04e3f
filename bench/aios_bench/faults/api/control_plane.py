"""A real API server with its controllers and kube-scheduler; nodes whose kubelets and node agents are played; operators as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aios_api import names
from aios_bench.faults.checkout import TESTS, of_tests
from aios_bench.operating import Operator
from aios_localcluster import ClusterSettings, LocalCluster, build
from aios_localcluster.settings import CONTROL_PLANE

Object = dict[str, Any]
NODES = ("n1", "n2")
AIOS = f"/apis/{names.API_VERSION}"


def lacking() -> str | None:
    """Why there can't be one here; None when there can."""
    built = build.is_built(build.MODULES["kubernetes"], ClusterSettings().cache)
    return None if built else "the cluster's programs are not built yet: python -m aios_localcluster.build kubernetes"


@contextmanager
def control_plane() -> Iterator[tuple[Any, Path]]:
    """What tests do on it (`api.operating.Plane`), with two nodes of a GPU each, and a directory for files."""
    operating, support = of_tests("api.operating"), of_tests("api.support")
    with tempfile.TemporaryDirectory(prefix="aios-faults-") as directory:
        settings = ClusterSettings(name=f"faults-{os.getpid()}", state_root=Path(directory), components=CONTROL_PLANE)
        with LocalCluster(settings) as cluster, support.connect(cluster) as client:
            plane = operating.Plane(client, cluster.kubeconfig)
            for path in sorted((TESTS.parent / "crds").glob("*.yaml")):
                plane.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", yaml.safe_load(path.read_text()))
            for name, kind in ((names.GPU_CLASS, names.KIND_GPU), (names.RUNTIME_CLASS, names.KIND_RUNTIME)):
                plane.post(f"{operating.CLAIMS}/deviceclasses", operating.device_class(name, kind))
            with plane.node(NODES[0]), plane.node(NODES[1]):
                yield plane, Path(directory)


@dataclass
class Kubelets:
    """The kubelets and node agents of all nodes: in a thread, they start what is bound and end what is to go."""

    plane: Any
    namespaces: list[str]
    doubles: set[str] = field(default_factory=set)
    """Agents of which two pods ran at once."""
    _served: set[str] = field(default_factory=set)

    @contextmanager
    def working(self) -> Iterator[Kubelets]:
        stop, ended = threading.Event(), list[Exception]()

        def work() -> None:
            try:
                while not stop.wait(0.1):
                    for namespace in self.namespaces:
                        with suppress(AssertionError):  # what was read a moment ago has changed: the next turn looks again
                            self._turn(namespace)
            except Exception as error:  # noqa: BLE001  the scenario is told
                ended.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            if ended:
                raise RuntimeError(f"the kubelets' part ended early: {ended[0]!r}") from ended[0]

    def _turn(self, namespace: str) -> None:
        self.plane.end_deleted_pods(namespace)
        pods = self.plane.items(f"/api/v1/namespaces/{namespace}/pods")
        running: dict[str, list[str]] = {}
        for pod in pods:
            if pod["status"].get("phase") == "Running":
                running.setdefault(pod["metadata"]["labels"][names.LABEL_AGENT], []).append(pod["metadata"]["name"])
        self.doubles |= {f"{agent}: {' and '.join(names_)}" for agent, names_ in running.items() if len(names_) > 1}
        for pod in pods:
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            if pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"] and uid not in self._served:
                self.plane.serve(namespace, name)
                self._served.add(uid)
        for order in self.plane.items(f"{AIOS}/namespaces/{namespace}/agentruntimes"):
            told = order.get("status") or {}
            wanted = (order["spec"].get("egress") or {}).get("digest")
            ports = [{"port": each["port"], "protocol": each["protocol"]} for each in order["spec"].get("expose") or ()]
            if told.get("attempt") == order["spec"]["attempt"] and (
                (told.get("egress") or {}).get("policyDigest") != wanted or (told.get("exposed") or []) != ports
            ):
                self.plane.confirm(namespace, order["metadata"]["name"])


@dataclass
class Supervised:
    """An operator that is started again whenever it ends, as its kubelet would."""

    kubeconfig: Path
    log: Path
    settings: dict[str, str]
    starts: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def working(self) -> Iterator[Supervised]:
        thread = threading.Thread(target=self._keep, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _keep(self) -> None:
        while not self._stop.is_set():
            self.starts += 1
            process = Operator.start(self.kubeconfig, self.log, **self.settings).process
            while process.poll() is None and not self._stop.wait(0.1):
                pass
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """The process has ended, whatever state it was in."""
    for number in (signal.SIGCONT, signal.SIGKILL):
        process.send_signal(number)
    process.wait()


def until(holds: Any, what: str, seconds: float = 60) -> Any:
    """Waits until `holds` is truthy, and returns that."""
    last = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > last:
            raise AssertionError(f"after {seconds:.0f} s it must be true that {what}")
        time.sleep(0.1)
    return found

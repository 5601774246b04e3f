"""The pod around a claim's containers: what the runtime says of a container, and how its network namespace is found again later."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aios_sidecar.node.netns import NamespaceGone, NetworkNamespace
from aios_sidecar.node.state import Process, Sandbox

SANDBOX_UID = "io.kubernetes.cri.sandbox-uid"
SANDBOX_NAME = "io.kubernetes.cri.sandbox-name"
SANDBOX_NAMESPACE = "io.kubernetes.cri.sandbox-namespace"
PROCESSES_KEPT = 32
"""Of one pod: more containers than any pod has. The newest are kept."""


class InvalidOCIState(ValueError):
    """What the hook brought is not the state of a container of a pod; the message names the field."""


class OCIState(BaseModel):
    """The runtime's word about the container that is being created (OCI runtime specification, "State")."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: Annotated[int, Field(gt=0)]
    annotations: dict[str, str]

    @property
    def pod_uid(self) -> str:
        return self.annotations[SANDBOX_UID]

    @property
    def pod_name(self) -> str:
        return self.annotations[SANDBOX_NAME]

    @property
    def pod_namespace(self) -> str:
        return self.annotations[SANDBOX_NAMESPACE]


def parse_oci_state(text: bytes) -> OCIState:
    """Raises InvalidOCIState."""
    try:
        state = OCIState.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidOCIState(f"the OCI state's {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError:
        raise InvalidOCIState("the OCI state is not JSON") from None
    missing = [key for key in (SANDBOX_UID, SANDBOX_NAME, SANDBOX_NAMESPACE) if not state.annotations.get(key)]
    if missing:
        raise InvalidOCIState(f"the OCI state must carry the annotation {missing[0]}: the container runtime must be containerd's CRI")
    return state


class Processes:
    """Processes and boots as `/proc` shows them."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def boot_id(self) -> str:
        return (self._proc / "sys/kernel/random/boot_id").read_text().strip()

    def find(self, pid: int) -> Process | None:
        """The process that has this pid now."""
        try:
            status = (self._proc / str(pid) / "stat").read_text()
        except OSError:
            return None
        # The command's name in parentheses may hold spaces and parentheses; the 22nd field is the 20th behind it.
        return Process(pid=pid, start_ticks=int(status.rpartition(")")[2].split()[19]))

    def sandbox(self, pid: int, namespace: NetworkNamespace, before: Sandbox | None) -> Sandbox:
        """The sandbox of a container's process, which joins those known `before` that still live in the same namespace."""
        process = self.find(pid)
        if process is None:
            raise NamespaceGone(f"process {pid} has ended")
        boot_id, inode = self.boot_id(), namespace.identity[1]
        known: tuple[Process, ...] = ()
        if before is not None and (before.boot_id, before.namespace_inode) == (boot_id, inode):
            known = tuple(other for other in before.processes if other != process and self.find(other.pid) == other)
        return Sandbox(boot_id=boot_id, namespace_inode=inode, processes=(*known, process)[-PROCESSES_KEPT:])

    def open_namespace(self, sandbox: Sandbox) -> NetworkNamespace:
        """The sandbox's network namespace, by any of its processes. Raises NamespaceGone."""
        if sandbox.boot_id == self.boot_id():
            for process in reversed(sandbox.processes):
                found = self._namespace_of(process, sandbox.namespace_inode)
                if found is not None:
                    return found
        raise NamespaceGone("no process of the pod is left by which its network namespace could be found")

    def _namespace_of(self, process: Process, inode: int) -> NetworkNamespace | None:
        try:
            namespace = NetworkNamespace.of_process(process.pid)
        except NamespaceGone:
            return None
        # Checked after opening: a pid that was reused in between shows another start time.
        if namespace.identity[1] == inode and self.find(process.pid) == process:
            return namespace
        namespace.close()
        return None

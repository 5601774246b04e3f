"""What the node agent knows of each prepared claim, in one file per claim.

It must outlive the program, the API server's absence and a reboot.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from aios_sidecar.node import records
from aios_sidecar.node.files import remove, write_atomically
from aios_sidecar.node.records import UnreadableState

KIND = "claim"
UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
"""Uids become parts of paths, so nothing else passes for one."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class AllocatedDevice(_Record):
    """One result of the claim's allocation, as the kubelet is told of it."""

    request: str
    pool: str
    device: str
    share_id: str | None = None


class GPUShare(_Record):
    """The share of a GPU that the claim holds."""

    uuid: str
    model: str
    memory: str
    """As booked in the claim, a Kubernetes quantity."""
    memory_bytes: int
    gpu_memory_bytes: int
    fake: bool


class Process(_Record):
    """A process of the pod: a pid alone may have become another's."""

    pid: int
    start_ticks: int


class Sandbox(_Record):
    """The pod's network namespace, and processes by which it may be found again. Pids and inodes mean nothing after a reboot."""

    boot_id: str
    namespace_inode: int
    processes: tuple[Process, ...]


class Opening(_Record):
    """A port on which the pod may be reached."""

    protocol: Literal["TCP", "UDP"]
    port: int

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


class ClaimState(_Record):
    """A claim that is prepared, for whom, and, once its first container was let in, for which pod."""

    claim_uid: str
    claim_name: str
    namespace: str
    agent: str
    agent_uid: str
    runtime_uid: str
    attempt: int
    pod_name: str
    devices: tuple[AllocatedDevice, ...]
    gpu: GPUShare | None = None
    vendor_device: str | None = None
    pod_uid: str | None = None
    excess: str | None = None
    """How far the pod went above its share when it was stopped for it; None when it never was."""
    sandbox: Sandbox | None = None
    openings: tuple[Opening, ...] = ()
    """The ports on which the fence was last open: they stay so while no order can be heard."""

    def with_pod(self, pod_uid: str, sandbox: Sandbox) -> "ClaimState":
        """The same claim, whose containers were let in for this pod."""
        return self.model_copy(update={"pod_uid": pod_uid, "sandbox": sandbox})


class StateFiles:
    """The files of one directory. Not for two programs at once; calls for different claims may overlap."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> None:
        """The directory exists and only root reads it."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, claim_uid: str) -> Path:
        if not UID.fullmatch(claim_uid):
            raise ValueError(f"{claim_uid!r} is not the uid of a claim")
        return self._directory / f"{claim_uid}.json"

    def uids(self) -> list[str]:
        """The claims that have a file, readable or not."""
        return sorted(path.stem for path in self._directory.glob("*.json") if UID.fullmatch(path.stem))

    def read(self, claim_uid: str) -> ClaimState | None:
        """What is known of the claim; None when it is not prepared. Raises UnreadableState."""
        try:
            content = self.path(claim_uid).read_bytes()
        except FileNotFoundError:
            return None
        state = records.decode(KIND, ClaimState, content)
        if state.claim_uid != claim_uid:
            raise UnreadableState(f"the file of claim {claim_uid} speaks of claim {state.claim_uid}")
        return state

    def write(self, state: ClaimState) -> None:
        """The state is on the disk; a reader finds this or what was there before."""
        write_atomically(self.path(state.claim_uid), records.encode(KIND, state), 0o600)

    def remove(self, claim_uid: str) -> None:
        remove(self.path(claim_uid))

    def set_aside(self, claim_uid: str) -> Path:
        """The claim has no state file any more; what was there is kept under the path returned, for a person to look at."""
        return records.set_aside(self.path(claim_uid))

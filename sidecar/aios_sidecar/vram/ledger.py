"""Who uses the memory of one GPU, and how much of it was booked. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from aios_sidecar.cgroups import Container
from aios_sidecar.contracts.worker import BookedShare, ContextSource, Use


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """A process that the driver names, and the device memory that it says is the process's; None when the driver can't tell."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """One GPU at one moment."""

    uses: tuple[Use, ...]
    """Of each booked share, in the order of the bookings."""
    unattributed_bytes: int
    """Used by nobody who booked a share here: other programs of the node, processes that the driver doesn't name, the driver's own."""
    used_bytes: int
    strangers: int = 0
    """Processes on the GPU that are nobody's who booked a share here."""

    @property
    def booked_bytes(self) -> int:
        return sum(use.booked_bytes for use in self.uses)

    @property
    def overhead_bytes(self) -> int:
        """What Agents are allowed beyond their shares now, for the contexts of their processes."""
        return sum(use.allowed_bytes - use.booked_bytes for use in self.uses)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a process's context takes on the device beside what the program asked for."""

    context_bytes: int
    contexts: int
    """For how many processes of an Agent it is granted; a program must not grow by forking."""
    source: ContextSource

    def of(self, processes: int) -> int:
        return self.context_bytes * min(processes, self.contexts)


def merge(lists: Iterable[Iterable[ProcessUse]]) -> dict[int, int | None]:
    """One entry for each pid: a process with a compute and a graphics context is in both lists, each time with its whole memory."""
    merged: dict[int, int | None] = {}
    for process in (process for processes in lists for process in processes):
        before = merged.get(process.pid)
        merged[process.pid] = max(before or 0, process.used_bytes) if process.used_bytes is not None else before
    return merged


def account(
    shares: Iterable[BookedShare],
    processes: Mapping[int, int | None],
    containers: Callable[[int], tuple[Container, ...]],
    used_bytes: int,
    allowance: Allowance,
) -> Ledger:
    """The ledger of a GPU on which `used_bytes` are used, `processes` of them by the pids named.

    A process counts for the outermost of its containers whose pod booked a share here, and for nobody when there is none: a pid that
    has ended, is in another namespace, or is 0 belongs to nobody.
    """
    by_pod = {share.pod_uid: share for share in shares if share.pod_uid is not None}
    used: dict[str, int] = {}
    counts: dict[str, int] = {}
    holders: dict[str, dict[str, None]] = {}
    strangers = 0
    for pid, bytes_of in processes.items():
        owner = next((each for each in containers(pid) if each.pod_uid in by_pod), None) if pid > 0 else None
        if owner is None:
            strangers += 1
        if owner is None or not bytes_of:
            continue
        used[owner.pod_uid] = used.get(owner.pod_uid, 0) + bytes_of
        counts[owner.pod_uid] = counts.get(owner.pod_uid, 0) + 1
        holders.setdefault(owner.pod_uid, {})[owner.container_id] = None
    uses = tuple(
        Use(
            claim_uid=share.claim_uid,
            booked_bytes=share.booked_bytes,
            allowed_bytes=share.booked_bytes + allowance.of(counts.get(share.pod_uid or "", 0)),
            used_bytes=used.get(share.pod_uid or "", 0),
            processes=counts.get(share.pod_uid or "", 0),
            containers=tuple(holders.get(share.pod_uid or "", ())),
        )
        for share in shares
    )
    return Ledger(uses, max(0, used_bytes - sum(use.used_bytes for use in uses)), used_bytes, strangers)

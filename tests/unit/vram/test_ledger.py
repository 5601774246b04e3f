"""Whose memory it is: cgroups of every kind, processes of every kind, and sums that hold whatever the driver says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_sidecar.cgroups import Container, containers_in, containers_of
from aios_sidecar.contracts.gpus import MIB
from aios_sidecar.contracts.worker import BookedShare
from aios_sidecar.vram.ledger import Allowance, ProcessUse, account, merge

A, B, OUTER = (f"11111111-0000-4000-8000-00000000000{n}" for n in (1, 2, 9))
FIRST, SECOND = "a" * 64, "b" * 64
CONTEXT = Allowance(512 * MIB, contexts=2, source="Setting")


def share(pod: str | None, mib: int, claim: str = "c0ffee") -> BookedShare:
    return BookedShare(claim_uid=claim, pod_uid=pod, booked_bytes=mib * MIB)


@pytest.mark.parametrize(
    "text",
    [
        f"0::/kubepods/besteffort/pod{A}/{FIRST}\n",
        f"9:name=systemd:/x\n4:memory:/kubepods/pod{A}/{FIRST}\n3:cpu:/kubepods/pod{A}/{FIRST}\n",
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{A.replace('-', '_')}.slice/cri-containerd-{FIRST}.scope\n",
        f"0::/../../pod{A}/{FIRST}\n",
        f"0::/kubepods/pod{A}/{FIRST}/made-by-the-agent\n",
    ],
    ids=["cgroupfs", "version 1", "systemd", "seen from another cgroup namespace", "below the container"],
)
def test_the_container_is_found_in(text):
    assert containers_in(text) == (Container(A, FIRST),)


@pytest.mark.parametrize("text", ["0::/\n", "0::/system.slice/cuda.service\n", f"0::/kubepods/pod{A}\n", f"0::/kubepods/pod{A}/abc\n", ""])
def test_what_is_in_no_container_belongs_to_nobody(text):
    assert containers_in(text) == ()


def test_a_process_that_has_ended_belongs_to_nobody(tmp_path):
    assert containers_of(77, tmp_path) == ()


def test_processes_of_a_pod_count_together_and_each_has_its_context():
    where = {1: (Container(A, FIRST),), 2: (Container(A, SECOND),), 3: (Container(B, FIRST),)}
    ledger = account(
        (share(A, 1024, "aa"), share(B, 2048, "bb")),
        {1: 700 * MIB, 2: 600 * MIB, 3: 100 * MIB},
        where.__getitem__,
        1500 * MIB,
        CONTEXT,
    )
    a, b = ledger.uses
    assert (a.used_bytes, a.processes, a.containers) == (1300 * MIB, 2, (FIRST, SECOND))
    assert a.allowed_bytes == 2048 * MIB
    assert (b.used_bytes, b.allowed_bytes) == (100 * MIB, 2560 * MIB)
    assert ledger.unattributed_bytes == 100 * MIB
    assert ledger.booked_bytes == 3072 * MIB
    assert ledger.overhead_bytes == 1536 * MIB


def test_contexts_are_not_granted_without_end():
    processes = dict.fromkeys(range(1, 11), MIB)
    ledger = account((share(A, 1),), processes, lambda _: (Container(A, FIRST),), 10 * MIB, CONTEXT)
    assert ledger.uses[0].allowed_bytes == MIB + 2 * 512 * MIB


def test_pids_of_other_namespaces_and_of_the_past_belong_to_nobody():
    ledger = account((share(A, 1024),), {0: 300 * MIB, 4_000_000: 200 * MIB}, lambda _: (), 500 * MIB, CONTEXT)
    assert (ledger.uses[0].used_bytes, ledger.unattributed_bytes) == (0, 500 * MIB)


def test_a_pod_below_another_container_is_the_outer_ones_when_that_booked_the_share():
    nested = (Container(A, FIRST), Container(B, SECOND))
    ledger = account((share(B, 1, "bb"), share(A, 1, "aa")), {5: MIB}, lambda _: nested, MIB, CONTEXT)
    assert [use.used_bytes for use in ledger.uses] == [0, MIB], "nobody is charged for a cgroup that another named after him"
    cluster_in_a_container = (Container(OUTER, FIRST), Container(B, SECOND))
    ledger = account((share(B, 1, "bb"),), {5: MIB}, lambda _: cluster_in_a_container, MIB, CONTEXT)
    assert ledger.uses[0].used_bytes == MIB


def test_a_process_in_two_lists_is_one_and_one_without_a_figure_is_nobodys():
    merged = merge(([ProcessUse(1, 5), ProcessUse(2, None)], [ProcessUse(1, 7), ProcessUse(3, 1)]))
    assert merged == {1: 7, 2: None, 3: 1}
    ledger = account((share(A, 1),), {2: None}, lambda _: (Container(A, FIRST),), 9 * MIB, CONTEXT)
    assert (ledger.uses[0].used_bytes, ledger.unattributed_bytes) == (0, 9 * MIB)


sizes = st.integers(0, 1 << 40)


@given(st.dictionaries(st.integers(0, 50), st.none() | sizes), sizes, st.lists(st.sampled_from([A, B, None]), min_size=51, max_size=51))
def test_every_byte_is_counted_once_and_nobody_is_charged_for_another(processes, used, owners):
    def containers(pid: int) -> tuple[Container, ...]:
        owner = owners[pid]
        return (Container(owner, FIRST),) if owner else ()

    ledger = account((share(A, 1, "aa"), share(B, 1, "bb"), share(None, 1, "cc")), processes, containers, used, CONTEXT)
    for pod, use in zip((A, B), ledger.uses, strict=False):
        assert use.used_bytes == sum(size or 0 for pid, size in processes.items() if pid > 0 and owners[pid] == pod)
    assert ledger.uses[2].used_bytes == 0
    attributed = sum(use.used_bytes for use in ledger.uses)
    assert ledger.unattributed_bytes == max(0, used - attributed)

"""Settings, conditions, the runtime's word, processes, waiting."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aios_sidecar.cgroups import pods_of
from aios_sidecar.node import conditions, fence
from aios_sidecar.node.conditions import Facts
from aios_sidecar.node.files import give
from aios_sidecar.node.gpus import worth_telling
from aios_sidecar.node.live import LiveClaims
from aios_sidecar.node.mirror import REMEMBERED, Mirror
from aios_sidecar.node.netns import NamespaceGone
from aios_sidecar.node.reporter import _used
from aios_sidecar.node.sandbox import InvalidOCIState, Processes, parse_oci_state
from aios_sidecar.node.settings import InvalidSettings, NodeSettings, from_environment
from aios_sidecar.node.state import ClaimState, Process, Sandbox
from aios_sidecar.node.waiting import first_of, to_the_end
from unit.node.support import CLAIM_UID, NOW, a_state

NAMED = {"AIOS_NODE_NAME": "n", "AIOS_NAMESPACE": "ns"}
SANDBOX = Sandbox(boot_id="b", namespace_inode=1, processes=())


def test_settings_come_from_the_environment() -> None:
    given = {**NAMED, "AIOS_SLOTS": "7", "AIOS_RUN_DIR": "/r", "AIOS_VENDOR_CDI_DIRS": "/a:/b", "AIOS_MUTE_SECONDS": "90"}
    settings = from_environment(given)
    assert settings == NodeSettings("n", "ns", 90.0, slots=7, run_dir=Path("/r"), vendor_cdi_dirs=(Path("/a"), Path("/b")))
    assert settings.hook_path == Path("/var/lib/kubelet/plugins/gpu.aios.dev/aios-hook")
    assert settings.cdi_file("u") == Path("/var/run/cdi/gpu.aios.dev-u.json")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "AIOS_NODE_NAME must be set"),
        ({"AIOS_NODE_NAME": "n"}, "AIOS_NAMESPACE must be set"),
        ({**NAMED, "AIOS_MUTE_SECONDS": "19"}, "AIOS_MUTE_SECONDS must be a whole number from 20"),
        ({**NAMED, "AIOS_SLOTS": "0"}, "AIOS_SLOTS must be a whole number from 1"),
        ({**NAMED, "AIOS_SLOTS": "many"}, "AIOS_SLOTS must be a whole number"),
        ({**NAMED, "AIOS_CDI_DIR": "cdi"}, "AIOS_CDI_DIR must be an absolute path"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidSettings, match=sentence):
        from_environment(given)


def test_conditions_follow_the_facts() -> None:
    fresh, started = a_state(), a_state().with_pod("p", SANDBOX)
    everything = Facts(fenced=True, serving=frozenset(("socket", "loopback")))
    assert words(conditions.of(fresh, Facts(), (), NOW))[:3] == ["Prepared", "WaitingForContainer", "WaitingForContainer"]
    assert words(conditions.of(started, Facts(fenced=True), (), NOW))[:3] == ["Prepared", "Fenced", "GatewayAbsent"]
    assert words(conditions.of(started, everything, (), NOW))[:3] == ["Prepared", "Fenced", "Listening"]
    assert words(conditions.of(started, Facts(fenced=False, fence_message="nft", port_message="taken"), (), NOW))[:3] == [
        "Prepared",
        "FenceFailed",
        "PortTaken",
    ]
    assert [c.status for c in conditions.of(started, everything, (), NOW)][:3] == ["True"] * 3
    assert [c.status for c in conditions.of(started, Facts(), (), NOW)][:3] == ["True", "Unknown", "False"]


def test_conditions_of_a_share_say_what_is_known_of_it() -> None:
    def of_share(state: ClaimState, **facts: Any) -> list[tuple[str, str]]:
        return [(c.status, c.reason) for c in conditions.of(state, Facts(**facts), (), NOW)[4:]]

    fresh, started = a_state(), a_state().with_pod("p", SANDBOX)
    exceeded = started.model_copy(update={"excess": "by 1Gi"})
    assert of_share(fresh, watched=True) == [("Unknown", "WaitingForContainer")] * 2
    assert of_share(started) == [("Unknown", "WaitingForReading")] * 2
    assert of_share(started, watched=True) == [("True", "Watched"), ("True", "WithinShare")]
    assert of_share(started, watched=False) == [("False", "CannotMonitor"), ("Unknown", "CannotMonitor")]
    assert of_share(exceeded, watched=True) == [("True", "Watched"), ("False", "ShareExceeded")]
    assert of_share(exceeded, watched=False) == [("False", "CannotMonitor"), ("False", "ShareExceeded")]
    assert of_share(started.model_copy(update={"gpu": None}), watched=True) == []


def test_a_condition_stands_since_its_status_changed() -> None:
    first = conditions.of(a_state(), Facts(), (), NOW)
    later = conditions.of(a_state(), Facts(fenced=True), first, NOW + timedelta(hours=1))
    assert [c.last_transition_time for c in later] == ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", *["2026-01-01T00:00:00Z"] * 4]


def words(found: tuple[conditions.Condition, ...]) -> list[str]:
    return [condition.reason for condition in found]


def test_a_fake_gpu_is_called_so() -> None:
    state = a_state()
    assert state.gpu is not None
    fake = state.model_copy(update={"gpu": state.gpu.model_copy(update={"fake": True})})
    assert "fake GPU" in conditions.prepared(fake, NOW).message
    assert "fake" not in conditions.prepared(state, NOW).message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is not JSON"),
        (b"{}", "pid: Field required"),
        (b'{"pid": 0, "annotations": {}}', "pid: Input should be greater than 0"),
        (b'{"pid": 1, "annotations": {"io.kubernetes.cri.sandbox-uid": "u"}}', "annotation io.kubernetes.cri.sandbox-name"),
    ],
)
def test_a_state_that_says_too_little_is_refused(text: bytes, sentence: str) -> None:
    with pytest.raises(InvalidOCIState, match=sentence):
        parse_oci_state(text)


def test_a_namespace_is_found_again_by_a_process_that_is_still_the_same() -> None:
    processes = Processes()
    me = processes.find(os.getpid())
    assert me is not None
    inode = Path("/proc/self/ns/net").stat().st_ino
    mine = Sandbox(boot_id=processes.boot_id(), namespace_inode=inode, processes=(me,))
    with processes.open_namespace(mine) as found:
        assert found.identity[1] == inode
    another = Process(pid=me.pid, start_ticks=me.start_ticks + 1)
    for stale in (
        mine.model_copy(update={"processes": (another,)}),
        mine.model_copy(update={"boot_id": "before the reboot"}),
        mine.model_copy(update={"namespace_inode": 1}),
        mine.model_copy(update={"processes": ()}),
    ):
        with pytest.raises(NamespaceGone, match="no process of the pod is left"):
            processes.open_namespace(stale)


async def test_work_under_a_lock_runs_to_its_end_though_the_caller_is_cancelled() -> None:
    went_on, ended = asyncio.Event(), []

    async def work() -> None:
        await went_on.wait()
        ended.append(True)

    caller = asyncio.create_task(to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0.01)
    assert not caller.done()
    went_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [True]


async def test_a_change_between_looking_and_waiting_is_not_missed() -> None:
    mirror = Mirror()
    change = mirror.next_change()
    mirror.upsert({"metadata": {"uid": "u", "resourceVersion": "5"}})
    await first_of(change, seconds=0.1)
    assert change.is_set()
    mirror.upsert({"metadata": {"uid": "u", "resourceVersion": "4"}, "older": True})
    assert mirror.get("u") == {"metadata": {"uid": "u", "resourceVersion": "5"}}


def test_what_was_removed_does_not_come_back_by_what_is_said_late_but_by_what_is_newer():
    mirror = Mirror()
    mirror.replace([{"metadata": {"uid": "u", "resourceVersion": "5"}}])
    mirror.remove({"metadata": {"uid": "u", "resourceVersion": "7"}})
    mirror.upsert({"metadata": {"uid": "u", "resourceVersion": "6"}})
    assert mirror.get("u") is None
    mirror.upsert({"metadata": {"uid": "u", "resourceVersion": "8"}, "on this node": "again"})
    assert mirror.get("u") is not None


def test_of_those_that_were_removed_the_last_are_remembered():
    mirror = Mirror()
    for number in range(REMEMBERED + 1):
        mirror.remove({"metadata": {"uid": f"u{number}", "resourceVersion": "7"}})
    for number in (0, 1, REMEMBERED):
        mirror.upsert({"metadata": {"uid": f"u{number}", "resourceVersion": "6"}})
    assert [each["metadata"]["uid"] for each in mirror.all()] == ["u0"]


async def test_the_record_of_an_agent_names_its_share() -> None:
    claims = LiveClaims(lambda: NOW)
    record = claims.put(a_state()).record("node-a")
    assert record.identity.name == "agent"
    assert record.share is not None
    assert (record.share.memory_bytes, record.share.gpu_memory_bytes) == (10 << 30, 80 << 30)
    assert claims.put(a_state(gpu=None)).record("node-a").gpu is None
    claims.drop(CLAIM_UID)
    assert claims.get(CLAIM_UID) is None


@pytest.mark.parametrize(
    ("told", "used", "worth"),
    [
        (None, 0, True),
        (0, 0, False),
        (0, 1, True),
        (1, 0, True),
        (1000, 1000, False),
        (1000, 1051, False),
        (1000, 1052, True),
        (1000, 948, True),
    ],
)
def test_use_is_told_when_it_changed_by_a_twentieth_of_the_share_or_from_or_to_nothing(told: int | None, used: int, worth: bool):
    assert worth_telling(told, used, share_mib=1024) is worth


def test_what_is_used_stands_until_the_next_program_has_read_and_goes_when_it_can_not_be_read():
    claims = LiveClaims(lambda: NOW)
    live = claims.put(a_state(pod_uid="pod"))
    written = {"claimUID": CLAIM_UID, "podUID": "pod", "gpu": {"uuid": "GPU-a", "used": "3Gi"}}
    assert _used(live, written) == written["gpu"]
    assert _used(live, {**written, "podUID": "another"}) is None
    claims.tell_use(live, 1536, 1.0)
    assert live.state.gpu is not None
    assert _used(live, written) == {"uuid": live.state.gpu.uuid, "used": "1536Mi"}
    claims.tell_use(live, None, 2.0)
    claims.learn(live, replace(live.facts, watched=False))
    assert _used(live, written) is None


def test_a_fence_reads_back_the_same_where_protocols_have_names_and_where_they_have_numbers():
    with_a_name = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}
    with_a_number = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 6}}
    another = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 17}}
    assert fence._plain(with_a_name) == fence._plain(with_a_number) != fence._plain(another)


def test_a_fence_reads_back_the_same_however_nft_spells_a_flag():
    flags = {"payload": {"protocol": "tcp", "field": "flags"}}
    masked = {"match": {"op": "==", "left": {"&": [flags, "rst"]}, "right": "rst"}}
    short = {"match": {"op": "in", "left": flags, "right": "rst"}}
    another = {"match": {"op": "==", "left": {"&": [flags, "syn"]}, "right": "rst"}}
    assert fence._plain(masked) == fence._plain(short) != fence._plain(another)
    alone = {"match": {"op": "!=", "left": {"fib": {"result": "type", "flags": "saddr"}}, "right": "local"}}
    listed = {"match": {"op": "!=", "left": {"fib": {"result": "type", "flags": ["saddr"]}}, "right": "local"}}
    two = {"match": {"op": "!=", "left": {"fib": {"result": "type", "flags": ["saddr", "iif"]}}, "right": "local"}}
    assert fence._plain(alone) == fence._plain(listed) != fence._plain(two)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_directory_is_given_away_with_all_that_is_in_it_and_nothing_beside(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("x")
    directory = tmp_path / "state" / "context"
    give(directory, 0)
    (directory / "a").mkdir()
    (directory / "a" / "file").write_text("x")
    (directory / "a" / "link").symlink_to(outside)
    for _ in range(2):
        give(directory, 64489)
        for path in (directory, directory / "a", directory / "a" / "file", directory / "a" / "link"):
            assert (path.lstat().st_uid, path.lstat().st_gid) == (64489, 64489)
        assert outside.stat().st_uid == 0
        assert directory.stat().st_mode & 0o777 == 0o700


def test_processes_are_found_by_the_pod_whose_cgroups_they_are_in(tmp_path):
    pod, other = CLAIM_UID, CLAIM_UID.replace("1111", "2222")
    for pid, group in (
        (20, f"/kubepods/pod{pod}/{'a' * 64}"),
        (3, f"/kubepods/pod{pod}/{'b' * 64}"),
        (4, "/system.slice"),
        (5, f"/kubepods/pod{other}/{'c' * 64}"),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(f"1:memory:{group}\n0::{group}\n")
    (tmp_path / "self").mkdir()
    assert pods_of(tmp_path) == {pod: [3, 20], other: [5]}

"""State files: what was written is read, and what was damaged is not believed."""

import json
from pathlib import Path

import pytest

from aios_sidecar.node.state import Process, Sandbox, StateFiles, UnreadableState
from unit.node.support import CLAIM_UID, a_state


@pytest.fixture
def files(tmp_path: Path) -> StateFiles:
    found = StateFiles(tmp_path / "claims")
    found.open()
    return found


def test_what_was_written_is_read(files: StateFiles) -> None:
    state = a_state().with_pod("p", Sandbox(boot_id="b", namespace_inode=7, processes=(Process(pid=1, start_ticks=2),)))
    files.write(state)
    assert files.read(CLAIM_UID) == state
    assert files.uids() == [CLAIM_UID]
    assert files.path(CLAIM_UID).stat().st_mode & 0o777 == 0o600
    files.remove(CLAIM_UID)
    files.remove(CLAIM_UID)
    assert files.read(CLAIM_UID) is None


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text[:-20], "it is not JSON"),
        (lambda text: "", "it is not JSON"),
        (lambda text: "[]", "its version must be 1"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "its version must be 1"),
        (lambda text: text.replace('"team"', '"other"'), "its checksum is not that of its content"),
        (lambda text: text.replace("sha256:", "md5:"), "its checksum is not that of its content"),
    ],
)
def test_a_damaged_file_is_not_believed(files: StateFiles, damage: object, sentence: str) -> None:
    files.write(a_state())
    path = files.path(CLAIM_UID)
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    with pytest.raises(UnreadableState, match=sentence):
        files.read(CLAIM_UID)


def test_a_file_that_speaks_of_another_claim_is_not_believed(files: StateFiles) -> None:
    files.write(a_state())
    other = CLAIM_UID.replace("1111", "2222", 1)
    files.path(CLAIM_UID).rename(files.path(other))
    with pytest.raises(UnreadableState, match="speaks of claim"):
        files.read(other)


def test_what_is_set_aside_is_kept_each_time(files: StateFiles) -> None:
    kept = []
    for text in ("first", "second"):
        files.path(CLAIM_UID).write_text(text)
        kept.append(files.set_aside(CLAIM_UID))
    assert [path.read_text() for path in kept] == ["first", "second"]
    assert files.uids() == []


def test_what_was_set_aside_goes_when_ten_more_were(files: StateFiles) -> None:
    kept = []
    for number in range(12):
        files.path(CLAIM_UID).write_text(str(number))
        kept.append(files.set_aside(CLAIM_UID).read_text())
    assert kept == [str(number) for number in range(12)]
    left = {path.read_text() for path in files.path(CLAIM_UID).parent.glob("*.unreadable-*")}
    assert len(left) == 10
    assert "11" in left


def test_fields_of_a_newer_program_are_ignored(files: StateFiles) -> None:
    newer = a_state().model_dump(mode="json") | {"invented_later": {"a": 1}}
    from aios_sidecar.node import records as module

    files.path(CLAIM_UID).write_text(json.dumps({"version": 1, "checksum": module._checksum(newer), "claim": newer}))
    assert files.read(CLAIM_UID) == a_state()


@pytest.mark.parametrize("uid", ["", "..", "../x", CLAIM_UID + "/..", CLAIM_UID.upper().replace("1", "A", 1)])
def test_only_uids_become_paths(files: StateFiles, uid: str) -> None:
    with pytest.raises(ValueError, match="is not the uid of a claim"):
        files.read(uid)

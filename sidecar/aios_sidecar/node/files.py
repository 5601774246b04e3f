"""Files that are either as they were or as they shall be, whenever the machine stops."""

import contextlib
import os
import stat
from pathlib import Path

TEMPORARY = ".tmp"
"""Not .json: a directory of CDI files is read by others."""


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """`path` has this content and mode, and keeps them through a loss of power. A reader sees the old file or the new one, never a part.
    Raises OSError, when the old file is there and nothing else."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """`path` does not exist, and does not come back."""
    if path.exists():
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def remove_leftovers(directory: Path, names: str) -> None:
    """No write to a file whose name matches has left anything beside it, unless the disk takes nothing. For the start: nothing may be
    writing."""
    for path in directory.glob(f".{names}{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink()


def set_mode(path: Path, mode: int) -> None:
    """`path` has this mode. What has it already may lie on a disk that takes nothing."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give(directory: Path, owner: int) -> None:
    """`directory` is there, and it and all in it belong to this user and to nobody else. Links in it are not followed."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    set_mode(directory, 0o700)
    if directory.stat().st_uid == owner:
        return
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            os.lchown(Path(folder, name), owner, owner)
    os.chown(directory, owner, owner)  # last: cut off before this, it is begun anew

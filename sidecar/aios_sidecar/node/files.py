"""Files that are either as they were or as they shall be, whenever the machine stops."""

import os
from pathlib import Path

TEMPORARY = ".tmp"
"""Not .json: a directory of CDI files is read by others."""


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """`path` has this content and mode, and keeps them through a loss of power. A reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """`path` does not exist, and does not come back."""
    if path.exists():
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def remove_leftovers(directory: Path, names: str) -> None:
    """No write to a file whose name matches has left anything beside it. For the start: nothing may be writing."""
    for path in directory.glob(f".{names}{TEMPORARY}"):
        path.unlink()


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give(directory: Path, owner: int) -> None:
    """`directory` is there, and it and all in it belong to this user and to nobody else. Links in it are not followed."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    if directory.stat().st_uid == owner:
        return
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            os.lchown(Path(folder, name), owner, owner)
    os.chown(directory, owner, owner)  # last: cut off before this, it is begun anew

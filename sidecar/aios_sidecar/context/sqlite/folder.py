"""An agent's folder: what is in it, by name, and how it is written so that a crash leaves nothing half."""

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from aios_sidecar.context.errors import Damaged

FILE: Final = "context.db"
NEW: Final = "new.db"
"""What shall be the file."""
RELEASED: Final = "released.json"
"""Says to which attempt the context was handed over before it went from here: none up to that one begins another."""
IDENTITY: Final = "identity.json"
"""Says whose context it is; written once the file is there, so that a file that is missing later is missed."""
INCOMING: Final = "incoming-{attempt}.db"
OUTGOING: Final = "outgoing-{attempt}.db"
"""Copies on their way from and to another node."""
SNAPSHOTS: Final = "snapshots"
DAMAGED: Final = "damaged"
"""Folders of it."""


def copies_in(folder: Path) -> list[Path]:
    """Copies of the context that a program made and did not bring to use, with what SQLite keeps beside them."""
    patterns = (INCOMING.format(attempt="*"), OUTGOING.format(attempt="*"), NEW)
    return [path for pattern in patterns for path in folder.glob(f"{pattern}*")]


def remove_copies(folder: Path) -> int:
    """None of them is left; how many went."""
    found = copies_in(folder)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def empty(folder: Path, keep: Collection[str] = ()) -> int:
    """The folder is gone, or has those files only; how many files went. What a crash leaves of it is not a context whose file is
    missed."""
    count = sum(1 for path in folder.rglob("*") if path.is_file() and path.name not in keep)
    (folder / IDENTITY).unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(folder)
        return count
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()
    return count


def read_released(folder: Path) -> dict[str, Any]:
    """What RELEASED says; attempt 0 where there is none. Raises Damaged."""
    try:
        found: dict[str, Any] = json.loads((folder / RELEASED).read_bytes())
    except FileNotFoundError:
        return {"attempt": 0}
    except ValueError as error:
        raise Damaged(f"{folder / RELEASED}, which says to which attempt the context was handed over, can't be read: {error}") from None
    return found


def write_durably(path: Path, text: str) -> None:
    """The file has this text, whole, also after a crash."""
    partial = path.with_suffix(".part")
    with partial.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """The disk has what is in the file, or which files were created and renamed in the folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

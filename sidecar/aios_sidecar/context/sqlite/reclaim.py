"""What becomes of a context whose agent is gone: a mark beside it says that it is to be erased then, and taking it away is one rename."""

import json
import shutil
from pathlib import Path
from typing import Final

from aios_sidecar.context.sqlite.folder import sync, write_durably
from aios_sidecar.context.store import AgentKey

MARK: Final = "erase-when-gone.json"
"""Says whose it is, so that it counts also where nothing else is left."""
_GONE: Final = ".gone-"
"""Of a folder that is not the agent's any more, and is being removed."""


def mark(folder: Path, key: AgentKey | None) -> None:
    """The folder is marked for this agent; None: it is not. On the disk when this returns."""
    path = folder / MARK
    if key is None:
        path.unlink(missing_ok=True)
    elif not path.exists():
        write_durably(path, json.dumps(key._asdict()))
    else:
        return
    sync(folder)


def marked(root: Path) -> list[AgentKey]:
    """Whose contexts are marked. A mark that can't be read counts for nobody: nothing is erased by it."""
    found = []
    for path in sorted(root.glob(f"[!.]*/{MARK}")):
        try:
            key = AgentKey(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            continue
        if key.uid == path.parent.name:
            found.append(key)
    return found


def take_away(folder: Path) -> int:
    """The folder and all in it are gone; how many files went. From its first moment on nothing of it is found as a context any more."""
    if not folder.exists():
        return 0
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    gone = folder.with_name(_GONE + folder.name)
    if gone.exists():
        shutil.rmtree(gone)
    folder.rename(gone)
    sync(folder.parent)
    shutil.rmtree(gone)
    sync(folder.parent)
    return count


def complete(root: Path) -> None:
    """What an earlier program was taking away is gone."""
    for path in root.glob(f"{_GONE}*"):
        shutil.rmtree(path)

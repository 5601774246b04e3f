"""How this program keeps what must outlive it: `{"version": 1, "checksum": "sha256:…", "<what it is of>": {…}}`, one file for each.

The checksum is over the canonical JSON of the content (sorted keys, no spaces). Fields that this program does not know are ignored, so
that a file is readable after a downgrade.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from aios_sidecar.node.files import sync_directory

VERSION = 1
MOST_ASIDE = 10
"""Files in a directory that are kept for a person to look at. A disk that damages each file it is given does not fill with them."""

Kept = TypeVar("Kept", bound=BaseModel)


class UnreadableState(Exception):
    """A state file that can't be believed; the message says why."""


def encode(kind: str, record: BaseModel) -> bytes:
    content = record.model_dump(mode="json")
    return json.dumps({"version": VERSION, "checksum": _checksum(content), kind: content}, indent=1).encode() + b"\n"


def decode(kind: str, model: type[Kept], text: bytes) -> Kept:
    """What `encode` was given. Raises UnreadableState."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UnreadableState(f"it is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise UnreadableState(f"its version must be {VERSION}")
    content = document.get(kind)
    if document.get("checksum") != _checksum(content):
        raise UnreadableState("its checksum is not that of its content")
    try:
        return model.model_validate_json(_canonical(content))
    except ValidationError as error:
        raise UnreadableState(f"a field is missing or of another type: {error.errors()[0]['loc']}") from None


def set_aside(path: Path) -> Path:
    """There is no file at `path` any more; what was there is kept under the path returned, for a person to look at, until ten more of that
    directory were set aside."""
    number = 1
    while (kept := path.with_name(f"{path.name}.unreadable-{number}")).exists():
        number += 1
    path.rename(kept)
    aside = sorted(path.parent.glob("*.unreadable-*"), key=lambda file: (file != kept, -file.stat().st_ctime_ns))
    for old in aside[MOST_ASIDE:]:
        old.unlink()
    sync_directory(path.parent)
    return kept


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _checksum(content: Any) -> str:
    return "sha256:" + hashlib.sha256(_canonical(content)).hexdigest()

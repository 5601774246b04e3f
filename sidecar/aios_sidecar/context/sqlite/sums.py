"""A checksum for each item: SQLite finds damage of its structure, and not a letter that changed in a text.

CRC-32 finds every change of up to 32 bits that stand together, and so any one letter, and others but for one in four billion. It costs
half a microsecond an item. It is against failing disks, not against who may write the file.
"""

from typing import Final
from zlib import crc32

_PRIMES: Final = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)


def checksum(
    seq: int,
    session: int,
    time: int,
    role: int,
    kind: int,
    parts: int,
    content: str,
    author: str | None,
    call_id: str | None,
    derived: str | None,
    labels: str | None,
    tokens: str | None,
) -> int:
    """Of all that one row of `items` says. Raises TypeError, AttributeError and UnicodeEncodeError for values that no row can have."""
    one, two, three, four = _PRIMES
    found = crc32(content.encode(), (seq * one + session * two + time * three + (role << 8 | kind << 1 | parts) * four) & 0xFFFFFFFF)
    if author is not None:
        found = crc32(author.encode(), found ^ 1)
    if call_id is not None:
        found = crc32(call_id.encode(), found ^ 2)
    if derived is not None:
        found = crc32(derived.encode(), found ^ 3)
    if labels is not None:
        found = crc32(labels.encode(), found ^ 4)
    if tokens is not None:
        found = crc32(tokens.encode(), found ^ 5)
    return found

"""What may be read of HTTP: h11, with each line read in time that grows with its length alone, and what is refused before and after it.

Two patterns of h11 (0.16) try a run of blanks in every way before they refuse a line: time grows with the square of its length, and one
line of 60,000 bytes holds up everybody for seconds. Those here match the same lines, possessively: what a part has taken it never gives
back. The one for chunks refuses a lone CR or LF besides.
"""

import re
from typing import Final

import h11
from h11 import _readers

__all__ = ["HEADER_LINES", "h11", "has_too_many_lines", "must_be_short", "must_be_unambiguous"]

HEADER_LINES: Final = 256
"""Of a request or a response; what reads them takes each line by itself, and the whole in one slice."""

_FIELD: Final = (
    rb"(?P<field_name>[-!#$%&'*+.^_`|~0-9a-zA-Z]++):[ \t]*+"
    rb"(?P<field_value>([^\x00\s]++(?:[ \t]++[^\x00\s]++)*+)?+)[ \t]*+"
)
_CHUNK: Final = rb"(?P<chunk_size>([0-9A-Fa-f]){1,20}+)(?P<chunk_ext>;[^\r\n]*+)?+[ \t]*+\r\n"
_BEFORE: Final = {
    "header_field_re": rb"(?P<field_name>[-!#$%&'*+.^_`|~0-9a-zA-Z]+):[ \t]*(?P<field_value>([^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?)[ \t]*",
    "chunk_header_re": rb"(?P<chunk_size>([0-9A-Fa-f]){1,20})(?P<chunk_ext>;.*)?[ \t]*\r\n",
}
"""What they replace. Another version of h11 must be read before it is used."""

for name, pattern in (("header_field_re", _FIELD), ("chunk_header_re", _CHUNK)):
    found = getattr(_readers, name).pattern
    if found not in (_BEFORE[name], pattern):
        raise ImportError(f"this version of h11 reads lines by another pattern than the one that is known here: {name} is {found!r}")
    setattr(_readers, name, re.compile(pattern))

_BARE_LINE_END: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_FOLDED: Final = re.compile(rb"\r\n[ \t]")
_FRAMING: Final = re.compile(rb"\r\n(content-length|transfer-encoding|host)[ \t]*:[ \t]*([^\r]*)", re.IGNORECASE)


def has_too_many_lines(buffer: bytes) -> bool:
    """Whether the head at the beginning of `buffer`, as far as it is there, has more than `HEADER_LINES`."""
    ends = [at for at in (buffer.find(b"\n\r\n"), buffer.find(b"\n\n")) if at >= 0]
    return buffer.count(b"\n", 0, min(ends, default=len(buffer))) > HEADER_LINES


def must_be_short(head: bytes) -> None:
    if has_too_many_lines(head):
        raise h11.RemoteProtocolError(f"more than {HEADER_LINES} lines", error_status_hint=431)


def must_be_unambiguous(head: bytes) -> None:
    """Nothing in `head` may be read in two ways: whoever stands behind us could see another request than the one that was judged.

    h11 takes line ends and folded lines as older clients wrote them, and equal lengths twice; no client of today sends such.
    """
    if _BARE_LINE_END.search(head):
        raise h11.RemoteProtocolError("a line must end with CR LF, and contain neither alone")
    if _FOLDED.search(head):
        raise h11.RemoteProtocolError("a header must be on one line")
    found = [(name.lower(), value) for name, value in _FRAMING.findall(head)]
    names = [name for name, _ in found]
    if len(set(names)) != len(names):
        raise h11.RemoteProtocolError("Host, Content-Length and Transfer-Encoding must be given once at most")
    if b"content-length" in names and b"transfer-encoding" in names:
        raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding must not be given both")
    if any(name == b"content-length" and not value.strip(b" \t").isdigit() for name, value in found):
        raise h11.RemoteProtocolError("Content-Length must be one number")

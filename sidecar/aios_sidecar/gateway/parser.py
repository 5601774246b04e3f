"""h11, reading each line in time that grows with its length alone. The gateway takes it from here.

Two patterns of h11 (0.16) try a run of blanks in every way before they refuse a line: time grows with the square of its length, and one
line of 60,000 bytes holds up everybody for seconds. Those here match the same lines, possessively: what a part has taken it never gives
back. The one for chunks refuses a lone CR or LF besides.
"""

import re
from typing import Final

import h11
from h11 import _readers

__all__ = ["h11"]

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

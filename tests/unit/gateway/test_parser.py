"""What h11 reads it reads in time that grows with the length of a line and no faster, and the same lines as before."""

import re
import time

import pytest
from h11._abnf import chunk_header, header_field

from aios_sidecar.gateway.parser import h11

BLANKS = b" "
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ASKED = h11.Request(method="GET", target="/", headers=[("Host", "a")])
PLACES = {
    "a request's head": (h11.SERVER, REQUEST + b"X:%s\x00\r\n\r\n"),
    "a value in a request's head": (h11.SERVER, REQUEST + b"X: a%s\x00\r\n\r\n"),
    "a request's trailer": (h11.SERVER, REQUEST + CHUNKED + b"0\r\nX:%s\x00\r\n\r\n"),
    "a request's chunk": (h11.SERVER, REQUEST + CHUNKED + b"1;%s\n\r\nx\r\n"),
    "a response's head": (h11.CLIENT, RESPONSE + b"X:%s\x00\r\n\r\n"),
    "a response's trailer": (h11.CLIENT, RESPONSE + CHUNKED + b"0\r\nX:%s\x00\r\n\r\n"),
    "a response's chunk": (h11.CLIENT, RESPONSE + CHUNKED + b"1;%s\n\r\nx\r\n"),
}


def _read_on(connection: h11.Connection) -> None:
    while connection.next_event() is not h11.NEED_DATA:
        pass


def seconds_to_refuse(role: type, sent: bytes) -> float:
    """The least of some tries."""
    taken = []
    for _ in range(5):
        connection = h11.Connection(role, max_incomplete_event_size=1 << 20)
        if role is h11.CLIENT:
            connection.send(ASKED)
            connection.send(h11.EndOfMessage())
        connection.receive_data(sent)
        began = time.perf_counter()
        with pytest.raises(h11.RemoteProtocolError):
            _read_on(connection)
        taken.append(time.perf_counter() - began)
    return min(taken)


@pytest.mark.parametrize("place", PLACES)
def test_a_line_of_blanks_takes_time_that_grows_with_its_length_alone(place):
    role, sent = PLACES[place]
    short, long = (seconds_to_refuse(role, sent.replace(b"%s", BLANKS * count)) for count in (1_000, 32_000))
    assert long < 200 * short, "thirty-two times as long; with its square it would be a thousand"


@pytest.mark.parametrize(
    "line",
    [
        *(b"X:", b"X: ", b"X:a", b"X: a", b"X: a b", b"X:\ta \t b \t", b"X:  \xff\x80 ", b"X: a:b", b"x-y_z!: 1", b"X: a\tb"),
        *(b"", b":", b"X", b"X : a", b" X: a", b"X: a\x00", b"X: \x0b", b"X: a\rb", b"X: a\nb", b"X\x00: a"),
    ],
)
def test_header_lines_are_read_as_before(line):
    found, before = (re.fullmatch(pattern, line) for pattern in (h11._readers.header_field_re, header_field.encode()))
    assert (found and found.groupdict()) == (before and before.groupdict())


@pytest.mark.parametrize(
    "line", [b"1", b"ff", b"0;a=b", b"1 ", b"1;x \t", b"1;", b"", b"g", b"1" * 20, b"1" * 21, b"1 x", b"-1", b"1;\xff"]
)
def test_chunk_headers_are_read_as_before(line):
    found, before = (re.fullmatch(pattern, line + b"\r\n") for pattern in (h11._readers.chunk_header_re, chunk_header.encode()))
    assert (found and found.groupdict()) == (before and before.groupdict())


@pytest.mark.parametrize("line", [b"1;a\rb\r\n", b"1;a\nb\r\n"])
def test_a_chunk_header_with_a_line_end_inside_is_refused(line):
    assert h11._readers.chunk_header_re.fullmatch(line) is None

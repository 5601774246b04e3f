"""One HTTP/1.1 connection: bytes to requests and back, within limits of size and time. Parsing is h11's; policy is the application's."""

import asyncio
import contextlib
import logging
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

from aios_sidecar.gateway import sockets
from aios_sidecar.gateway.parser import HEADER_LINES, h11, must_be_short, must_be_unambiguous
from aios_sidecar.gateway.problems import PROBLEM_TYPE, Problem, ProblemKind
from aios_sidecar.gateway.settings import Limits

log = logging.getLogger(__name__)

READ_BYTES: Final = 16 * 1024
EVENTS_AT_ONCE: Final = 16
"""Pieces of content that are read in one slice of the loop: half a millisecond, however small a client or a host cuts them."""
FRAMING_FACTOR: Final = 8
"""So many times as long as its content may a request be: chunks of one byte have five more."""
METHOD_SHOWN: Final = 40
"""Characters of a request's method in what is told and written: a client may send one as long as all headers together."""
LINGER_BYTES: Final = 256 * 1024
LINGER_SECONDS: Final = 1.0
"""After a response to a request that was not read to its end: closing at once would reset the connection and lose the response."""


Headers = Iterable[tuple[bytes, bytes]]
Turn = Callable[[], Awaitable[None]]

_FIRST_LINE: Final = re.compile(rb"(?:\r?\n)*+([!-~]{1,40}) ([!-~]+)")


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its content. Header names are in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    via: str
    """The kind of listener that it came by."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Response:
    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Route(Protocol):
    """What answers a request."""

    @property
    def name(self) -> str:
        """Of a closed set; a label of metrics."""

    @property
    def content_bytes(self) -> int:
        """How much content it takes; 0 for none: what comes is read and dropped then."""

    async def answer(self, content: bytes) -> Response:
        """Called when the request has been read to its end. May raise Problem."""


class Companion(Protocol):
    """What a relay keeps between the requests of one connection."""

    def close(self) -> None:
        """The connection has ended."""


class Client(Protocol):
    """Who sent the request, as a relay sees it. Content and response may be under way at once."""

    companion: Companion | None

    def take_content(self) -> bytes | None:
        """The next piece of content that has arrived, b"" at its end, None when more must be received. Raises h11.RemoteProtocolError."""

    async def receive_content(self, seconds: float) -> None:
        """More has arrived. Raises Problem after `seconds` without."""

    def begin(self, status: int, reason: bytes, headers: Headers) -> None:
        """The response is this one; its head leaves with what follows, at the next `flush` or `end`."""

    def put(self, data: bytes) -> None:
        """A piece of the response's content; it leaves at the next `flush` or `end`."""

    async def flush(self) -> None:
        """All of the response so far has been handed to the kernel."""

    async def end(self) -> None:
        """The response is complete."""

    def watched(self, gone: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Calls `gone`, once, when the client ends its side meanwhile. Not while content is being received."""

    async def switch(self) -> tuple[socket.socket, bytes]:
        """CONNECT is answered with 200. The connection, which stays its owner's to close, and what the client has sent since."""


class Relay(ABC):
    """What passes a request on, content and all, and writes the response itself."""

    name: ClassVar[str]
    """As of a Route."""

    @abstractmethod
    async def relay(self, client: Client) -> None:
        """Returns when the response is complete. May raise Problem as long as none was begun."""


class Application(Protocol):
    def route(self, head: Head) -> Route | Relay:
        """What answers `head`. Raises Problem for a request that must not be answered."""

    def hold(self, content_bytes: int) -> None:
        """So much more content is held in memory for its routes; less, when negative. Raises Problem when that is too much."""

    def unread(self, method: str, target: str, problem: Problem) -> None:
        """Told of a request that is refused since it can't be read, when its first line can."""

    def answered(self, route: str, status: int) -> None:
        """Told of every response; `route` is "none" when the request never got one."""


class Connection:
    """Serves one accepted connection until its end. Whoever creates it runs `run` once, and may `drain` it or cancel the run."""

    def __init__(self, connection: socket.socket, via: str, application: Application, limits: Limits, turn: Turn) -> None:
        self._socket = connection
        self._via = via
        self._application = application
        self._limits = limits
        self._turn = turn
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._raw = b""
        self._status = 0
        self._held: list[bytes] = []
        self.companion: Companion | None = None
        self._served_one = False
        self._waits_for_another = False
        self._draining = False
        self._held_bytes = 0

    async def run(self) -> None:
        """Serve requests in turn. Returns when the connection is closed; raises nothing but cancellation."""
        with self._socket:
            try:
                while await self._serve_one():
                    pass
            except OSError as error:  # also TimeoutError
                log.debug("a connection by %s ended: %s", self._via, error)
            finally:
                if self.companion is not None:
                    self.companion.close()

    def drain(self) -> None:
        """End after the request in progress. One that has just been opened is still answered; one that waits for another request ends."""
        self._draining = True
        if self._waits_for_another:
            self._end_reading()

    def _end_reading(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RD)  # what has arrived already is still read and answered
        except OSError as error:
            log.debug("a connection by %s was gone before it was drained: %s", self._via, error)

    async def _serve_one(self) -> bool:
        """Answer one request. False when it was the last."""
        route = "none"
        head: h11.Request | None = None
        last = False
        try:
            head = await self._read_head()
            if head is None:
                return False
            chosen = self._application.route(_head(head, self._via))
            route = chosen.name
            if isinstance(chosen, Relay):
                await chosen.relay(self)
                self._application.answered(route, self._status // 100 * 100)  # its class: which codes there are is the host's to say
                return await self._is_ready_for_another(last=self._draining)
            content = await self._read_body(chosen.content_bytes)
            response = await chosen.answer(content)
        except Problem as problem:
            self._must_not_have_begun(problem)
            response = _response_to(problem)
        except h11.RemoteProtocolError as error:
            self._must_not_have_begun(error)
            malformed = self._malformed(error)
            if head is None and (line := _FIRST_LINE.match(self._raw)) is not None:
                self._application.unread(line[1].decode("latin-1"), line[2].decode("latin-1"), malformed)
            response, last = _response_to(malformed), True
        except OSError:
            raise  # the connection's, not the route's: nobody is left to tell
        except Exception as error:
            log.exception("route %s failed", route)
            self._must_not_have_begun(error)
            response = _response_to(Problem(ProblemKind.INTERNAL, "An error of the gateway's own; its log says more."))
        finally:
            self._application.hold(-self._held_bytes)
            self._held_bytes = 0
        self._application.answered(route, response.status)
        return await self._respond(response, last=last, without_body=head is not None and head.method == b"HEAD")

    def _must_not_have_begun(self, error: Exception) -> None:
        """Half a response can't become a refusal: the connection ends, so that the client sees that it is incomplete."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE, h11.ERROR):
            raise ConnectionAbortedError(f"a response was cut off: {error}") from error

    def _malformed(self, error: h11.RemoteProtocolError) -> Problem:
        if error.error_status_hint == 431:
            most = f"{self._limits.header_bytes} bytes and {HEADER_LINES} lines"
            return Problem(ProblemKind.HEADERS_TOO_LARGE, f"Request line and headers may have {most}.")
        return Problem(ProblemKind.MALFORMED, str(error))

    async def _read_head(self) -> h11.Request | None:
        """The next request, None at the end of the connection or of the time that it may be idle."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._limits.idle_seconds
        begun = False
        self._raw = self._http.trailing_data[0]
        if self._raw:
            await self._turn()  # a pipelined request never waits on the socket; others get their turn here
            must_be_short(self._raw)
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if not begun and self._http.trailing_data[0]:
                begun, deadline = True, now() + self._limits.head_seconds
            data = await self._receive(deadline, idle=not begun)
            if data is None:
                if begun:
                    raise Problem(ProblemKind.TIMEOUT, f"The headers must arrive within {self._limits.head_seconds:g} seconds.")
                return None
            await self._turn()
            self._http.receive_data(data)
            self._raw += data
            must_be_short(self._raw)
        if not isinstance(event, h11.Request):
            return None
        must_be_unambiguous(self._raw[: len(self._raw) - len(self._http.trailing_data[0])])
        if event.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError(f"HTTP/{event.http_version.decode()} is not spoken here")
        return event

    async def _receive(self, deadline: float, *, idle: bool) -> bytes | None:
        """What arrives next, b"" at the end, None when nothing came until `deadline`."""
        self._waits_for_another = idle and self._served_one
        if self._waits_for_another and self._draining:
            self._end_reading()
        try:
            return await sockets.receive(self._socket, READ_BYTES, deadline)
        finally:
            self._waits_for_another = False

    async def _read_body(self, taken_bytes: int) -> bytes:
        """Read the content to its end: up to `taken_bytes` are held and returned; when the route takes none, all is dropped."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._limits.body_seconds
        size, limit, held, received, pieces = 0, taken_bytes or self._limits.body_bytes, bytearray(), 0, 0
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
                data = await self._receive(deadline, idle=False) if now() < deadline else None
                if data is None:
                    raise Problem(ProblemKind.TIMEOUT, f"The content must arrive within {self._limits.body_seconds:g} seconds.")
                received += len(data)
                if received > FRAMING_FACTOR * limit + READ_BYTES:
                    raise Problem(ProblemKind.CONTENT_TOO_LARGE, f"The content may have {limit} bytes, in pieces that are not tiny.")
                await self._turn()
                self._http.receive_data(data)
            elif isinstance(event, h11.Data):
                size, pieces = size + len(event.data), pieces + 1
                if pieces % EVENTS_AT_ONCE == 0:
                    await self._turn()
                if size > limit:
                    raise Problem(ProblemKind.CONTENT_TOO_LARGE, f"The content may have {limit} bytes.")
                if taken_bytes:
                    self._application.hold(len(event.data))
                    self._held_bytes += len(event.data)
                    held += event.data
        return bytes(held)

    async def _respond(self, response: Response, *, last: bool, without_body: bool) -> bool:
        """Send `response`. True when the connection can take another request."""
        last = last or self._draining or not self._read_to_its_end()
        await self._send(encode(self._http, response, last=last, without_body=without_body))
        return await self._is_ready_for_another(last=last)

    async def _is_ready_for_another(self, *, last: bool) -> bool:
        """Whether the connection can take another request, now that the response is complete."""
        if self._http.our_state is h11.SWITCHED_PROTOCOL:
            return False
        if not self._read_to_its_end():
            await self._linger()
        if last or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._served_one = True
        return True

    def _read_to_its_end(self) -> bool:
        """Whether nothing of the request is left to read, so that another may follow."""
        if self._http.their_state is not h11.SEND_BODY:
            return self._http.their_state not in (h11.IDLE, h11.ERROR)
        try:
            return isinstance(self._http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            return False

    def take_content(self) -> bytes | None:
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            return None
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def receive_content(self, seconds: float) -> None:
        if self._http.they_are_waiting_for_100_continue:
            await self._send(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        data = await self._receive(asyncio.get_running_loop().time() + seconds, idle=False)
        if data is None:
            raise Problem(ProblemKind.TIMEOUT, f"The content must go on within {seconds:g} seconds.")
        await self._turn()
        self._http.receive_data(data)

    def begin(self, status: int, reason: bytes, headers: Headers) -> None:
        self._status = status
        closing = [(b"Connection", b"close")] if self._draining else []
        self._held = [self._http.send(h11.Response(status_code=status, reason=reason, headers=[*headers, *closing])) or b""]

    def put(self, data: bytes) -> None:
        self._held.append(self._http.send(h11.Data(data=data)) or b"")

    async def flush(self) -> None:
        held, self._held = b"".join(self._held), []
        if held:
            await self._send(held)

    async def end(self) -> None:
        self._held.append(self._http.send(h11.EndOfMessage()) or b"")
        await self.flush()

    @contextlib.contextmanager
    def watched(self, gone: Callable[[], None]) -> Iterator[None]:
        loop, descriptor = asyncio.get_running_loop(), self._socket.fileno()

        def look() -> None:
            loop.remove_reader(descriptor)
            try:
                ended = not self._socket.recv(1, socket.MSG_PEEK)
            except OSError:
                ended = True
            if ended:
                gone()

        loop.add_reader(descriptor, look)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)

    async def switch(self) -> tuple[socket.socket, bytes]:
        self._status = 200
        await self._send(self._http.send(h11.Response(status_code=200, reason=b"Connection established", headers=[])))
        return self._socket, self._http.trailing_data[0]

    async def _send(self, data: bytes) -> None:
        await sockets.send_all(self._socket, data, self._limits.write_seconds)

    async def _linger(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        deadline = asyncio.get_running_loop().time() + LINGER_SECONDS
        while left > 0 and (data := await self._receive(deadline, idle=False)):
            left -= len(data)
            await self._turn()


def encode(http: h11.Connection, response: Response, *, last: bool, without_body: bool = False) -> bytes:
    """The bytes of `response`, `last` when none follows on the connection."""
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **response.headers,
        **({"Connection": "close"} if last else {}),
    }
    parts = [http.send(h11.Response(status_code=response.status, headers=list(headers.items())))]
    if response.body and not without_body:
        parts.append(http.send(h11.Data(data=response.body)))
    parts.append(http.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


def _response_to(problem: Problem) -> Response:
    return Response(problem.body(), PROBLEM_TYPE, problem.kind.status, problem.headers)


def encode_refusal(problem: Problem) -> bytes:
    """The bytes that refuse a connection before anything is read from it."""
    return encode(h11.Connection(h11.SERVER), _response_to(problem), last=True)


def _head(request: h11.Request, via: str) -> Head:
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers)
    return Head(request.method.decode("ascii"), request.target.decode("latin-1"), headers, via)

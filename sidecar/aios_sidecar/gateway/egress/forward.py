"""Plain HTTP: each request is judged, made anew from what was understood of it, and sent to the address that was checked.

What reaches the host is what h11 read and we wrote: no byte of the request's or the response's framing is passed on as it came.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from aios_sidecar.gateway import sockets
from aios_sidecar.gateway.egress.agent import AgentEgress
from aios_sidecar.gateway.egress.ended import Ended
from aios_sidecar.gateway.egress.passage import Passage
from aios_sidecar.gateway.egress.target import names_the_same, of_absolute
from aios_sidecar.gateway.egress.upstream import Upstream
from aios_sidecar.gateway.http import EVENTS_AT_ONCE, Client, Head, Relay
from aios_sidecar.gateway.parser import HEADER_LINES, h11, has_too_many_lines
from aios_sidecar.gateway.problems import Problem, ProblemKind

READ_BYTES: Final = 64 * 1024
INLINE_CONTENT_BYTES: Final = 64 * 1024
"""Content up to this goes up before the response is read; longer content and its response are under way at once."""
PATIENT_SECONDS: Final = 0.5
"""Whoever waits longer for a response is watched: a client that has gone away waits for none. Most responses come sooner."""
INFORMED_LIMIT: Final = 64
"""Informational responses (1xx) before the one to a request. A host that sends them without end holds nobody's connection for ever."""
STATUS_END: Final = 600
"""From here on nothing is a status (RFC 9110, 15): clients read such a response in different ways."""
VIA: Final = (b"Via", b"1.1 aios")
HOP_BY_HOP: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
FRAMING: Final = frozenset({b"host", b"content-length"})
"""Not hop by hop, whatever a Connection header says."""
REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class _WasClosed(Exception):
    """A connection that was kept from an earlier request turned out to be closed, and this request can be sent again."""


class Forward(Relay):
    """One plain request of one agent."""

    name = "forward"

    def __init__(self, egress: AgentEgress, head: Head) -> None:
        self._egress = egress
        self._head = head
        self._target = of_absolute(head.target, head.method)
        self._limits = egress.outside.limits
        self._content_bytes = 0
        self._clients_error: Exception | None = None
        self._sent_it_all = False

    async def relay(self, client: Client) -> None:
        with self._egress.passage(self._head.method, self._target) as passage:
            self._egress.judge("http", passage)
            self._check(self._head)
            while True:
                upstream, kept = await self._upstream(client, passage)
                try:
                    with upstream.used_by_this_task(passage):
                        await self._exchange(client, passage, upstream, kept)
                    break
                except _WasClosed:
                    upstream.close()
                except BaseException:
                    upstream.close()
                    raise
            passage.close(Ended.Done)

    def _check(self, head: Head) -> None:
        host = head.header("host")
        if host not in (None, self._target.host_header) and not names_the_same(host, self._target):
            raise Problem(ProblemKind.HOST_MISMATCH, f"The URL is for {self._target.authority}.")
        if head.header("upgrade") is not None:
            raise Problem(ProblemKind.UPGRADE_REFUSED, f"Upgrade was asked of {self._target.authority}.")

    async def _upstream(self, client: Client, passage: Passage) -> tuple[Upstream, bool]:
        """Where the request goes, and whether that is the connection of the request before."""
        kept = client.companion
        if isinstance(kept, Upstream):
            if kept.serves(self._target):
                passage.address = kept.address
                return kept, True
            kept.close()
        assert passage.decision is not None
        client.companion = upstream = await self._egress.open_upstream(passage, passage.decision)
        return upstream, False

    async def _exchange(self, client: Client, passage: Passage, upstream: Upstream, kept: bool) -> None:
        uploading: asyncio.Task[None] | None = None
        request = upstream.http.send(self._request()) or b""
        if self._is_short():
            await self._upload(client, passage, upstream, request, kept)
        else:
            uploading = asyncio.create_task(self._upload_beside(client, passage, upstream, request))
        try:
            await self._download(client, passage, upstream, kept)
        finally:
            if uploading is not None:
                uploading.cancel()
                await asyncio.wait((uploading,))
        await client.end()
        if (
            self._sent_it_all
            and (upstream.http.our_state, upstream.http.their_state) == (h11.DONE, h11.DONE)
            and not upstream.http.trailing_data[0]
        ):
            upstream.http.start_next_cycle()
        else:
            upstream.close()

    def _is_short(self) -> bool:
        length = self._head.header("content-length")
        return self._head.header("transfer-encoding") is None and (length is None or int(length) <= INLINE_CONTENT_BYTES)

    def _request(self) -> h11.Request:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self._head.headers if name not in ("host", "expect")]
        passed = [(b"Host", self._target.host_header.encode()), *_end_to_end(headers), VIA]
        if self._head.header("transfer-encoding") is not None:
            passed.append((b"Transfer-Encoding", b"chunked"))
        return h11.Request(method=self._head.method, target=self._target.path.encode("latin-1"), headers=passed)

    # Up: the request's content.

    async def _upload(self, client: Client, passage: Passage, upstream: Upstream, data: bytes, kept: bool) -> None:
        """The request has been sent to its end, `data` first. Content is passed on as it comes."""
        pieces, held = 0, [data]
        while True:
            piece = b"" if self._sent_it_all else client.take_content()  # of a request that is sent again nothing is left to take
            while piece:
                self._count(passage, len(piece))
                held.append(upstream.http.send(h11.Data(data=piece)) or b"")
                pieces += 1
                if pieces % EVENTS_AT_ONCE == 0:
                    await self._turn()
                piece = client.take_content()
            if piece is not None:
                held.append(upstream.http.send(h11.EndOfMessage()) or b"")
            try:
                await sockets.send_all(upstream.socket, b"".join(held), self._limits.response_seconds)
            except TimeoutError:
                raise Problem(ProblemKind.UPSTREAM_TIMEOUT, f"{self._target.authority} does not take the request.") from None
            except OSError as error:
                raise self._failure(kept, error) from error
            if piece is not None:
                self._sent_it_all = True
                return
            held.clear()
            await client.receive_content(self._limits.content_seconds)

    async def _upload_beside(self, client: Client, passage: Passage, upstream: Upstream, data: bytes) -> None:
        """As `_upload`, while the response is read already. What the client does wrong ends both."""
        try:
            await self._upload(client, passage, upstream, data, kept=False)
        except (Problem, h11.RemoteProtocolError, OSError) as error:
            if isinstance(error, Problem) and error.kind is ProblemKind.UPSTREAM_FAILED:
                return  # the host may have answered before it stopped reading
            self._clients_error = error
            with contextlib.suppress(OSError):
                upstream.socket.shutdown(socket.SHUT_RDWR)  # whoever waits for the response waits no more

    def _count(self, passage: Passage, count: int) -> None:
        self._content_bytes += count
        passage.traffic.up_bytes += count
        if self._content_bytes > self._limits.content_bytes:
            raise Problem(ProblemKind.CONTENT_TOO_LARGE, f"The content of a plain request may have {self._limits.content_bytes} bytes.")

    # Down: the response.

    async def _download(self, client: Client, passage: Passage, upstream: Upstream, kept: bool) -> None:
        """The response has been passed on, its end apart."""
        heard = False
        events = informed = 0
        while True:
            if upstream.http.their_state is h11.SEND_RESPONSE and has_too_many_lines(upstream.http.trailing_data[0]):
                raise Problem(ProblemKind.UPSTREAM_FAILED, f"{self._target.authority}: a response may begin with {HEADER_LINES} lines.")
            events += 1
            if events % EVENTS_AT_ONCE == 0:
                await self._turn()
            try:
                event = upstream.http.next_event()
            except h11.RemoteProtocolError as error:
                raise (self._failure(kept and not heard, error)) from error
            if isinstance(event, h11.EndOfMessage):
                return
            if isinstance(event, h11.Response):
                if event.status_code >= STATUS_END:
                    raise Problem(ProblemKind.UPSTREAM_FAILED, f"{self._target.authority} answered with a status that there is none of.")
                passage.status = event.status_code
                client.begin(event.status_code, event.reason, _end_to_end(_unambiguous(event, self._target.authority)))
            elif isinstance(event, h11.Data):
                passage.traffic.down_bytes += len(event.data)
                if passage.traffic.down_bytes > self._limits.response_bytes:
                    raise Problem(ProblemKind.UPSTREAM_FAILED, f"A response may have {self._limits.response_bytes} bytes.")
                client.put(bytes(event.data))
            elif event is h11.NEED_DATA:
                await client.flush()
                data = await self._receive(client, upstream, kept and not heard)
                heard = heard or bool(data)
                upstream.http.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                informed += 1
                if informed > INFORMED_LIMIT:
                    raise Problem(ProblemKind.UPSTREAM_FAILED, f"{self._target.authority} informs without end.")
            else:
                raise self._failure(kept and not heard, None)

    async def _receive(self, client: Client, upstream: Upstream, may_repeat: bool) -> bytes:
        now = asyncio.get_running_loop().time()
        deadline = now + self._limits.response_seconds
        try:
            data = await sockets.receive(upstream.socket, READ_BYTES, min(deadline, now + PATIENT_SECONDS))
            if data is None and self._sent_it_all:
                with client.watched(lambda: upstream.cut(Ended.ClientGone)):
                    data = await sockets.receive(upstream.socket, READ_BYTES, deadline)
            elif data is None:
                data = await sockets.receive(upstream.socket, READ_BYTES, deadline)
        except OSError as error:
            raise self._failure(may_repeat, error) from error
        if data is None:
            raise Problem(ProblemKind.UPSTREAM_TIMEOUT, f"{self._target.authority} is silent.")
        await self._turn()
        return data

    async def _turn(self) -> None:
        await self._egress.outside.turns(self._egress)

    def _failure(self, may_repeat: bool, error: Exception | None) -> Exception:
        if self._clients_error is not None:
            return self._clients_error
        if may_repeat and self._head.method in REPEATABLE and not self._content_bytes:
            return _WasClosed()
        return Problem(ProblemKind.UPSTREAM_FAILED, f"{self._target.authority}: {error or 'no response'}.")


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without what is meant for one hop alone: the known ones, and those that Connection names."""
    given = list(headers)
    named = {token.strip().lower() for name, value in given if name.lower() == b"connection" for token in value.split(b",")}
    dropped = HOP_BY_HOP | (named - FRAMING)
    return [(name, value) for name, value in given if name.lower() not in dropped]


def _unambiguous(response: h11.Response, authority: str) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in response.headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        raise Problem(ProblemKind.UPSTREAM_FAILED, f"{authority} gave its response two lengths.")
    given = response.headers.raw_items()
    if response.status_code == HTTPStatus.NO_CONTENT:  # it has no length (RFC 9110, 8.6), and an old client would wait for one
        return [(name, value) for name, value in given if name.lower() != b"content-length"]
    return given

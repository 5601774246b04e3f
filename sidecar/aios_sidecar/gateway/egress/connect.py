"""CONNECT: one verdict for a tunnel, and the server name in it must be the host that was judged."""

import asyncio
import contextlib
import socket
from typing import Final

from aios_api.egress import Decision
from aios_sidecar.gateway.egress.agent import AgentEgress
from aios_sidecar.gateway.egress.hello import HelloReader, NotTLS
from aios_sidecar.gateway.egress.passage import Passage
from aios_sidecar.gateway.egress.target import LOOPBACK_HOST, Target, names_the_same, of_connect
from aios_sidecar.gateway.egress.tunnel import Tunnel
from aios_sidecar.gateway.egress.upstream import Upstream
from aios_sidecar.gateway.http import Client, Head, Relay
from aios_sidecar.gateway.problems import Problem, ProblemKind

READ_BYTES: Final = 16 * 1024


class ServerNameDenied(Exception):
    """The tunnel's first bytes are not what the verdict was about."""


class Connect(Relay):
    """One CONNECT of one agent."""

    name = "connect"

    def __init__(self, egress: AgentEgress, head: Head) -> None:
        self._egress = egress
        self._target = of_connect(head.target)
        if head.header("content-length") not in (None, "0") or head.header("transfer-encoding") is not None:
            raise Problem(ProblemKind.MALFORMED, "CONNECT has no content.")
        self._same_host = _agrees(head.header("host"), self._target)

    async def relay(self, client: Client) -> None:
        if client.companion is not None:
            client.companion.close()  # of plain requests before; nothing can follow a tunnel
        with self._egress.passage("CONNECT", self._target) as passage:
            decision = self._egress.judge("https", passage)
            if not self._same_host:
                raise Problem(ProblemKind.HOST_MISMATCH, f"CONNECT asks for {self._target.authority}.")
            upstream = await self._egress.open_upstream(passage, decision)
            with contextlib.closing(upstream), upstream.used_by_this_task(passage):
                await self._carry(client, passage, upstream)

    async def _carry(self, client: Client, passage: Passage, upstream: Upstream) -> None:
        connection, first = await client.switch()
        limits = self._egress.outside.limits
        if upstream.decision.scheme == "https":
            reader = HelloReader(limits.hello_bytes)
            try:
                async with asyncio.timeout(limits.hello_seconds):
                    await self._read_hello(reader, connection, first)
                _must_be_for(upstream.decision, reader)
            except (ServerNameDenied, NotTLS):
                passage.close(ProblemKind.SERVER_NAME_DENIED.value)
                with contextlib.suppress(OSError):
                    connection.send(reader.refusal())
                return
            first = bytes(reader.received)
        tunnel = Tunnel(
            connection,
            upstream.socket,
            turns=self._egress.outside.turns,
            who=self._egress,
            room=self._egress.room,
            traffic=passage.traffic,
            idle_seconds=limits.tunnel_idle_seconds,
            longest_seconds=limits.tunnel_seconds,
        )
        passage.close(await tunnel.run(first))

    async def _read_hello(self, reader: HelloReader, connection: socket.socket, first: bytes) -> None:
        data = first
        while not (data and reader.feed(data)):
            data = await asyncio.get_running_loop().sock_recv(connection, READ_BYTES)
            if not data:
                raise ConnectionResetError("the client ended the tunnel before its ClientHello")
            await self._egress.outside.turns(self._egress)


def _must_be_for(decision: Decision, hello: HelloReader) -> None:
    """The server name is the judged host; none is needed where an address was judged, and can be given there by no client."""
    expected = None if decision.address is not None else decision.host
    given = hello.server_name.removesuffix(".") if hello.server_name is not None else None
    if given != expected:
        raise ServerNameDenied


def _agrees(host: str | None, target: Target) -> bool:
    """Some clients send none, some the proxy's own (undici before 6). It decides nothing and goes nowhere; another one hides something."""
    return host is None or LOOPBACK_HOST.fullmatch(host) is not None or names_the_same(host, target, default_port=target.port)

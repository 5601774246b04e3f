"""Requests that ask once more whether they may be sent, when they have their connection and their first byte is about to go.

Between a caller's own look and that moment lies the wait for a connection: a process that is suspended meanwhile wakes with a request that
it had confirmed, and that may no longer be sent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from aiohttp import ClientRequest, ClientResponse
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection

CONFIRM: Final[ContextVar[Callable[[], None] | None]] = ContextVar("confirm", default=None)
"""Asked for each request that is made in this context; what it raises ends the request, and nothing of it was sent."""


class ConfirmedRequest(ClientRequest):
    """What a session sends, where it is given as its `request_class`."""

    async def send(self, conn: Connection) -> ClientResponse:
        self._ask()
        return await super().send(conn)

    async def write_bytes(self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None) -> None:
        """The head waits for the body, and the body for a turn of the loop."""
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001  whoever waits for the answer is told, whatever it is
            if conn.protocol is not None:
                conn.protocol.set_exception(error)
            return
        await super().write_bytes(writer, conn, content_length)

    @staticmethod
    def _ask() -> None:
        if (confirm := CONFIRM.get()) is not None:
            confirm()

"""The server name in a TLS ClientHello, read by OpenSSL, which is what most servers read it with.

A server context meets the client's first bytes in memory, calls back with the name, and is told to go no further: no key is needed, nothing
is answered. The name of an Encrypted ClientHello is the outer one, since the inner one can be read by the server alone.
"""

import ssl
from typing import Final

FIRST_RECORD_BYTE: Final = 0x16


class NotTLS(Exception):
    """The bytes are not the beginning of a TLS connection (1.2 or newer) whose server name can be read."""


class _Hello(ssl.SSLObject):
    seen = False
    name: str | None = None


def _remember(hello: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int:
    assert isinstance(hello, _Hello)
    hello.seen, hello.name = True, name
    return ssl.ALERT_DESCRIPTION_ACCESS_DENIED


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Hello
    context.sni_callback = _remember
    return context


_CONTEXT: Final = _context()


class HelloReader:
    """Fed with what the client sends, in pieces of any size, until the ClientHello is complete."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _CONTEXT.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.received = bytearray()
        """Everything fed so far: what the server must get unchanged."""
        self.server_name: str | None = None
        """In lower case; None when the client names none. Known once `feed` was True."""

    def feed(self, data: bytes) -> bool:
        """True when the ClientHello is complete. Raises NotTLS."""
        if not self.received and data and data[0] != FIRST_RECORD_BYTE:
            raise NotTLS("the first bytes are no TLS handshake")
        self.received += data
        if len(self.received) > self._limit_bytes:
            raise NotTLS(f"the ClientHello is longer than {self._limit_bytes} bytes")
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            hello = self._tls
            if not isinstance(hello, _Hello) or not hello.seen:
                raise NotTLS(f"the ClientHello can't be read: {error.reason or 'malformed'}") from None
            self.server_name = hello.name.lower() if hello.name is not None else None
            return True
        raise NotTLS("the handshake went on without a name")

    def refusal(self) -> bytes:
        """The TLS alert (access_denied) that tells the client, in its own protocol, that it is refused. May be empty."""
        return self._outgoing.read()

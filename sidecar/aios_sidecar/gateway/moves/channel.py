"""A channel between the gateways of two nodes: TLS 1.3, each end with exactly the certificate that the other one expects.

A request is one message, and the answer one message and the bytes that it announces. Blocking, for threads.
"""

import base64
import contextlib
import hashlib
import json
import os
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MESSAGE_BYTES: Final = 8 * 1024
PIECE_BYTES: Final = 1 << 20
SECONDS: Final = 30.0
"""Without a byte. A source may copy a large context before it answers; the copy of a GiB takes some seconds."""
_LENGTH: Final = struct.Struct("!I")
_ALWAYS: Final = timedelta(days=3650)
"""A key lives as long as its gateway. The time is there since a certificate must have one."""


class Unreachable(Exception):
    """The other end can't be talked to now: nobody is there, or it is not who it must be."""


class Identity:
    """A key and its certificate, made now. The key is in this program's memory and nowhere else."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        point = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        # A name of its own: of several trusted certificates the right one is found by it.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hashlib.sha256(point).hexdigest())])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _ALWAYS)  # the clocks of two nodes may differ
            .not_valid_after(now + _ALWAYS)
            .sign(key, hashes.SHA256())
        )
        self._pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + made.public_bytes(serialization.Encoding.PEM)
        self.certificate = base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()
        """As orders have it."""

    def as_server(self, trusted: Iterable[str]) -> ssl.SSLContext:
        """For who accepts: the other end must have one of these certificates."""
        return self._context(ssl.PROTOCOL_TLS_SERVER, trusted)

    def as_client(self, trusted: str) -> ssl.SSLContext:
        """For who connects: the other end must have this certificate."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT, [trusted])

    def _context(self, protocol: int, trusted: Iterable[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # who is there is known by the certificate, which is no other's
        context.verify_mode = ssl.CERT_REQUIRED
        with _in_memory(self._pem) as path:
            context.load_cert_chain(path)
        for each in trusted:
            context.load_verify_locations(cadata=base64.b64decode(each))
        return context


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    """A path from which `content` can be read, by this program alone, until the end."""
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Channel:
    """One end, once both know each other. Every error but a refusal of ours is Unreachable."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        connection.settimeout(SECONDS)

    @property
    def peer(self) -> str:
        """The certificate of the other end."""
        return base64.b64encode(self._connection.getpeercert(binary_form=True) or b"").decode()

    def send(self, message: dict[str, Any]) -> None:
        packet = json.dumps(message).encode()
        if len(packet) > MESSAGE_BYTES:
            raise ValueError(f"a message of {len(packet)} bytes: at most {MESSAGE_BYTES} fit")
        with _errors():
            self._connection.sendall(_LENGTH.pack(len(packet)) + packet)

    def send_bytes(self, piece: bytes) -> None:
        with _errors():
            self._connection.sendall(piece)

    def receive(self) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > MESSAGE_BYTES:
            raise Unreachable(f"the other end sends a message of {length} bytes: at most {MESSAGE_BYTES} are allowed")
        try:
            message = json.loads(self._exactly(length))
        except ValueError:
            raise Unreachable("the other end sends what is no message") from None
        if not isinstance(message, dict):
            raise Unreachable("the other end sends what is no message")
        return message

    def receive_bytes(self, size: int) -> Iterator[bytes]:
        """So many bytes, in pieces. The other end can send no more than it has announced."""
        while size:
            piece = self._some(min(size, PIECE_BYTES))
            size -= len(piece)
            yield piece

    def close(self) -> None:
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        return b"".join(self.receive_bytes(size))

    def _some(self, most: int) -> bytes:
        with _errors():
            piece = self._connection.recv(most)
        if not piece:
            raise Unreachable("the other end closed the connection")
        return piece


def dial(address: str, certificate: str, identity: Identity) -> Channel:
    """A channel to the gateway at `address` (host:port), which has this certificate. Raises Unreachable."""
    host, _, port = address.rpartition(":")
    with _errors(), contextlib.ExitStack() as undo:
        raw = socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS)
        undo.callback(raw.close)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        channel = Channel(identity.as_client(certificate).wrap_socket(raw))
        undo.pop_all()
    if channel.peer != certificate:
        channel.close()
        raise Unreachable("the other end has not the certificate that the order names")
    return channel


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise Unreachable(f"the other end is not who it must be, or does not know us: {error.reason or error}") from error
    except (OSError, ValueError) as error:
        raise Unreachable(str(error) or type(error).__name__) from error

"""The world outside of an agent's pod, under the test's control: names, servers on loopback, a certificate authority of their own."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aios_api.addresses import Address, Internal
from aios_api.egress import EgressPolicy, PolicyBinding, PolicyRule
from aios_sidecar.gateway.egress.agent import Outside
from aios_sidecar.gateway.egress.audit import Fields
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.problems import Problem, ProblemKind
from aios_sidecar.gateway.settings import EgressLimits
from aios_sidecar.gateway.turns import Turns

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Names:
    """A resolver that answers as it is told, and remembers who was asked for."""

    known: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    wait: asyncio.Event | None = None

    async def resolve(self, host: str, who: Hashable) -> tuple[Address, ...]:
        self.asked.append(host)
        if self.wait is not None:
            await self.wait.wait()
        if host not in self.known:
            raise Problem(ProblemKind.NAME_NOT_RESOLVED, f"{host} has no address.")
        return tuple(ipaddress.ip_address(each) for each in self.known[host])


@dataclass
class Notes:
    """An audit that can be read."""

    lines: list[Fields] = field(default_factory=list)

    def note(self, fields: Fields) -> None:
        self.lines.append(json.loads(json.dumps(fields)))

    async def close(self) -> None: ...


def an_outside(metrics: Metrics, *, names: Names | None = None, audit: Notes | None = None, limits: EgressLimits | None = None) -> Outside:
    return Outside(names or Names(), limits or EgressLimits(), Turns(), audit or Notes(), metrics.egress, Internal())


def a_policy(*rules: str, audit: bool = False, generation: int = 1) -> EgressPolicy:
    """Rules as `https://*.example.com:443` or `tcp://10.0.0.0/8:5432`, by the binding `b`."""
    made = []
    for number, rule in enumerate(rules):
        scheme, _, rest = rule.partition("://")
        where, _, port = rest.rpartition(":")
        kind = "cidr" if where[0].isdigit() or ":" in where else "host"
        made.append(
            PolicyRule.model_validate(
                {"binding": "b", "generation": generation, "rule": f"r{number}", kind: where, "ports": (int(port),), "scheme": scheme}
            )
        )
    return EgressPolicy.of([PolicyBinding(name="b", generation=generation, mode="Audit" if audit else "Enforce")], made)


NOTHING = EgressPolicy.of([], [])


@contextlib.asynccontextmanager
async def a_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port on loopback at which `handler` serves each connection."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await handler(reader, writer)
        finally:
            serving.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@dataclass
class Recorder:
    """An HTTP server that keeps what it was sent, byte by byte, and answers each head with `answer`."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    received: bytes = b""
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        pending = b""
        while data := await reader.read(65536):
            self.received += data
            pending += data
            while b"\r\n\r\n" in pending:
                head, _, pending = pending.partition(b"\r\n\r\n")
                length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
                while len(pending) < length:
                    more = await reader.read(65536)
                    self.received += more
                    pending += more
                pending = pending[length:]
                writer.write(self.answer)
                await writer.drain()
                if b"Connection: close" in self.answer:
                    return


async def the_rest(reader: asyncio.StreamReader) -> bytes:
    """What is read until the other side ends the connection, in order or with a reset."""
    taken = b""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            taken += data
    return taken


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Gives back what it is sent."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


class Authority:
    """A certificate authority that nobody trusts but the test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.path = directory / "ca.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str) -> ssl.SSLContext:
        """A context for a server that proves to be `names`."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), key, alternatives)
        path = self._directory / f"{names[0]}.pem"
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.path))

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(hours=1),
        )
        return builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints)).sign(self._key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def get(url: str, *headers: str, host: str | None = None, method: str = "GET") -> bytes:
    """A request without content, as clients send it to a proxy."""
    host = host if host is not None else url.split("/")[2]
    return "\r\n".join([f"{method} {url} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def problem(response: bytes) -> Mapping[str, object]:
    """The refusal in a response."""
    return json.loads(response.partition(b"\r\n\r\n")[2])

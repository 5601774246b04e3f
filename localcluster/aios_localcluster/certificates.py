"""The cluster's own certificate authorities, and what they sign: every component has a certificate, and none has a token."""

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_FOR = datetime.timedelta(days=365)
"""Leaf certificates are signed anew at each start, so a year is enough for any cluster."""
AUTHORITY_VALID_FOR = datetime.timedelta(days=3650)
CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> None:
        """Write `<name>.crt` and `<name>.key`; the key is readable by its owner only."""
        write_private(folder / f"{name}.crt", self.certificate)
        write_private(folder / f"{name}.key", self.key)


def write_private(path: Path, content: bytes) -> None:
    """Write `content` so that only the owner can ever read it, and nobody reads half of it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    scratch.replace(path)


def new_key() -> bytes:
    """A private key (ECDSA, P-256) in PEM, in the form that the API server also reads as a key of service accounts."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("a key of the cluster's certificates must be an elliptic-curve key")
    return key


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
    )


def new_authority(common_name: str, now: datetime.datetime) -> Pair:
    """A self-signed authority."""
    pem = new_key()
    key = _key(pem)
    name = _name(common_name)
    certificate = (
        _builder(name, name, key, now)
        .not_valid_after(now + AUTHORITY_VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pem)


def issue(
    authority: Pair,
    now: datetime.datetime,
    common_name: str,
    groups: Sequence[str] = (),
    *,
    names: Sequence[str] = (),
    addresses: Sequence[IPv4Address] = (),
) -> Pair:
    """A certificate for a client, and also for a server when it has names or addresses. Kubernetes reads user and groups from it."""
    authority_key, pem = _key(authority.key), new_key()
    key = _key(pem)
    signed_by = x509.load_pem_x509_certificate(authority.certificate)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(_name(common_name, groups), signed_by.subject, key, now).not_valid_after(now + VALID_FOR)
    if names or addresses:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        alternatives = [*(x509.DNSName(name) for name in names), *(x509.IPAddress(address) for address in addresses)]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pem)


def load_or_make_authority(folder: Path, name: str, now: datetime.datetime) -> Pair:
    """The authority `name` of `folder`, made first where there is none: it outlives restarts of the cluster, as its clients' trust does."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    if certificate.exists() and key.exists():
        return Pair(certificate.read_bytes(), key.read_bytes())
    pair = new_authority(f"kubeaios-local {name}", now)
    pair.write(folder, name)
    return pair

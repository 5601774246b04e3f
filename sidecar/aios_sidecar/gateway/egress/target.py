"""Where a proxied request wants to go: the authority of CONNECT or an absolute target, in one canonical form, or a refusal."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aios_api.addresses import parse_address
from aios_sidecar.gateway.problems import Problem, ProblemKind

ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
HTTP_PORT: Final = 80
AUTHORITY_LIMIT: Final = 300
"""A host name has 253 characters at most."""
LOOPBACK_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
"""The gateway's own endpoint, as a Host names it."""
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,254}")
"""What may stand for a name. Whether it is one that can be allowed is the policy's to say."""


@dataclass(frozen=True, slots=True)
class Target:
    """A host, as a name in lower case without a dot at its end or as an address without brackets, and a port."""

    host: str
    port: int
    path: str = ""
    """Of an absolute target: what the origin server is asked for."""

    @property
    def authority(self) -> str:
        """For people and for the audit: host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The Host that the origin server expects of an http request."""
        return self.authority.removesuffix(f":{HTTP_PORT}") if self.port == HTTP_PORT else self.authority


def of_connect(authority: str) -> Target:
    """The target of CONNECT. Raises Problem unless it is a host and a port."""
    return _target(authority, None)


def of_absolute(target: str, method: str) -> Target:
    """The target of an absolute `http` URL. Raises Problem for anything else."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() != "http":
        raise Problem(ProblemKind.EGRESS_DENIED, f"Only http URLs are forwarded; for {scheme[:20]} the client must use CONNECT.")
    if "#" in rest:
        raise _malformed("a URL on the wire has no fragment")
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    if not path:
        path = "*" if method == "OPTIONS" else "/"
    elif path.startswith("?"):
        path = f"/{path}"
    return _target(authority, HTTP_PORT, path)


def written_host(target: str) -> str:
    """What stands for the host in a target that could not be read, for people: bounded, without what may be a password."""
    authority = re.split(r"[/?#]", target.partition("://")[2] or target, maxsplit=1)[0]
    return authority.rpartition("@")[2][:AUTHORITY_LIMIT]


def names_the_same(host_header: str, target: Target, default_port: int = HTTP_PORT) -> bool:
    """Whether a request's Host is the target's own: otherwise one host would be judged and another be asked."""
    try:
        host = _target(host_header, default_port)
    except Problem:
        return False
    return (host.host, host.port) == (target.host, target.port)


def _target(authority: str, default_port: int | None, path: str = "") -> Target:
    if len(authority) > AUTHORITY_LIMIT:
        raise _malformed(f"HOST:PORT has at most {AUTHORITY_LIMIT} characters")
    host, port = _endpoint(authority, default_port)
    return Target(host, port, path)


@lru_cache(maxsize=4096)
def _endpoint(authority: str, default_port: int | None) -> tuple[str, int]:
    """Host and port in their one form. Kept, since agents ask the same few again and again."""
    host, port = _split(authority, default_port)
    if host.startswith("["):
        address = parse_address(host[1:-1])
        if address is None or ":" not in host:
            raise _malformed(f"{host[:80]!r} is not an IPv6 address")
        return str(address), port
    if not _HOST.fullmatch(host) or host.endswith(".."):
        raise _malformed(f"{host[:80]!r} is neither a host name nor an address")
    return host.lower().removesuffix("."), port


def _split(authority: str, default_port: int | None) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\[\]@]*\]|[^\[\]@:]*)(?::([0-9]{1,5}))?", authority)
    if match is None or (match[2] is None and default_port is None):
        raise _malformed(f"{authority[:80]!r} is not HOST:PORT")
    port = default_port if match[2] is None else int(match[2])
    if port is None or not 0 < port < 65536:
        raise _malformed("a port is from 1 to 65535")
    return match[1], port


def _malformed(what: str) -> Problem:
    return Problem(ProblemKind.MALFORMED, f"The target is wrong: {what}.")

"""Whether a fence holds, tried from inside: a few packets in each direction that an agent could think of, and what became of each.

Three things are looked at. What the kernel says to who sends: a connection that is refused at once, a datagram that may not be sent. What
passed the fence all the same: each packet carries a mark of its own, and behind the fence a trap counts what arrives there and drops it,
so that a probe never reaches anybody, also where the fence has a hole. And what neither says: silence proves nothing, so it is told as
unclear. A refusal alone would be no proof: a host that is reached may refuse as well; but its packet was counted.

What passes below nftables is not seen here. Packet sockets do; they need NET_RAW, which no container of an agent's pod has.
"""

import errno
import ipaddress
import json
import select
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from aios_api.names import AGENT_PORT
from aios_sidecar.node.fence import FenceFailed, nft
from aios_sidecar.node.netns import NetworkNamespace, inside

Transport = Literal["tcp", "udp", "icmp"]

TABLE = "aiosprobe"
MARK_BASE = 0x0A105000
"""Of the first way; the next one has the next number. Nothing else in an agent's namespace marks packets: that needs NET_ADMIN."""
ANSWER_SECONDS = 1.0
"""How long an answer is waited for. Where the fence holds every answer is there within a millisecond."""
WAYS_LIMIT = 64
ADDRESSES_LIMIT = 4
"""Of each kind (the node's addresses, resolvers): the first ones stand for the others."""

DOCUMENTATION = ("192.0.2.1", "2001:db8::1")
"""Ranges that belong to nobody (RFC 5737, RFC 3849)."""
MAPPED = "::ffff:192.0.2.1"
METADATA = ("169.254.169.254", "fd00:ec2::254")
NODE_LOCAL_RESOLVER = "169.254.20.10"
MULTICAST_RESOLVER = "224.0.0.251"
KUBELET_PORT, HTTPS_PORT, HTTP_PORT, DNS_PORT, MULTICAST_DNS_PORT, DISCARD_PORT = 10250, 443, 80, 53, 5353, 9

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETDOWN})
_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ECONNREFUSED})


@dataclass(frozen=True, slots=True)
class Way:
    """One way out that is tried."""

    to: str
    """Whose address it is, in a word."""
    transport: Transport
    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.to} {self.transport} {host}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there is around the pods of a node."""

    node: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    api: tuple[tuple[str, int], ...] = ()


class Outcome(Enum):
    """What became of one try."""

    HELD = "held"
    LEAKED = "leaked"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe has found."""

    tried: tuple[str, ...]
    leaked: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()


class ProbeFailed(Exception):
    """The fence could not be tried at all; the message says why."""


def ways(own: Iterable[str], around: Surroundings) -> tuple[Way, ...]:
    """What is tried in a pod with these addresses of its own."""
    found = [
        *(Way("elsewhere", "tcp", address, HTTPS_PORT) for address in (*DOCUMENTATION, MAPPED)),
        *(Way("elsewhere", "udp", address, port) for address in DOCUMENTATION for port in (DISCARD_PORT, HTTPS_PORT)),
        *(Way("elsewhere", "icmp", address, 0) for address in DOCUMENTATION),
        *(Way("metadata", "tcp", address, HTTP_PORT) for address in METADATA),
        Way("multicast", "udp", MULTICAST_RESOLVER, MULTICAST_DNS_PORT),
        *(Way("apiserver", "tcp", address, port) for address, port in around.api if _is_address(address)),
    ]
    for address in dict.fromkeys((NODE_LOCAL_RESOLVER, *_others(around.resolvers))):
        found += [Way("resolver", "udp", address, DNS_PORT), Way("resolver", "tcp", address, DNS_PORT)]
    for address in _others(around.node):
        found += [
            Way("kubelet", "tcp", address, KUBELET_PORT),
            Way("node", "tcp", address, HTTP_PORT),
            Way("node", "udp", address, DNS_PORT),
        ]
    for address in own:
        found += [Way("pod", "tcp", neighbour(address), port) for port in (HTTP_PORT, AGENT_PORT)]
    return tuple(dict.fromkeys(found))[:WAYS_LIMIT]


def _others(addresses: Sequence[str]) -> list[str]:
    """Those that lead out of a pod: its own loopback is no way out."""
    known = [address for address in dict.fromkeys(addresses) if _is_address(address)]
    return [address for address in known if not ipaddress.ip_address(address).is_loopback][:ADDRESSES_LIMIT]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def neighbour(address: str) -> str:
    """The address beside it, which belongs to another pod if to any."""
    number = ipaddress.ip_address(address)
    return str(type(number)(int(number) ^ 1))


def resolvers_in(text: str) -> tuple[str, ...]:
    """The name servers that a resolv.conf names."""
    lines = (line.split() for line in text.splitlines())
    return tuple(words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")


def probe(namespace: NetworkNamespace, around: Surroundings) -> Found:
    """Try every way, all at once, in about a second at most. Raises ProbeFailed."""
    tried = ways(inside(namespace, _own_addresses), around)
    try:
        _set_trap(namespace, len(tried))
        try:
            outcomes = inside(namespace, lambda: _attempt(tried))
            passed = _trapped(namespace)
        finally:
            nft(namespace, ["delete", "table", "inet", TABLE])
    except (FenceFailed, OSError) as error:
        raise ProbeFailed(f"the fence could not be tried: {error}") from error
    outcomes = [Outcome.LEAKED if MARK_BASE + number in passed else outcome for number, outcome in enumerate(outcomes)]
    told = {of: tuple(str(way) for way, outcome in zip(tried, outcomes, strict=True) if outcome is of) for of in Outcome}
    return Found(tuple(map(str, tried)), told[Outcome.LEAKED], told[Outcome.UNCLEAR])


# --- inside the namespace ---


def _own_addresses() -> list[str]:
    """The addresses with which the pod speaks. A datagram socket that is connected sends nothing; its address is chosen all the same."""
    found = []
    for address in DOCUMENTATION:
        with socket.socket(_family(address), socket.SOCK_DGRAM) as chosen:
            if chosen.connect_ex((address, DISCARD_PORT)) == 0:
                found.append(str(chosen.getsockname()[0]))
    return found


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _attempt(tried: Sequence[Way]) -> list[Outcome]:
    outcomes: list[Outcome | None] = []
    waiting: dict[int, tuple[int, socket.socket]] = {}
    sockets: list[socket.socket] = []
    answers = select.poll()
    try:
        for number, way in enumerate(tried):
            try:
                one = _socket(way, MARK_BASE + number)
            except OSError as error:
                outcomes.append(_judge(error.errno))
                continue
            sockets.append(one)
            code = _begin(one, way)
            if code == errno.EINPROGRESS:
                waiting[one.fileno()] = (number, one)
                answers.register(one, select.POLLOUT)
            outcomes.append(None if code == errno.EINPROGRESS else _judge(code))
        until = time.monotonic() + ANSWER_SECONDS
        while waiting and (left := until - time.monotonic()) > 0:
            for descriptor, _ in answers.poll(left * 1000):
                number, one = waiting.pop(descriptor)
                answers.unregister(descriptor)
                code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                outcomes[number] = Outcome.LEAKED if code == 0 else _judge(code)
    finally:
        for one in sockets:
            one.close()
    return [outcome or Outcome.UNCLEAR for outcome in outcomes]


def _socket(way: Way, mark: int) -> socket.socket:
    family = _family(way.address)
    if way.transport == "icmp":
        protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        one = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    else:
        kind = socket.SOCK_STREAM if way.transport == "tcp" else socket.SOCK_DGRAM
        one = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    return one


_ECHO_REQUEST = {socket.AF_INET: bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0)), socket.AF_INET6: bytes((128, 0, 0, 0, 0, 0, 0, 0))}
"""The kernel writes the checksum of the second."""


def _begin(one: socket.socket, way: Way) -> int:
    """Send the first packet. The code of the error; 0 when a datagram was sent or a connection stands."""
    code = one.connect_ex((way.address, way.port))
    if code != 0 or way.transport == "tcp":
        return code or errno.EISCONN
    try:
        one.send(_ECHO_REQUEST[_family(way.address)] if way.transport == "icmp" else b"aios")
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _judge(code: int | None) -> Outcome:
    if code == errno.EISCONN:
        return Outcome.LEAKED
    return Outcome.HELD if code in _REFUSED or code in _NO_ROUTE else Outcome.UNCLEAR


# --- the trap behind the fence ---


def _set_trap(namespace: NetworkNamespace, number: int) -> None:
    """What carries one of our marks and is about to leave the pod is counted and dropped."""
    table: dict[str, Any] = {"family": "inet", "name": TABLE}
    chain = {"family": "inet", "table": TABLE, "name": "trap", "type": "filter", "hook": "postrouting", "prio": 300, "policy": "accept"}
    leaves = {"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": "lo"}}
    rules = [
        {
            "family": "inet",
            "table": TABLE,
            "chain": "trap",
            "expr": [
                {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": MARK_BASE + each}},
                leaves,
                {"counter": None},
                {"drop": None},
            ],
        }
        for each in range(number)
    ]
    commands = [{"add": {"table": table}}, {"delete": {"table": table}}, {"add": {"table": table}}, {"add": {"chain": chain}}]
    commands += [{"add": {"rule": rule}} for rule in rules]
    done = nft(namespace, ["-j", "-f", "-"], json.dumps({"nftables": commands}).encode())
    if done.returncode != 0:
        raise ProbeFailed(f"nft could not set the trap behind the fence: {done.stderr.decode(errors='replace').strip()[:300]}")


def _trapped(namespace: NetworkNamespace) -> set[int]:
    """The marks of which packets have come as far as the trap."""
    done = nft(namespace, ["-j", "list", "table", "inet", TABLE])
    try:
        rules = [item["rule"]["expr"] for item in json.loads(done.stdout)["nftables"] if "rule" in item]
        return {rule[0]["match"]["right"] for rule in rules if rule[2]["counter"]["packets"] > 0}
    except (ValueError, KeyError, TypeError, IndexError):
        raise ProbeFailed(f"the trap behind the fence could not be read: {done.stdout[:200]!r}") from None

"""Addresses as egress judges them: one spelling for each, and the ranges that are inside a cluster, a node or a network.

Nothing here resolves a name. What is internal is reached only where a ToolBinding names it by a range that lies within the internal one:
`0.0.0.0/0` names the public internet and nothing inside.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*several: str) -> tuple[Network, ...]:
    return tuple(ip_network(each) for each in several)


UNREACHABLE: Final = _networks("0.0.0.0/8", "224.0.0.0/3", "::/96", "ff00::/8")
"""Not an address of one other host: unspecified, multicast, reserved, broadcast, and IPv4 written as IPv6 in the way that was given up.
`::1` lies in it and is loopback all the same. No range can name these, except `::1/128`."""

_LOOPBACK_6: Final = IPv6Address("::1")

_INTERNAL: Final = _networks(
    # loopback, private, carrier-grade NAT, link-local, protocol assignments, benchmarks
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24", "198.18.0.0/15"),
    # the same in IPv6: loopback, unique local, link-local, site-local, discard, NAT64 and segment routing of the network's own
    *("::1/128", "fc00::/7", "fe80::/10", "fec0::/10", "100::/64", "64:ff9b:1::/48", "5f00::/16"),
    # where clouds tell a machine its credentials: AWS and most others, AWS containers, what AWS has in IPv6, GCP in IPv6, Alibaba,
    # Oracle, Azure, Scaleway in both, Tencent
    *("169.254.169.254/32", "169.254.170.0/24", "fd00:ec2::/32", "fd20:ce::254/128", "100.100.100.200/32", "192.0.0.192/32"),
    *("168.63.129.16/32", "169.254.42.42/32", "fd00:42::42/128", "169.254.0.23/32"),
)
_TRANSLATED: Final = _networks("64:ff9b::/96", "::ffff:0:0:0/96")
"""IPv6 whose last 32 bits are the IPv4 address that a translator on the way speaks to (RFC 6052, RFC 2765)."""
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)
"""The upper half of an interface identifier whose lower half is an IPv4 address (RFC 5214)."""


def parse_address(text: str) -> Address | None:
    """The address that `text` is, an IPv4-mapped one as IPv4, which is what the kernel dials. None when it is not exactly an address:
    with a zone, in brackets, or in the short, octal or hexadecimal forms that resolvers take (`127.1`, `0x7f.1`, `2130706433`)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    if address.scope_id is not None:
        return None
    return address.ipv4_mapped or address


def parse_network(text: str) -> Network | None:
    """The range, or the single address as a range of one. None when it is neither, has bits beside its prefix, or is IPv4 in IPv6."""
    try:
        network = ip_network(text)
    except ValueError:
        return None
    first = network.network_address
    return None if isinstance(first, IPv6Address) and (first.scope_id is not None or first.ipv4_mapped is not None) else network


def can_be_reached(network: Network) -> bool:
    """Not a range of which no address is a host."""
    return not any(_inside(network, each) for each in UNREACHABLE) or network == ip_network(_LOOPBACK_6)


def own_ranges(networks: Iterable[Network], limit: int) -> tuple[Network, ...]:
    """Those of a cluster that would count as public, as few as there can be. Of more than `limit` neighbours are taken together, though
    that takes more than was given."""
    found = {each for each in networks if can_be_reached(each) and not any(_inside(each, inside) for inside in _INTERNAL)}
    fewest = _collapsed(found)
    while len(fewest) > limit:
        longest = max(each.prefixlen - each.max_prefixlen for each in fewest)
        fewest = _collapsed({each.supernet() if each.prefixlen - each.max_prefixlen == longest else each for each in fewest})
    return tuple(fewest)


def _collapsed(networks: Iterable[Network]) -> list[Network]:
    several = list(networks)
    fours = [each for each in several if isinstance(each, IPv4Network)]
    return [*collapse_addresses(fours), *collapse_addresses([each for each in several if isinstance(each, IPv6Network)])]


@dataclass(frozen=True, slots=True)
class Internal:
    """What counts as inside. `ranges` are those that every cluster has, and further ones that somebody named."""

    ranges: tuple[Network, ...] = _INTERNAL
    own: tuple[Network, ...] = ()
    """The cluster's own, as `own_ranges` gives them: apart from one another and in order, so that a thousand are as good as a few."""

    @classmethod
    def with_cluster(cls, cidrs: Iterable[str], own: tuple[Network, ...] = ()) -> Internal:
        """With ranges that somebody named, and the cluster's own. ValueError names what is not a range."""
        named = []
        for text in cidrs:
            network = parse_network(text)
            if network is None:
                raise ValueError(f"{text!r} must be an address range such as 10.96.0.0/12")
            named.append(network)
        return cls((*_INTERNAL, *named), own)

    def is_public(self, address: Address) -> bool:
        """A host outside: not internal, and no IPv4 address that it carries is."""
        return not _unreachable(address) and not any(self._holding(address)) and not self._carries_internal(address)

    def names(self, network: Network, address: Address) -> bool:
        """Whether a rule for `network` is one for `address`: it contains it and, where the address is internal, lies within every
        internal range that does. An address that carries an internal IPv4 address is named by itself alone."""
        if address.version != network.version or address not in network or _unreachable(address):
            return False
        if self._carries_internal(address):
            return network.prefixlen == network.max_prefixlen
        return all(_inside(network, each) for each in self._holding(address))

    def _holding(self, address: Address) -> Iterator[Network]:
        yield from (each for each in self.ranges if each.version == address.version and address in each)
        place: tuple[int, int] = (address.version, int(address))
        before = bisect_right(self.own, place, key=_place)
        if before and address in self.own[before - 1]:
            yield self.own[before - 1]

    def _carries_internal(self, address: Address) -> bool:
        return any(_unreachable(each) or any(self._holding(each)) for each in _carried(address))


def _place(network: Network) -> tuple[int, int]:
    return network.version, int(network.network_address)


INTERNAL: Final = Internal()
"""Without ranges of a cluster's own."""


def _unreachable(address: Address) -> bool:
    return address != _LOOPBACK_6 and any(address.version == each.version and address in each for each in UNREACHABLE)


def _inside(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _carried(address: Address) -> Iterator[IPv4Address]:
    """IPv4 addresses to which a translator or a tunnel on the way may take the packet."""
    if isinstance(address, IPv4Address):
        return
    if any(address in each for each in _TRANSLATED) or (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo

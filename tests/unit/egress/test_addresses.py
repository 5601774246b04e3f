"""Which addresses are inside, in whatever spelling, and which ranges name them."""

import pytest

from aios_api.addresses import INTERNAL, Internal, can_be_reached, own_ranges, parse_address, parse_network

INSIDE = (
    *("127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.1.1"),
    *("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1"),
    *("::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "fd00:ec2::254", "fd20:ce::254", "100::1", "64:ff9b:1::1", "5f00::1"),
)
NOWHERE = ("0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "::7f00:1", "ff02::1")
OUTSIDE = ("1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.1", "100.128.0.1", "203.0.113.7", "2606:4700::1111", "2001:db8::1")
CARRIERS = {
    "::ffff:10.0.0.1": "IPv4-mapped",
    "::ffff:169.254.169.254": "IPv4-mapped metadata",
    "64:ff9b::a00:1": "NAT64 of 10.0.0.1",
    "64:ff9b::7f00:1": "NAT64 of loopback",
    "::ffff:0:a00:1": "IPv4-translated 10.0.0.1",
    "2002:0a00:0001::1": "6to4 of 10.0.0.1",
    "2002:a9fe:a9fe::": "6to4 of metadata",
    "2001:0:0a00:1::1": "Teredo, whose server is 10.0.0.1",
    "2001:0:808:808:0:0:f5ff:fffe": "Teredo, whose client is 10.0.0.1",
    "2606:4700::5efe:a00:1": "ISATAP of 10.0.0.1",
    "2606:4700::200:5efe:7f00:1": "ISATAP of loopback",
}


@pytest.mark.parametrize("text", [*INSIDE, *NOWHERE, *CARRIERS])
def test_inside_is_not_public(text: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert not INTERNAL.is_public(address)


@pytest.mark.parametrize("text", [*OUTSIDE, "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8"])
def test_outside_is_public(text: str) -> None:
    address = parse_address(text)
    assert address is not None
    assert INTERNAL.is_public(address)


@pytest.mark.parametrize("wide", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/5", "2000::/3", "2002::/16", "64:ff9b::/96"])
@pytest.mark.parametrize("text", [*INSIDE, *NOWHERE, *CARRIERS])
def test_a_range_that_is_wider_than_the_inside_names_nothing_of_it(wide: str, text: str) -> None:
    network, address = parse_network(wide), parse_address(text)
    assert network is not None
    assert address is not None
    assert not INTERNAL.names(network, address)


@pytest.mark.parametrize(
    ("network", "address", "named"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3/32", "10.1.2.3", True),
        ("10.1.2.3/32", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("169.254.0.0/16", "169.254.1.1", True),
        ("169.254.0.0/16", "169.254.169.254", False),  # the metadata address is named by itself
        ("169.254.169.254/32", "169.254.169.254", True),
        ("169.254.0.0/16", "169.254.42.42", False),
        ("fc00::/7", "fd00:ec2::254", False),
        ("fd00::/8", "fd00:ec2::23", False),
        ("fd00::/8", "fd00:42::42", False),
        ("fd00::/8", "fd12:3456::1", True),
        ("fd00:ec2::254/128", "fd00:ec2::254", True),
        ("::1/128", "::1", True),
        ("64:ff9b::a00:0/120", "64:ff9b::a00:1", False),
        ("64:ff9b::a00:1/128", "64:ff9b::a00:1", True),
        ("0.0.0.0/0", "8.8.8.8", True),
        ("::/0", "2606:4700::1111", True),
        ("::/0", "8.8.8.8", False),
    ],
)
def test_an_internal_address_is_named_by_a_range_within_the_inside(network: str, address: str, named: bool) -> None:
    parsed, plain = parse_network(network), parse_address(address)
    assert parsed is not None
    assert plain is not None
    assert INTERNAL.names(parsed, plain) is named


def test_the_clusters_own_ranges_are_named_by_ranges_within_them() -> None:
    internal = Internal.with_cluster(["10.96.0.0/12", "203.0.113.0/24"])
    service, node, other = parse_address("10.96.0.10"), parse_address("203.0.113.7"), parse_address("10.1.2.3")
    private, services, everything = parse_network("10.0.0.0/8"), parse_network("10.96.0.0/12"), parse_network("0.0.0.0/0")
    assert service
    assert node
    assert other
    assert private
    assert services
    assert everything
    assert not internal.is_public(node)
    assert not internal.names(everything, node)
    assert internal.names(private, other)
    assert not internal.names(private, service)
    assert internal.names(services, service)
    with pytest.raises(ValueError, match="10/8' must be an address range"):
        Internal.with_cluster(["10/8"])


@pytest.mark.parametrize(
    "text", ["127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "010.0.0.1", "[::1]", "fe80::1%eth0", "", " 1.1.1.1", "1.1.1.1/32", "1.1.1"]
)
def test_what_only_resolvers_take_for_an_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize("text", ["0.0.0.0/8", "0.0.0.0", "224.0.0.0/4", "255.255.255.255", "::", "::10.0.0.1", "ff02::1"])
def test_no_host_is_in_these(text: str) -> None:
    network = parse_network(text)
    assert network is not None
    assert not can_be_reached(network)


@pytest.mark.parametrize(
    ("given", "limit", "own"),
    [
        ([], 9, []),
        (["10.0.0.0/8", "10.1.2.3", "fd00::/64", "100.64.0.0/16", "127.0.0.1"], 9, []),
        (["203.0.113.7", "203.0.113.7/32", "2001:db8::/64"], 9, ["203.0.113.7/32", "2001:db8::/64"]),
        (["203.0.113.6", "203.0.113.7", "203.0.113.0/30"], 9, ["203.0.113.0/30", "203.0.113.6/31"]),
        (["0.0.0.0/0"], 9, ["0.0.0.0/0"]),
        (["224.0.0.0/4", "::"], 9, []),
        ([f"203.0.113.{number}" for number in range(0, 256, 4)], 4, ["203.0.113.0/24"]),
        ([f"203.0.{number}.0/28" for number in range(0, 64, 2)] + ["198.51.100.1"], 2, ["198.51.100.0/28", "203.0.0.0/18"]),
    ],
)
def test_of_a_clusters_ranges_those_that_are_inside_anyway_are_left_out_and_neighbours_are_taken_together(given, limit, own) -> None:
    networks = [parse_network(text) for text in given]
    found = own_ranges([each for each in networks if each is not None], limit)
    assert len(found) <= max(limit, 1)
    assert all(any(each.subnet_of(wide) for wide in found if wide.version == each.version) for each in networks if not internal(each))
    if len(given) < 9:
        assert [str(each) for each in found] == own


def internal(network) -> bool:
    return not own_ranges([network], 9)


def test_of_many_ranges_of_its_own_each_is_found_and_nothing_beside_them() -> None:
    given = [f"203.0.{number}.{8 * (number % 7)}/30" for number in range(200)] + [
        f"2001:db8:{number:x}::/48" for number in range(1, 300, 3)
    ]
    own = own_ranges([network for text in given if (network := parse_network(text)) is not None], 9999)
    internal = Internal.with_cluster([], own)
    for network in own:
        first, last = network[0], network[-1]
        assert not internal.is_public(first)
        assert not internal.is_public(last)
        assert internal.names(network, last)
        assert not internal.names(network.supernet(), first), "a wider range names nothing of it"
        assert all(internal.is_public(each) is not any(each in other for other in own) for each in (first - 1, last + 1))
    assert internal.is_public(own[0].network_address - 1)
    assert not INTERNAL.own


@pytest.mark.parametrize("text", ["10.0.0.1/8", "::ffff:10.0.0.1", "::ffff:0.0.0.0/96", "fe80::1%eth0", "x", ""])
def test_what_is_no_range_is_none(text: str) -> None:
    assert parse_network(text) is None

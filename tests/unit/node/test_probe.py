"""What a probe of the fence tries, and what is said of what it has found."""

from pathlib import Path

import pytest

from aios_api.runtime import Probe
from aios_sidecar.node import conditions
from aios_sidecar.node.conditions import Facts
from aios_sidecar.node.probe import WAYS_LIMIT, Surroundings, neighbour, resolvers_in, ways
from aios_sidecar.node.prober import surroundings
from unit.node.support import NOW

AROUND = Surroundings(node=("10.0.0.7", "fd00::7"), resolvers=("10.96.0.10", "127.0.0.53", "10.0.0.1"), api=(("10.96.0.1", 443),))
RESOLV_CONF = "# ours\nnameserver 10.96.0.10\nsearch svc\nnameserver\n nameserver fd00::a\noptions ndots:5\n"


def test_everything_is_tried_that_an_agent_could_think_of() -> None:
    tried = {str(way) for way in ways(["10.1.0.4", "fd00:1::4"], AROUND)}
    assert tried >= {
        "elsewhere tcp 192.0.2.1:443",
        "elsewhere tcp [2001:db8::1]:443",
        "elsewhere tcp [::ffff:192.0.2.1]:443",
        "elsewhere udp 192.0.2.1:443",
        "elsewhere icmp 192.0.2.1",
        "metadata tcp 169.254.169.254:80",
        "multicast udp 224.0.0.251:5353",
        "apiserver tcp 10.96.0.1:443",
        "kubelet tcp 10.0.0.7:10250",
        "node udp [fd00::7]:53",
        "pod tcp 10.1.0.5:2489",
        "pod tcp [fd00:1::5]:2489",
        *(f"resolver {kind} {address}:53" for kind in ("udp", "tcp") for address in ("10.96.0.10", "10.0.0.1", "169.254.20.10")),
    }
    assert not any("127.0.0.53" in way for way in tried), "the pod's own loopback is no way out"


def test_a_probe_is_bounded_whatever_there_is_around() -> None:
    many = tuple(f"10.0.1.{number}" for number in range(200))
    tried = ways(many, Surroundings(many, many, tuple((address, 443) for address in many)))
    assert len(tried) == WAYS_LIMIT == len(set(tried))
    assert all(len(str(way)) <= 128 for way in tried)


def test_without_any_address_the_general_ways_are_tried() -> None:
    assert {way.to for way in ways([], Surroundings(node=("somewhere.example",), resolvers=("",), api=(("kubernetes", 443),)))} == {
        "elsewhere",
        "metadata",
        "multicast",
        "resolver",
    }


@pytest.mark.parametrize(("own", "beside"), [("10.1.0.4", "10.1.0.5"), ("10.1.0.5", "10.1.0.4"), ("fd00::1", "fd00::")])
def test_a_neighbour_is_another_address(own: str, beside: str) -> None:
    assert neighbour(own) == beside


def test_what_there_is_around_is_read_from_files_and_the_node(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(RESOLV_CONF)
    addresses = [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.7"}]
    found = surroundings(
        (file, tmp_path / "none"),
        [{"status": {"addresses": addresses}}, {}],
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"},
    )
    assert found == Surroundings(("10.0.0.7",), ("10.96.0.10", "fd00::a"), (("10.96.0.1", 6443),))
    assert surroundings((), [], {}) == Surroundings()
    assert resolvers_in("") == ()


def probed(leaked: tuple[str, ...] = (), trouble: str | None = None) -> Probe:
    tried = ["kubelet tcp 10.0.0.7:10250", "pod tcp 10.1.0.5:80", "pod tcp 10.1.0.5:2489"]
    return Probe(time="2026-01-01T00:00:00Z", podUID="p", tried=tried, leaked=list(leaked), trouble=trouble)


@pytest.mark.parametrize(
    ("probe", "expected", "words"),
    [
        (None, ("Unknown", "WaitingForContainer"), "No container"),
        (
            probed(),
            ("True", "Fenced"),
            "were tried from inside at 2026-01-01T00:00:00Z, and none led out (to kubelet, pod)",
        ),
        (probed(("kubelet tcp 10.0.0.7:10250",)), ("False", "FenceLeaks"), "and these led out: kubelet tcp 10.0.0.7:10250"),
        (probed(trouble="no answer came from pod tcp 10.1.0.5:80"), ("Unknown", "ProbeUnclear"), "no answer came from"),
        (probed(("pod tcp 10.1.0.5:80",), "no answer"), ("False", "FenceLeaks"), "these led out"),
    ],
)
def test_the_condition_is_true_only_of_what_was_proven(probe: Probe | None, expected: tuple[str, str], words: str) -> None:
    found = conditions.egress_fenced(Facts(probe=probe), NOW)
    assert (found.status, found.reason) == expected
    assert words in found.message

"""What of a cluster's addresses gateways have to be told."""

import pytest

from aios_operator.decide import ranges
from aios_operator.decide.ranges import cluster_ranges
from aios_operator.decide.views import NodeView, Requests


def node(name: str, *networks: str) -> NodeView:
    return NodeView(name, name, "1", True, False, (), {}, Requests(), frozenset(networks))


def test_what_is_public_of_nodes_pods_and_services_once_and_in_order():
    nodes = [node("n1", "203.0.113.9", "10.0.0.1", "2001:db8::/64"), node("n2", "203.0.113.7", "203.0.113.9")]
    assert cluster_ranges(nodes, ["198.51.100.0/24", "10.96.0.0/12"]) == (
        *("198.51.100.0/24", "203.0.113.7/32", "203.0.113.9/32"),
        "2001:db8::/64",
    )
    assert cluster_ranges([], []) == ()


def test_what_is_no_address_is_left_out_and_told(caplog: pytest.LogCaptureFixture):
    assert cluster_ranges([node("n1", "203.0.113.7", "n1.example.com")], []) == ("203.0.113.7/32",)
    assert "'n1.example.com', which a Node or a ServiceCIDR has, is no address and no range" in caplog.text


def test_that_more_is_told_than_there_is_stands_in_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    nodes = [node(f"n{number}", f"203.0.113.{number}") for number in range(0, 64, 4)]
    assert len(cluster_ranges(nodes, [])) == 16
    assert not caplog.text
    monkeypatch.setattr(ranges, "RANGES_LIMIT", 4)
    assert len(cluster_ranges(nodes, [])) <= 4
    assert "of 16 public ranges of the cluster neighbours are taken together" in caplog.text

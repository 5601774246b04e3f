"""What a policy allows, before and after a name is resolved."""

from typing import Any

import pytest

from aios_api.addresses import Internal
from aios_api.egress import NOTHING, Verdict
from unit.egress.support import allowing, binding, policy


@pytest.mark.parametrize(
    ("rule", "scheme", "host", "port", "verdict"),
    [
        ({"host": "api.example.com"}, "https", "api.example.com", 443, Verdict.Allowed),
        ({"host": "api.example.com"}, "https", "API.Example.com.", 443, Verdict.Allowed),
        ({"host": "api.example.com"}, "https", "api.example.com", 8443, Verdict.NotAllowed),
        ({"host": "api.example.com"}, "http", "api.example.com", 80, Verdict.NotAllowed),
        ({"host": "api.example.com"}, "http", "api.example.com", 443, Verdict.NotAllowed),
        ({"host": "api.example.com", "scheme": "http"}, "http", "api.example.com", 80, Verdict.Allowed),
        ({"host": "api.example.com", "scheme": "http"}, "https", "api.example.com", 80, Verdict.NotAllowed),
        ({"host": "api.example.com"}, "tcp", "api.example.com", 443, Verdict.NotAllowed),
        ({"host": "api.example.com"}, "https", "example.com", 443, Verdict.NotAllowed),
        ({"host": "api.example.com"}, "https", "evil-api.example.com", 443, Verdict.NotAllowed),
        ({"host": "api.example.com"}, "https", "api.example.com.evil.org", 443, Verdict.NotAllowed),
        ({"host": "*.example.com"}, "https", "a.example.com", 443, Verdict.Allowed),
        ({"host": "*.example.com"}, "https", "example.com", 443, Verdict.NotAllowed),
        ({"host": "*.example.com"}, "https", "a.b.example.com", 443, Verdict.NotAllowed),
        ({"host": "*.example.com"}, "https", "*.example.com", 443, Verdict.InvalidHost),
        ({"host": "api.example.com"}, "https", "localhost", 443, Verdict.InvalidHost),
        ({"host": "api.example.com"}, "https", "127.1", 443, Verdict.InvalidHost),
        ({"host": "api.example.com"}, "https", "2130706433", 443, Verdict.InvalidHost),
        ({"host": "api.example.com"}, "https", "api.example.com\n", 443, Verdict.InvalidHost),
        ({"host": "api.example.com"}, "https", "api.exämple.com", 443, Verdict.InvalidHost),
        ({"host": "api.okay.com"}, "https", "api.o\N{KELVIN SIGN}ay.com", 443, Verdict.InvalidHost),
        ({"host": "api.example.com"}, "https", "", 443, Verdict.InvalidHost),
        ({"host": "api.example.com"}, "https", "169.254.169.254", 443, Verdict.InternalAddress),
        ({"host": "api.example.com"}, "https", "8.8.8.8", 443, Verdict.NotAllowed),
        ({"cidr": "10.0.0.0/24"}, "https", "10.0.0.7", 443, Verdict.Allowed),
        ({"cidr": "10.0.0.0/24"}, "https", "::ffff:10.0.0.7", 443, Verdict.Allowed),
        ({"cidr": "10.0.0.0/24"}, "https", "10.0.1.7", 443, Verdict.InternalAddress),
        ({"cidr": "10.0.0.0/24"}, "tcp", "10.0.0.7", 443, Verdict.InternalAddress),
        ({"cidr": "10.0.0.0/24", "scheme": "tcp", "ports": [5432]}, "https", "10.0.0.7", 5432, Verdict.Allowed),
        ({"cidr": "10.0.0.0/24", "scheme": "tcp", "ports": [5432]}, "http", "10.0.0.7", 5432, Verdict.InternalAddress),
        ({"cidr": "0.0.0.0/0"}, "https", "8.8.8.8", 443, Verdict.Allowed),
        ({"cidr": "0.0.0.0/0"}, "https", "10.0.0.7", 443, Verdict.InternalAddress),
        ({"cidr": "0.0.0.0/0"}, "https", "0.0.0.0", 443, Verdict.InternalAddress),
        ({"cidr": "0.0.0.0/0"}, "https", "example.com", 443, Verdict.NotAllowed),
    ],
)
def test_what_one_rule_allows(rule: dict[str, Any], scheme: Any, host: str, port: int, verdict: Verdict) -> None:
    decision = allowing(rule).judge(scheme, host, port)
    assert (decision.verdict, decision.allowed) == (verdict, verdict == Verdict.Allowed)


def test_without_a_binding_nothing_is_allowed() -> None:
    assert NOTHING.judge("https", "example.com", 443).verdict == Verdict.NoPolicy
    assert NOTHING.judge("https", "127.0.0.1", 443).verdict == Verdict.InternalAddress


def test_a_decision_names_rule_and_what_is_to_be_resolved() -> None:
    decision = allowing({"host": "*.example.com", "name": "any"}).judge("https", "A.example.COM.", 443)
    assert decision.rule is not None
    assert (decision.rule.binding, decision.rule.rule, decision.rule.generation) == ("models", "any", 1)
    assert (decision.host, decision.port, decision.scheme, decision.address) == ("a.example.com", 443, "https", None)


def test_of_several_rules_the_one_that_asks_for_least_is_named() -> None:
    both = allowing({"cidr": "10.0.0.7"}, {"cidr": "10.0.0.7", "scheme": "tcp", "ports": [443]})
    assert both.judge("https", "10.0.0.7", 443).scheme == "tcp"


@pytest.mark.parametrize(
    ("rules", "address", "allowed"),
    [
        ([], "8.8.8.8", True),
        ([], "10.0.0.7", False),
        ([], "::ffff:10.0.0.7", False),
        ([], "127.0.0.1", False),
        ([], "169.254.169.254", False),
        ([], "64:ff9b::a00:7", False),
        ([{"cidr": "10.0.0.0/24"}], "10.0.0.7", True),
        ([{"cidr": "10.0.0.0/24"}], "::ffff:10.0.0.7", True),
        ([{"cidr": "10.0.0.0/24"}], "10.0.1.7", False),
        ([{"cidr": "10.0.0.0/24", "ports": [8443]}], "10.0.0.7", False),
        ([{"cidr": "10.0.0.0/24", "scheme": "http", "ports": [443]}], "10.0.0.7", False),
        ([{"cidr": "10.0.0.0/24", "scheme": "tcp", "ports": [443]}], "10.0.0.7", True),
        ([{"cidr": "0.0.0.0/0"}], "10.0.0.7", False),
        ([], "not an address", False),
    ],
)
def test_a_name_leads_inside_only_where_a_range_names_the_address(rules: list[dict[str, Any]], address: str, allowed: bool) -> None:
    compiled = allowing({"host": "db.example.com"}, *rules)
    assert compiled.address_allowed(compiled.judge("https", "db.example.com", 443), address) is allowed


def test_a_rule_for_a_name_still_means_that_name_where_a_range_allows_any_bytes() -> None:
    compiled = allowing({"host": "db.example.com"}, {"cidr": "10.0.0.0/24", "scheme": "tcp", "ports": [443]})
    assert compiled.judge("https", "db.example.com", 443).scheme == "https"


def test_an_address_that_was_asked_for_is_the_one_that_is_dialled() -> None:
    compiled = allowing({"cidr": "10.0.0.0/24"})
    decision = compiled.judge("https", "10.0.0.7", 443)
    assert compiled.address_allowed(decision, "10.0.0.7")
    assert not compiled.address_allowed(decision, "10.0.0.8")
    assert not compiled.address_allowed(decision, "8.8.8.8")


def test_what_was_denied_may_not_be_dialled() -> None:
    compiled = allowing({"host": "a.example.com"})
    assert not compiled.address_allowed(compiled.judge("https", "b.example.com", 443), "8.8.8.8")


def test_the_clusters_ranges_are_inside() -> None:
    internal = Internal.with_cluster(["203.0.113.0/24"])
    compiled = allowing({"host": "a.example.com"})
    decision = compiled.judge("https", "a.example.com", 443, internal)
    assert compiled.address_allowed(decision, "203.0.113.7")
    assert not compiled.address_allowed(decision, "203.0.113.7", internal)


def test_audit_lets_through_to_public_addresses_and_says_so() -> None:
    compiled = policy(binding("models", {"host": "a.example.com"}), binding("watch", mode="Audit"))
    assert compiled.audit_bindings == ("watch",)
    assert not compiled.judge("https", "a.example.com", 443).audited
    decision = compiled.judge("https", "b.example.com", 8443)
    assert (decision.verdict, decision.allowed, decision.audited, decision.scheme) == (Verdict.WouldDeny, True, True, "tcp")
    assert compiled.judge("http", "b.example.com", 80).scheme == "http"
    assert compiled.address_allowed(decision, "8.8.8.8")
    assert not compiled.address_allowed(decision, "10.0.0.7")
    assert compiled.judge("https", "10.0.0.7", 443).verdict == Verdict.InternalAddress
    assert compiled.judge("https", "localhost", 443).verdict == Verdict.InvalidHost


def test_audit_reaches_no_internal_address_by_a_name_that_no_rule_allows() -> None:
    compiled = policy(binding("models", {"cidr": "10.0.0.0/24"}, mode="Audit"))
    decision = compiled.judge("https", "b.example.com", 443)
    assert decision.audited
    assert not compiled.address_allowed(decision, "10.0.0.7")

"""What the gateway says of an agent's way out, as its status shows it."""

from datetime import UTC, datetime

from aios_api.egress import MAX_BINDINGS
from aios_sidecar.contracts.link import EgressCounts, WouldDeny
from aios_sidecar.node.egress import EgressSeen

NOW, LATER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
A, B = "a" * 64, "b" * 64


def counts(denied: int, **would_deny: int) -> EgressCounts:
    return EgressCounts(claim_uid="c", denied=denied, would_deny=tuple(WouldDeny(binding=name, count=n) for name, n in would_deny.items()))


def test_a_policy_is_in_force_since_it_was_first_confirmed():
    seen = EgressSeen().confirm(A, NOW)
    assert seen.confirm(A, LATER).status() == {"policyDigest": A, "since": "2026-01-01T00:00:00Z"}
    assert seen.confirm(B, LATER).status() == {"policyDigest": B, "since": "2026-01-02T00:00:00Z"}
    assert seen.confirm(None, LATER).status() is None


def test_counts_go_on_when_the_gateway_begins_anew():
    seen = EgressSeen().count(counts(3, x=2)).count(counts(5, x=2, y=1)).count(counts(1))
    assert seen.status() == {"denied": 6, "wouldDeny": [{"binding": "x", "count": 2}, {"binding": "y", "count": 1}]}


def test_however_many_bindings_come_and_go_no_more_are_told_than_the_status_takes():
    seen = EgressSeen()
    for first in range(0, 200, 50):
        seen = seen.count(counts(0, **{f"b{number:03}": 1 for number in range(first, first + 50)}))
    told = [each["binding"] for each in seen.status()["wouldDeny"]]
    assert len(told) == MAX_BINDINGS
    assert set(told) >= {f"b{number:03}" for number in range(150, 200)}, "those of which the gateway spoke last"


def test_a_new_node_agent_goes_on_from_the_status_of_the_same_claim():
    status = {"claimUID": "c", "egress": EgressSeen().confirm(A, NOW).count(counts(4, x=7)).status()}
    assert EgressSeen.written(status, "c").confirm(A, LATER).status() == status["egress"]
    assert EgressSeen.written(status, "c").count(counts(6, x=7)).status()["denied"] == 6, "the gateway has counted on"
    assert EgressSeen.written(status, "c").count(counts(1)).status()["denied"] == 5, "the gateway has begun anew"
    assert EgressSeen.written(status, "another") == EgressSeen()

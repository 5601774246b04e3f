"""From bindings to the policy of one Agent: what adds up, what is kept when an update is broken, what is left out."""

from typing import Any

import pytest

from aios_api.egress import MAX_BINDINGS, MAX_BYTES, MAX_RULES, Binding, EgressPolicy, compile_policy, read_binding
from unit.egress.support import LABELS, binding, policy, raw

A, B = {"host": "a.example.com"}, {"host": "b.example.com"}


def in_force(compiled: EgressPolicy) -> dict[str, int]:
    return {each.name: each.generation for each in compiled.bindings}


def hosts(compiled: EgressPolicy) -> list[str]:
    return sorted(str(each.host or each.cidr) for each in compiled.rules)


def test_several_bindings_add_up() -> None:
    compiled = policy(binding("one", A, generation=3), binding("two", B), binding("silent"))
    assert hosts(compiled) == ["a.example.com", "b.example.com"]
    assert in_force(compiled) == {"one": 3, "two": 1, "silent": 1}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, False),
        (None, False),
        ({"matchLabels": {}}, False),
        ({"matchExpressions": []}, False),
        ({"matchLabels": {"app": "coder"}}, True),
        ({"matchLabels": {"app": "other"}}, False),
        ({"matchLabels": {"app": "coder", "tier": "x"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["coder", "x"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["coder"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["coder"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "coder"}, "matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_whom_a_selector_selects(selector: Any, selected: bool) -> None:
    found = raw("one", A)
    if selector is None:
        del found["spec"]["agentSelector"]
    else:
        found["spec"]["agentSelector"] = selector
    assert bool(policy(read_binding(found)).bindings) is selected


def test_ports_are_written_out() -> None:
    compiled = policy(binding("one", A, {**A, "scheme": "http"}, {**A, "ports": [8443, 443]}))
    assert [each.ports for each in compiled.rules] == [(443,), (80,), (443, 8443)]


@pytest.mark.parametrize("port", ["443", True, 443.5, 0, 65_536])
def test_what_the_api_server_takes_for_no_port_is_none_here(port: Any) -> None:
    found = read_binding(raw("one", {"cidr": "::1/128", "scheme": "tcp", "ports": [port]}))
    assert found.error is not None
    assert "spec.egress[0].ports[0]" in found.error
    assert not policy(found).rules


def test_the_digest_is_of_the_content_and_not_of_the_order() -> None:
    one, two = binding("one", A), binding("two", B)
    assert policy(one, two) == policy(two, one)
    assert policy(one, two).whole
    assert policy(one).digest != policy(binding("one", A, generation=2)).digest
    assert policy(binding("one", A)).digest != policy(binding("one", A, mode="Audit")).digest
    changed = policy(one).model_copy(update={"rules": ()})
    assert not changed.whole
    again = EgressPolicy.model_validate(policy(one, two).model_dump(mode="json", by_alias=True, exclude_none=True))
    assert again == policy(one, two)
    assert again.whole


# Broken updates.


def broken(name: str, *rules: dict[str, Any], generation: int = 2, **spec: Any) -> Binding:
    """A later generation with a rule that can't be read."""
    found = raw(name, *rules, {"name": "bad", "host": "NO HOST"}, generation=generation, **spec)
    read = read_binding(found)
    assert read.error is not None
    return read


def test_a_broken_update_keeps_what_was_last_good() -> None:
    before = policy(binding("one", A))
    after = policy(broken("one", A, {"host": "new.example.com"}), previous=before)
    assert after == before
    assert in_force(after) == {"one": 1}


WIDE = {"host": "*.example.com", "ports": [443, 8443]}


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (WIDE, [443, 8443]),
        ({**WIDE, "ports": [8443, 9443]}, [8443]),
        ({"host": "*.example.com"}, [443]),
        ({**WIDE, "ports": [9443]}, []),
        ({**WIDE, "scheme": "http"}, []),
        ({"host": "api.example.com", "ports": [443]}, []),
        ({"cidr": "203.0.113.0/24", "ports": [443]}, []),
        ({**WIDE, "ports": [0]}, [443, 8443]),  # can't be read, so it says nothing else
        ({**WIDE, "ports": "8443"}, [443, 8443]),
        ({**WIDE, "ports": ["443", 8443]}, [8443]),
        ({**WIDE, "scheme": "quic", "ports": [8443]}, [8443]),
        ({**WIDE, "odd": True, "ports": [8443]}, [8443]),
        ({"host": "*.example.com", "scheme": "quic"}, [443, 8443]),
        ({**WIDE, "host": "NO HOST"}, [443, 8443]),
        ({**WIDE, "host": "NO HOST", "ports": [443]}, [443]),
        ({**WIDE, "host": "api.example.com", "ports": [0]}, []),
        ({**WIDE, "host": "api.example.com", "cidr": "203.0.113.0/24"}, []),
        ({**WIDE, "cidr": "203.0.113.0/24"}, [443, 8443]),  # the host that it has is one that it had
        ({"ports": [443]}, []),
        ({**WIDE, "scheme": "http", "ports": [0]}, []),
    ],
)
def test_what_a_rule_says_no_longer_under_its_old_name_is_gone(now: dict[str, Any], kept: list[int]) -> None:
    before = policy(binding("one", WIDE))
    after = policy(broken("one", now), previous=before)
    assert [port for rule in after.rules for port in rule.ports] == kept
    assert {rule.host for rule in after.rules} <= {"*.example.com"}
    assert policy(broken("one", now), previous=after) == after
    assert after.whole


def test_of_a_name_that_an_update_has_twice_stays_what_both_allow() -> None:
    before = policy(binding("one", WIDE))
    twice = read_binding(raw("one", {**WIDE, "ports": [443, 9443], "name": "r0"}, {**WIDE, "name": "r0"}, generation=2))
    assert twice.error is not None
    assert [each.ports for each in policy(twice, previous=before).rules] == [(443,)]


def test_a_rule_that_a_broken_update_has_no_longer_is_gone() -> None:
    before = policy(binding("one", A, B))
    after = policy(broken("one", {"name": "r1", **B}), previous=before)
    assert hosts(after) == ["b.example.com"]


def test_a_broken_binding_gives_nobody_anything_new() -> None:
    assert policy(broken("one", A)) == EgressPolicy.of((), ())
    assert policy(broken("one", A), previous=policy(binding("other", B))) == EgressPolicy.of((), ())


def test_a_broken_update_that_selects_no_longer_takes_effect() -> None:
    before = policy(binding("one", A))
    assert policy(broken("one", A, agentSelector={"matchLabels": {"app": "other"}}), previous=before).bindings == ()
    assert policy(broken("one", A, agentSelector={}), previous=before).bindings == ()


def test_a_selector_that_can_not_be_read_keeps_those_who_have_the_binding() -> None:
    before = policy(binding("one", A))
    unreadable = broken("one", A, agentSelector={"matchLabels": 7})
    assert hosts(policy(unreadable, previous=before)) == ["a.example.com"]
    assert policy(unreadable).bindings == ()


@pytest.mark.parametrize(("mode", "kept"), [("Enforce", "Enforce"), (None, "Enforce"), ("Audit", "Audit"), ("Odd", "Audit")])
def test_audit_ends_with_a_broken_update_that_says_so(mode: str | None, kept: str) -> None:
    before = policy(binding("one", A, mode="Audit"))
    after = policy(broken("one", A, **({"mode": mode} if mode else {})), previous=before)
    assert [each.mode for each in after.bindings] == [kept]


def test_a_broken_update_does_not_begin_to_audit() -> None:
    assert policy(broken("one", A, mode="Audit"), previous=policy(binding("one", A))).audit_bindings == ()


def test_a_deleted_binding_is_gone() -> None:
    assert policy(previous=policy(binding("one", A))).bindings == ()


@pytest.mark.parametrize(
    "spec", [None, [], "text", {"egress": "x"}, {"egress": [1]}, {"egress": [{"name": ["x"]}]}, {"mode": {}}, {"unknown": 1}]
)
def test_whatever_a_spec_is_it_is_read(spec: Any) -> None:
    read = read_binding({"metadata": {"name": "one"}, "spec": spec})
    assert (read.error is None) == (spec is None)
    assert compile_policy([read], LABELS).rules == ()


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"name": "a" * 64, "generation": 2}, "metadata.name"),
        ({"generation": 2}, "metadata.name"),
        ({"name": "one", "generation": "new"}, "metadata.generation"),
        ({"name": "one", "generation": "2"}, "metadata.generation"),
        ({"name": "one", "generation": -1}, "metadata.generation"),
        ({"name": "one", "generation": 2**60}, "metadata.generation"),
        ({"name": "one", "generation": [2]}, "metadata.generation"),
        ("text", "metadata.name"),
        (None, "metadata.name"),
    ],
)
def test_a_binding_that_no_rule_could_carry_is_an_error_and_brings_nothing(metadata: Any, told: str) -> None:
    read = read_binding({**raw("one", A, B), "metadata": metadata})
    assert read.error is not None
    assert told in read.error
    assert read.spec is None
    assert policy(read).bindings == ()
    assert hosts(policy(read, previous=policy(binding("one", A)))) == (["a.example.com"] if read.name == "one" else [])


# Bounds.


def many(name: str, count: int, created: str, **more: Any) -> Binding:
    return binding(name, *({"host": f"h{number}.example.com"} for number in range(count)), created=created, **more)


def test_room_goes_to_older_bindings_and_to_each_as_a_whole() -> None:
    old = [many(f"old{number}", 60, f"2026-01-0{number + 1}T00:00:00Z") for number in range(4)]
    late = many("late", 60, "2026-02-01T00:00:00Z")
    last = many("last", 10, "2026-03-01T00:00:00Z")
    compiled = policy(late, last, *old)
    assert len(compiled.rules) == 4 * 60 + 10 <= MAX_RULES
    assert set(in_force(compiled)) == {"old0", "old1", "old2", "old3", "last"}


def test_an_update_for_which_there_is_no_room_keeps_what_was_last_good() -> None:
    old = [many(f"old{number}", 60, f"2026-01-0{number + 1}T00:00:00Z") for number in range(4)]
    before = policy(*old, many("late", 10, "2026-02-01T00:00:00Z"))
    after = policy(*old, many("late", 30, "2026-02-01T00:00:00Z", generation=2), previous=before)
    assert after == before


def test_what_an_update_without_room_says_no_longer_is_gone_all_the_same() -> None:
    old = [many(f"old{number}", 60, f"2026-01-0{number + 1}T00:00:00Z") for number in range(4)]
    before = policy(*old, binding("late", WIDE, A, created="2026-02-01T00:00:00Z"))
    others = [{"name": f"more{number}", "host": f"m{number}.example.com"} for number in range(30)]
    narrower = binding("late", {"host": "api.example.com"}, A, *others, generation=2, created="2026-02-01T00:00:00Z")
    after = policy(*old, narrower, previous=before)
    assert [each.host for each in after.rules if each.binding == "late"] == ["a.example.com"]
    assert in_force(after)["late"] == 1


def test_a_policy_is_bounded_in_bytes_and_in_bindings() -> None:
    wide = [{"host": f"*.{'a' * 63}.{'b' * 63}.h{number}.example.com", "ports": list(range(60_000, 60_016))} for number in range(40)]
    compiled = policy(*(binding(f"b{number}", *wide) for number in range(9)))
    assert 0 < len(compiled.rules) < 9 * 40
    assert len(compiled.model_dump_json(by_alias=True, exclude_none=True)) <= MAX_BYTES + 200
    assert len(policy(*(binding(f"b{number}") for number in range(MAX_BINDINGS + 1))).bindings) == MAX_BINDINGS

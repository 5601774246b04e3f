"""Whatever bindings there are: nothing is allowed without a rule, nothing subtracts, what is removed is gone, inside is what is named."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from aios_api.addresses import INTERNAL, parse_address
from aios_api.egress import MAX_BYTES, MAX_RULES, Binding, EgressPolicy, compile_policy, read_binding

LABELS = {"app": "a"}
HOSTS = ["a.example.com", "b.example.com", "x.y.example.com", "example.com", "*.example.com", "*.y.example.com"]
RANGES = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "0.0.0.0/0",
    "169.254.169.254",
    "127.0.0.1",
    "203.0.113.0/24",
    "::1",
    "fc00::/7",
    "::/0",
    "64:ff9b::a00:1",
]
BAD_RULES = [{"host": "NO HOST"}, {"cidr": "10.0.0.1/8"}, {}, {"host": "a.example.com", "ports": [0]}, {"cidr": "0.0.0.0/8"}]

names = st.sampled_from(["r0", "r1", "r2", "r3"])
ports = st.lists(st.sampled_from([80, 443, 8443]), min_size=1, max_size=3, unique=True)
good_rules = st.one_of(
    st.fixed_dictionaries({"host": st.sampled_from(HOSTS)}, optional={"ports": ports, "scheme": st.sampled_from(["https", "http"])}),
    st.fixed_dictionaries(
        {"cidr": st.sampled_from(RANGES), "ports": ports}, optional={"scheme": st.sampled_from(["https", "http", "tcp"])}
    ),
)
modes = st.sampled_from(["Enforce", "Enforce", "Audit"])
selectors = st.sampled_from([{"matchLabels": {"app": "a"}}, {"matchLabels": {"app": "b"}}, {}, None])


@st.composite
def specs(draw: st.DrawFn, rules: st.SearchStrategy[dict[str, Any]] = good_rules) -> dict[str, Any]:
    listed = draw(st.dictionaries(names, rules, max_size=4))
    selector = draw(selectors)
    spec: dict[str, Any] = {"mode": draw(modes), "egress": [{"name": name, **rule} for name, rule in listed.items()]}
    return spec if selector is None else {**spec, "agentSelector": selector}


def read(name: str, spec: Any, generation: int = 1) -> Binding:
    return read_binding(
        {"metadata": {"name": name, "generation": generation, "creationTimestamp": f"2026-01-{name[1:]:0>2}"}, "spec": spec}
    )


bindings = st.lists(specs(), max_size=4).map(lambda several: [read(f"b{number}", spec) for number, spec in enumerate(several)])
hosts = st.one_of(
    st.sampled_from(
        ["a.example.com", "A.EXAMPLE.com.", "c.example.com", "z.y.example.com", "evil.com", "localhost", "127.1", "0x7f.1", "*.example.com"]
    ),
    st.sampled_from(
        ["10.1.2.3", "10.2.0.1", "169.254.169.254", "127.0.0.1", "::1", "::ffff:10.1.2.3", "203.0.113.7", "8.8.8.8", "64:ff9b::a00:1"]
    ),
    st.ip_addresses().map(str),
    st.text(max_size=20),
)
asked = st.tuples(st.sampled_from(["https", "http", "tcp"]), hosts, st.sampled_from([80, 443, 8443, 22]))
addresses = st.one_of(
    st.sampled_from(["10.1.2.3", "10.2.0.1", "127.0.0.1", "::1", "169.254.169.254", "64:ff9b::a00:1", "2002:a00:1::"]),
    st.ip_addresses().map(str),
)


def allows(policy: EgressPolicy, ask: tuple[Any, str, int]) -> bool:
    return policy.judge(*ask).allowed


@given(bindings, bindings, asked, addresses)
def test_to_add_a_binding_never_takes_anything_away(some: list[Binding], more: list[Binding], ask: Any, address: str) -> None:
    more = [
        read(f"b{10 + number}", each.spec.model_dump(by_alias=True, exclude_none=True)) for number, each in enumerate(more) if each.spec
    ]
    few, many = compile_policy(some, LABELS), compile_policy([*some, *more], LABELS)
    if allows(few, ask):
        assert allows(many, ask)
        before, after = few.judge(*ask), many.judge(*ask)
        if before.rule is not None and few.address_allowed(before, address):
            assert many.address_allowed(after, address)


@given(bindings, asked)
def test_nothing_is_allowed_without_a_rule_or_an_audit(some: list[Binding], ask: Any) -> None:
    decision = compile_policy(some, LABELS).judge(*ask)
    selecting = [each.spec for each in some if each.spec is not None and each.spec.agent_selector is not None and each.selects(LABELS)]
    if not decision.allowed:
        return
    if decision.rule is None:
        assert any(spec.mode == "Audit" for spec in selecting)
        return
    rules = [rule for spec in selecting for rule in spec.egress or ()]
    scheme, _, port = ask
    assert any(
        (rule.host, rule.cidr, rule.scheme) == (decision.rule.host, decision.rule.cidr, decision.rule.scheme)
        and port in (rule.ports or {"https": [443], "http": [80]}[rule.scheme])
        and (rule.scheme == scheme or (scheme, rule.scheme) == ("https", "tcp"))
        for rule in rules
    )


INSIDE = ["10.1.2.3", "10.2.0.1", "127.0.0.1", "::1", "fc00::1", "169.254.169.254", "64:ff9b::a00:1", "2002:a00:1::", "::ffff:10.1.2.3"]
ASKED = [
    (scheme, host, port)
    for scheme in ("https", "http", "tcp")
    for host in ("a.example.com", "q.y.example.com", *INSIDE)
    for port in (80, 443)
]


@given(bindings, st.sampled_from(INSIDE))
def test_inside_is_reached_only_where_a_range_within_it_names_it(some: list[Binding], address: str) -> None:
    policy, plain = compile_policy(some, LABELS), parse_address(address)
    assert plain is not None
    for scheme, host, port in ASKED:
        decision = policy.judge(scheme, host, port)  # type: ignore[arg-type]
        if not policy.address_allowed(decision, address):
            continue
        assert decision.rule is not None, "Audit reaches nothing inside"
        named = [rule for rule in policy.rules if rule.cidr is not None and port in rule.ports and rule.scheme in (scheme, "tcp")]
        networks = [ipaddress.ip_network(str(rule.cidr)) for rule in named]
        assert any(plain in each and (each.is_private or each.num_addresses == 1) for each in networks if each.version == plain.version)
        event("reached inside")


@given(st.lists(specs(), max_size=3), st.lists(specs(st.one_of(good_rules, st.sampled_from(BAD_RULES))), max_size=3))
def test_what_an_update_no_longer_has_is_gone_even_when_it_is_broken(before: list[Any], after: list[Any]) -> None:
    previous = compile_policy([read(f"b{number}", spec) for number, spec in enumerate(before)], LABELS)
    updated = {f"b{number}": read(f"b{number}", spec, generation=2) for number, spec in enumerate(after)}
    policy = compile_policy(updated.values(), LABELS, previous)
    for rule in policy.rules:
        binding = updated[rule.binding]
        assert rule.rule in binding.rules
        assert binding.selects(LABELS, previous)
        was = [each for each in previous.rules if (each.binding, each.rule) == (rule.binding, rule.rule)]
        if binding.spec is None:
            assert [each.model_copy(update={"ports": rule.ports}) for each in was] == [rule], "a broken binding brings nothing new"
            assert set(rule.ports) <= set(was[0].ports)
    for entry in policy.bindings:
        assert entry.mode == "Enforce" or updated[entry.name].may_audit


few_hosts = st.fixed_dictionaries(
    {"host": st.sampled_from(["*.example.com", "a.example.com"])}, optional={"ports": ports, "scheme": st.sampled_from(["https", "http"])}
)
few_ranges = st.fixed_dictionaries(
    {"cidr": st.sampled_from(["10.0.0.0/8", "10.1.0.0/16"]), "ports": ports}, optional={"scheme": st.sampled_from(["https", "tcp"])}
)
few = st.dictionaries(names, few_hosts | few_ranges, min_size=1, max_size=4)
CROWD = [{"name": f"crowd{number}", "host": f"h{number}.example.com"} for number in range(60)]


@given(few, few, st.booleans())
def test_what_is_kept_from_before_is_never_wider_than_what_the_rule_says_now(was: dict[str, Any], now: dict[str, Any], room: bool) -> None:
    def spec(rules: dict[str, Any], *more: Any) -> dict[str, Any]:
        return {"agentSelector": {"matchLabels": LABELS}, "egress": [*({"name": name, **rule} for name, rule in rules.items()), *more]}

    older = [] if room else [read(f"b{number}", spec({}, *CROWD)) for number in range(1, 5)]
    previous = compile_policy([*older, read("b9", spec(was))], LABELS)
    update = read("b9", spec(now, {"name": "bad"}) if room else spec(now, *CROWD), generation=2)
    assert (update.spec is None) == room, "it is broken, or has no room"
    kept = [rule for rule in compile_policy([*older, update], LABELS, previous).rules if rule.binding == "b9"]
    for rule in kept:
        said = now[rule.rule]
        scheme = said.get("scheme", "https")
        assert (rule.host, rule.cidr, rule.scheme) == (said.get("host"), said.get("cidr"), scheme)
        assert set(rule.ports) <= set(said.get("ports") or {"https": [443], "http": [80]}[scheme])
        assert (rule.generation, rule.rule in was) == (1, True)
    for name in was.keys() & now.keys():
        if was[name] == now[name]:
            assert name in {rule.rule for rule in kept}, "what stays the same stays in force"
    event(f"kept {len(kept)}")


@given(st.lists(specs(), max_size=4))
def test_the_policy_is_whole_bounded_and_does_not_depend_on_the_order(several: list[Any]) -> None:
    some = [read(f"b{number}", spec) for number, spec in enumerate(several)]
    policy = compile_policy(some, LABELS)
    assert policy == compile_policy(reversed(some), LABELS)
    assert policy.whole
    assert len(policy.rules) <= MAX_RULES
    assert len(policy.model_dump_json(by_alias=True, exclude_none=True)) <= MAX_BYTES + 200
    assert EgressPolicy.model_validate_json(policy.model_dump_json(by_alias=True, exclude_none=True)) == policy


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "host", "cidr", "egress", "mode", "agentSelector"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(junk, asked)
def test_whatever_a_spec_is_reading_it_does_not_fail_and_allows_nothing(spec: Any, ask: Any) -> None:
    binding = read("b0", spec)
    policy = compile_policy([binding], LABELS)
    if binding.error is not None:
        assert not policy.bindings
    assert not allows(policy, ask) or policy.judge(*ask).rule is not None or policy.audit_bindings


@given(st.ip_addresses())
def test_what_the_registries_hold_private_is_not_public(address: Any) -> None:
    plain = parse_address(str(address))
    assert plain is not None
    documentation = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20", "2001::/23")
    if any(plain.version == net.version and plain in net for net in map(ipaddress.ip_network, documentation)):
        return
    if plain.is_private or plain.is_loopback or plain.is_link_local or plain.is_multicast or plain.is_unspecified:
        assert not INTERNAL.is_public(plain)

"""The effective egress policy of one Agent: compiled from bindings, carried in its `AgentRuntime`, judged in its gateway.

Pure, and the only place that says what is allowed: operator, gateway and `aiosctl` share it. What no rule allows is denied; a policy that
is absent allows nothing. A caller judges twice: `judge` before any name is resolved, `address_allowed` for each address that it gets.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Final, get_args

from pydantic import Field, ValidationError

from aios_api.addresses import INTERNAL, Address, Internal, Network, parse_address, parse_network
from aios_api.binding import (
    BINDING_NAME_MAX,
    DEFAULT_PORTS,
    AgentSelector,
    EgressRule,
    Mode,
    Port,
    RuleName,
    Scheme,
    ToolBindingSpec,
    is_host_name,
    parse_binding,
)
from aios_api.meta import GENERATION_MAX, Generation, InvalidSpec, Model
from aios_api.schema import list_type

MAX_BINDINGS: Final = 64
MAX_RULES: Final = 256
MAX_BYTES: Final = 32 * 1024
"""Of one Agent's policy, as it is rendered for its digest. The message that brings it to the gateway holds 64 KiB."""

BindingName = Annotated[str, Field(min_length=1, max_length=BINDING_NAME_MAX)]


class PolicyBinding(Model):
    """A binding that is part of the policy."""

    name: BindingName = Field(description="The ToolBinding.")
    generation: Generation = Field(description="Its generation that is in force for this Agent.")
    mode: Mode = Field(description="Audit lets through, and counts, what no rule allows.")


class PolicyRule(Model):
    """One destination that is allowed, with its ports written out."""

    binding: BindingName = Field(description="The ToolBinding that says so.")
    generation: Generation = Field(description="Its generation.")
    rule: RuleName = Field(description="The rule's name in it.")
    host: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(default=None, description="As in the rule.")
    cidr: Annotated[str, Field(min_length=1, max_length=43)] | None = Field(default=None, description="As in the rule.")
    ports: tuple[Port, ...] = Field(min_length=1, max_length=16, description="Each port.", json_schema_extra=list_type())
    scheme: Scheme = Field(description="As in the rule.")

    def serves(self, scheme: Scheme, port: int) -> bool:
        """Whether the rule is one for such a request. A tunnel (`https`) may also be one for any bytes."""
        return port in self.ports and (scheme == self.scheme or (scheme == "https" and self.scheme == "tcp"))


class Verdict(StrEnum):
    """Why a request was allowed or not: a word that an agent may read, since it discloses nothing of the policy."""

    Allowed = "Allowed"
    WouldDeny = "WouldDeny"
    """Let through by a binding in Audit mode."""
    NotAllowed = "NotAllowed"
    """No rule allows it."""
    InternalAddress = "InternalAddress"
    """An address inside that no rule names."""
    InvalidHost = "InvalidHost"
    """Neither a DNS name of two labels nor an address in its plain form."""
    NoPolicy = "NoPolicy"
    """No binding selects the Agent."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is judged of one request or tunnel before its name is resolved."""

    allowed: bool
    verdict: Verdict
    host: str
    """As it was judged: in lower case and without a last dot. Exactly this is to be resolved, or dialled when it is an address."""
    port: int
    scheme: Scheme
    """Of the rule: for `tcp` the bytes in a tunnel are not looked at, for `https` they must be TLS for this host. As asked when denied."""
    rule: PolicyRule | None = None
    address: Address | None = None
    """When the host is an address."""

    @property
    def audited(self) -> bool:
        """Let through, though no rule allows it: to be counted as would-deny."""
        return self.allowed and self.rule is None


def _rendered(bindings: Iterable[PolicyBinding], rules: Iterable[PolicyRule]) -> bytes:
    """Canonical JSON: sorted keys, no spaces, absent fields left out."""
    whole = {
        "bindings": [each.model_dump(by_alias=True, exclude_none=True) for each in bindings],
        "rules": [each.model_dump(by_alias=True, exclude_none=True) for each in rules],
    }
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


class EgressPolicy(Model):
    """All that one Agent may reach. Equal digests mean equal policies."""

    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)] = Field(description="SHA-256 of the rest in canonical JSON.")
    bindings: tuple[PolicyBinding, ...] = Field(
        default=(),
        max_length=MAX_BINDINGS,
        description="The bindings that select the Agent, by name.",
        json_schema_extra=list_type(keys=["name"]),
    )
    rules: tuple[PolicyRule, ...] = Field(
        default=(), max_length=MAX_RULES, description="What they allow, by binding and rule.", json_schema_extra=list_type()
    )

    @classmethod
    def of(cls, bindings: Iterable[PolicyBinding], rules: Iterable[PolicyRule]) -> EgressPolicy:
        """The policy with its digest, which does not depend on the order of either."""
        ordered = tuple(sorted(bindings, key=lambda each: each.name)), tuple(sorted(rules, key=lambda each: (each.binding, each.rule)))
        return cls(digest=hashlib.sha256(_rendered(*ordered)).hexdigest(), bindings=ordered[0], rules=ordered[1])

    @property
    def whole(self) -> bool:
        """The digest is the one of the rest."""
        return self.digest == hashlib.sha256(_rendered(self.bindings, self.rules)).hexdigest()

    @property
    def audit_bindings(self) -> tuple[str, ...]:
        """Bindings in Audit mode: each request that no rule allows counts for every one of them."""
        return tuple(each.name for each in self.bindings if each.mode == "Audit")

    def in_force(self, binding: str) -> PolicyBinding | None:
        """The binding as it is part of this policy; None when it is not."""
        return next((each for each in self.bindings if each.name == binding), None)

    def judge(self, scheme: Scheme, host: str, port: int, internal: Internal = INTERNAL) -> Decision:
        """Whether a request to `host` may be made: `http` for one in absolute form, `https` for a tunnel, `tcp` for a tunnel whose bytes
        are nobody's affair. Nothing is resolved. Of several rules that allow it the one that asks for least is named."""
        name = host.lower().removesuffix(".")
        address = parse_address(name)
        if not host.isascii() or (address is None and not is_host_name(name)):  # some other letters are ASCII in lower case
            return Decision(False, Verdict.InvalidHost, name, port, scheme)
        found = [rule for rule in self._index.candidates(name, address, internal) if rule.serves(scheme, port)]
        if found:
            rule = min(found, key=lambda each: (each.scheme != "tcp", each.binding, each.rule))
            return Decision(True, Verdict.Allowed, name, port, rule.scheme, rule, address)
        if address is not None and not internal.is_public(address):
            return Decision(False, Verdict.InternalAddress, name, port, scheme, address=address)
        if self.audit_bindings:
            return Decision(True, Verdict.WouldDeny, name, port, "http" if scheme == "http" else "tcp", address=address)
        return Decision(False, Verdict.NotAllowed if self.bindings else Verdict.NoPolicy, name, port, scheme, address=address)

    def address_allowed(self, decision: Decision, address: str | Address, internal: Internal = INTERNAL) -> bool:
        """Whether what `decision` allowed may be dialled at `address`, to which its host was resolved: at a public address always, at an
        internal one only where a rule names it for the same scheme and port. In Audit mode at public addresses only."""
        plain = parse_address(str(address))
        if plain is None or not decision.allowed or decision.address not in (None, plain):
            return False
        if internal.is_public(plain):
            return True
        return decision.rule is not None and any(
            rule.serves(decision.scheme, decision.port) for rule in self._index.naming(plain, internal)
        )

    @cached_property
    def _index(self) -> _Index:
        return _Index(self.rules)


NOTHING: Final = EgressPolicy.of((), ())
"""The policy of an Agent that no binding selects; an order without a policy means this one."""


class _Index:
    """The rules by what they name: a request looks at few of them, however many there are."""

    def __init__(self, rules: Sequence[PolicyRule]) -> None:
        self._hosts: defaultdict[str, list[PolicyRule]] = defaultdict(list)
        self._networks: list[tuple[Network, PolicyRule]] = []
        for rule in rules:
            if rule.host is not None:
                self._hosts[rule.host].append(rule)
            elif rule.cidr is not None and (network := parse_network(rule.cidr)) is not None:
                self._networks.append((network, rule))

    def candidates(self, name: str, address: Address | None, internal: Internal) -> Iterator[PolicyRule]:
        if address is not None:
            yield from self.naming(address, internal)
            return
        yield from self._hosts.get(name, ())
        yield from self._hosts.get(f"*.{name.partition('.')[2]}", ())

    def naming(self, address: Address, internal: Internal) -> Iterator[PolicyRule]:
        return (rule for network, rule in self._networks if internal.names(network, address))


# From bindings to a policy.


@dataclass(frozen=True, slots=True)
class Said:
    """One rule as an object has it now, field by field: what is wrong in one takes nothing from what another says. None: can't be read."""

    destinations: frozenset[tuple[str, str]] | None
    """Field and value of what it names: one in a rule that is whole."""
    scheme: Scheme | None
    ports: frozenset[int] | None
    """Those that can be read, when any can."""

    def narrow(self, rule: PolicyRule) -> PolicyRule | None:
        """What is left of `rule`, which this one has replaced. None when that is nothing."""
        own = ("host", rule.host) if rule.host is not None else ("cidr", rule.cidr)
        if (self.destinations is not None and own not in self.destinations) or self.scheme not in (None, rule.scheme):
            return None
        ports = [port for port in rule.ports if self.ports is None or port in self.ports]
        return rule.model_copy(update={"ports": tuple(ports)}) if ports else None


@dataclass(frozen=True, slots=True)
class Binding:
    """A ToolBinding as it is compiled. `spec` is None when the object can't be read; `error` then says why, and the rest is what can be."""

    name: str
    generation: int
    created: str
    """RFC 3339; empty where there is no cluster."""
    spec: ToolBindingSpec | None = field(hash=False)
    error: str | None
    rules: Mapping[str, tuple[Said, ...]] = field(hash=False)
    """What the object says now under each rule name: whatever else is wrong, nothing more of that rule stays in force."""
    may_audit: bool
    """False when the mode is readable and not Audit."""
    selector: AgentSelector | None = field(hash=False)
    """None: absent, or unreadable when `selector_error`."""
    selector_error: bool = False

    def selects(self, labels: Mapping[str, str], previous: EgressPolicy | None = None) -> bool:
        """Whether an Agent with these labels is selected. A selector that can't be read keeps those who have the binding."""
        if self.selector_error:
            return previous is not None and previous.in_force(self.name) is not None
        return self.selector is not None and self.selector.selects(labels)


def read_binding(raw: Mapping[str, Any]) -> Binding:
    """A ToolBinding from an object as it is on the wire or in a file. What can't be read raises nothing here: it is `error`."""
    found = raw.get("metadata")
    metadata: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    name, generation = str(metadata.get("name") or ""), metadata.get("generation") or 0
    given = raw.get("spec")
    parts: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    spec, wrong = None, list(_identity_errors(name, generation))
    try:
        spec = parse_binding({} if given is None else given)
    except InvalidSpec as error:
        wrong.append(str(error))
    selector, selector_error = _readable_selector(parts)
    return Binding(
        name=name,
        generation=generation if isinstance(generation, int) else 0,
        created=str(metadata.get("creationTimestamp") or ""),
        spec=None if wrong else spec,
        error="; ".join(wrong) or None,
        rules=_readable_rules(parts.get("egress")),
        may_audit=parts.get("mode", "Enforce") not in ("Enforce", None),
        selector=selector,
        selector_error=selector_error,
    )


def _identity_errors(name: str, generation: object) -> Iterator[str]:
    """Each rule in force carries both. The API server lets no such object in; a file may be anything."""
    if not 0 < len(name) <= BINDING_NAME_MAX:
        yield f"metadata.name must have 1 to {BINDING_NAME_MAX} characters"
    if not isinstance(generation, int) or not 0 <= generation <= GENERATION_MAX:
        yield f"metadata.generation must be a whole number from 0 to {GENERATION_MAX}"


def _readable_rules(listed: object) -> dict[str, tuple[Said, ...]]:
    found: dict[str, tuple[Said, ...]] = {}
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping) and isinstance(name := each.get("name"), str):
            found[name] = (*found.get(name, ()), _said(each))
    return found


def _said(raw: Mapping[str, Any]) -> Said:
    given = {key: raw[key] for key in ("host", "cidr") if raw.get(key) is not None}
    scheme: Scheme | None = next((each for each in get_args(Scheme) if raw.get("scheme", "https") == each), None)
    ports: object = raw.get("ports")
    if ports is None and scheme is not None:
        ports = list(DEFAULT_PORTS.get(scheme, ()))
    readable = [port for port in ports if _reads(host="a.example", ports=[port])] if isinstance(ports, list) else ()
    return Said(
        destinations=frozenset(given.items()) if all(_reads(**{key: value}) for key, value in given.items()) else None,
        scheme=scheme,
        ports=frozenset(readable) if readable else None,
    )


def _reads(**fields: object) -> bool:
    """Whether these can stand in a rule."""
    try:
        EgressRule.model_validate({"name": "rule", **fields})
    except ValidationError:
        return False
    return True


def _readable_selector(spec: Mapping[str, Any]) -> tuple[AgentSelector | None, bool]:
    try:
        return parse_binding({"agentSelector": spec["agentSelector"]} if "agentSelector" in spec else {}).agent_selector, False
    except InvalidSpec:
        return None, True


def compile_policy(bindings: Iterable[Binding], labels: Mapping[str, str], previous: EgressPolicy | None = None) -> EgressPolicy:
    """What an Agent with these labels may reach by all of `bindings` that select it; as `combine`."""
    return combine((each for each in bindings if each.selects(labels, previous)), previous)


def combine(selected: Iterable[Binding], previous: EgressPolicy | None = None) -> EgressPolicy:
    """What an Agent may reach that all of these bindings select. Without any, a policy that allows nothing.

    A binding that can't be read, or whose rules find no room within the bounds, is in force as it is in `previous`, less what it says no
    longer; where it is not in `previous`, it is not in force. Room goes to older bindings first, and to each as a whole.
    """
    taken: list[PolicyBinding] = []
    rules: list[PolicyRule] = []
    for binding in sorted(selected, key=lambda each: (each.created, each.name)):
        for entry, added in _forms(binding, previous):
            if _fit([*taken, entry], [*rules, *added]):
                taken.append(entry)
                rules += added
                break
    return EgressPolicy.of(taken, rules)


def _forms(binding: Binding, previous: EgressPolicy | None) -> Iterator[tuple[PolicyBinding, list[PolicyRule]]]:
    """The binding as it is, then as it was when it was last good, narrowed to what it says now."""
    if binding.spec is not None:
        entry = PolicyBinding(name=binding.name, generation=binding.generation, mode=binding.spec.mode)
        yield entry, [_compiled(binding, rule) for rule in binding.spec.egress or ()]
    last = previous.in_force(binding.name) if previous is not None else None
    if previous is not None and last is not None and (binding.spec is None or last.generation != binding.generation):
        mode: Mode = last.mode if binding.may_audit else "Enforce"
        was = [rule for rule in previous.rules if rule.binding == binding.name and rule.rule in binding.rules]
        kept = [_narrowed(rule, binding.rules[rule.rule]) for rule in was]
        yield last.model_copy(update={"mode": mode}), [rule for rule in kept if rule is not None]


def _narrowed(rule: PolicyRule | None, said: Iterable[Said]) -> PolicyRule | None:
    """The part of `rule` that each of `said`, which now have its name, allows as well. None when that is nothing."""
    for each in said:
        rule = each.narrow(rule) if rule is not None else None
    return rule


def _compiled(binding: Binding, rule: EgressRule) -> PolicyRule:
    return PolicyRule(
        binding=binding.name,
        generation=binding.generation,
        rule=rule.name,
        host=rule.host,
        cidr=rule.cidr,
        ports=_ports(rule),
        scheme=rule.scheme,
    )


def _ports(rule: EgressRule) -> tuple[int, ...]:
    return tuple(sorted(rule.ports)) if rule.ports is not None else DEFAULT_PORTS[rule.scheme]


def _fit(bindings: Sequence[PolicyBinding], rules: Sequence[PolicyRule]) -> bool:
    return len(bindings) <= MAX_BINDINGS and len(rules) <= MAX_RULES and len(_rendered(bindings, rules)) <= MAX_BYTES

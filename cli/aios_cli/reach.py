"""What agents may reach by their manifests, and how two states of them differ. Pure: it compiles as the operator does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from publicsuffixlist import PublicSuffixList

from aios_api.addresses import INTERNAL, parse_network
from aios_api.binding import EgressRule
from aios_api.egress import Binding, EgressPolicy, PolicyRule, compile_policy, read_binding
from aios_cli.manifests import Manifests

WIDE_PREFIX = {4: 16, 6: 48}
"""A range with a shorter prefix holds hosts of many owners."""

_SUFFIXES = PublicSuffixList()
"""The Mozilla list as packaged, with its private part: below `github.io` or `s3.amazonaws.com` anybody may have a name."""


class AgentKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Severity(Enum):
    """How much a change asks for a look. The value is the exit code of `aiosctl diff`."""

    NONE = 0
    """Nothing is gained."""
    GAIN = 3
    """An agent gains a destination."""
    WIDE = 4
    """An agent gains something that one should not give without thinking: see `wide`."""


class Destination(NamedTuple):
    """Where an agent may go: all of a rule but its name and its binding."""

    scheme: str
    target: str
    port: int

    def __str__(self) -> str:
        bracketed = f"[{self.target}]" if ":" in self.target else self.target
        return f"{self.scheme}://{bracketed}:{self.port}"


EVERYWHERE = Destination("any", "every public address", 0)
"""What Audit mode lets through."""


@dataclass(frozen=True, slots=True)
class Change:
    """A destination that one agent gains or loses, and the rule that says so."""

    agent: AgentKey
    gained: bool
    destination: Destination
    binding: str
    rule: str
    why_wide: str
    """What is dangerous about it when gained; empty when nothing is."""

    @property
    def severity(self) -> Severity:
        if not self.gained:
            return Severity.NONE
        return Severity.WIDE if self.why_wide else Severity.GAIN


def bindings_by_namespace(manifests: Manifests) -> dict[str, list[Binding]]:
    """All ToolBindings as they are compiled."""
    found: dict[str, list[Binding]] = {}
    for manifest in manifests.of("ToolBinding"):
        found.setdefault(manifest.namespace, []).append(read_binding(manifest.raw))
    return found


def policies(manifests: Manifests) -> dict[AgentKey, EgressPolicy]:
    """The effective policy of every Agent. One that no binding selects has an empty one."""
    bindings = bindings_by_namespace(manifests)
    return {
        AgentKey(each.namespace, each.name): compile_policy(bindings.get(each.namespace, ()), each.labels) for each in manifests.of("Agent")
    }


def changes(before: Mapping[AgentKey, EgressPolicy], after: Mapping[AgentKey, EgressPolicy]) -> list[Change]:
    """Every destination that an agent gains or loses, by agent; what only moved to another rule or binding is no change."""
    found: list[Change] = []
    for agent in sorted({*before, *after}):
        old, new = _reached(before.get(agent)), _reached(after.get(agent))
        for destination in sorted({*old, *new}):
            if destination in old and destination in new:
                continue
            gained = destination in new
            binding, rule, why = (new if gained else old)[destination]
            found.append(Change(agent, gained, destination, binding, rule, why if gained else ""))
    return found


def severity(found: list[Change]) -> Severity:
    """The most severe of all."""
    return max((each.severity for each in found), key=lambda each: each.value, default=Severity.NONE)


def _reached(policy: EgressPolicy | None) -> dict[Destination, tuple[str, str, str]]:
    """Where a policy leads; with each destination one binding, rule and danger."""
    reached: dict[Destination, tuple[str, str, str]] = {}
    if policy is None:
        return reached
    for rule in policy.rules:
        for port in rule.ports:
            reached.setdefault(Destination(rule.scheme, _target(rule), port), (rule.binding, rule.rule, wide(rule)))
    for name in policy.audit_bindings:
        reached.setdefault(EVERYWHERE, (name, "mode: Audit", "Audit mode lets through what no rule allows, to every public address"))
    return reached


def _target(rule: PolicyRule) -> str:
    target = rule.host or rule.cidr
    assert target is not None, "a rule names a host or a range"
    return target


def wide(rule: PolicyRule | EgressRule) -> str:
    """Why the rule asks for a second look; empty when it does not."""
    if rule.host is not None:
        return _wide_host(rule.host)
    network = parse_network(rule.cidr or "")
    assert network is not None, "what was parsed is a range"
    if rule.scheme == "tcp":
        return "scheme tcp lets any bytes through, whatever they say"
    return _wide_range(network)


def _wide_host(host: str) -> str:
    if not host.startswith("*."):
        return ""
    parent = host[2:]
    if _SUFFIXES.publicsuffix(parent) == parent:
        return f"anybody can have a name below {parent}"
    return ""


def _wide_range(network: IPv4Network | IPv6Network) -> str:
    if not INTERNAL.is_public(network.network_address):
        return f"{network} is inside: loopback, private, link-local, metadata or the cluster's own"
    if network.prefixlen < WIDE_PREFIX[network.version]:
        return f"{network} has hosts of many owners"
    return ""

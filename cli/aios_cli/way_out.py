"""Whether one agent may reach one host, by which binding and rule, and what would allow it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import yaml

from aios_api.addresses import INTERNAL, Internal, parse_address
from aios_api.binding import Scheme
from aios_api.egress import Binding, Decision, EgressPolicy, Verdict

SCHEME_OF_PORT: Mapping[int, Scheme] = {80: "http"}
"""What a client uses at such a port; a tunnel everywhere else."""

_WHY = {
    Verdict.NotAllowed: "no rule of the bindings that select it allows this",
    Verdict.NoPolicy: "no binding selects it, so it may reach nothing",
    Verdict.InternalAddress: "the address is inside (loopback, private, link-local, metadata, cluster), and no rule names it by cidr",
    Verdict.InvalidHost: "the host must be a DNS name of at least two labels, or an address in its plain form",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, and what is inside there."""

    host: str
    port: int
    scheme: Scheme
    internal: Internal = INTERNAL

    def __str__(self) -> str:
        bracketed = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{bracketed}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether `asked` is allowed, with the sentences that say why and what follows."""

    agent: str
    asked: Asked
    decision: Decision
    lines: tuple[str, ...]


def asked(text: str, scheme: Scheme | None, internal_cidrs: Iterable[str] = ()) -> Asked:
    """HOST, HOST:PORT, an address, or [ADDRESS]:PORT, in a cluster with these ranges of its own. Raises `click.BadParameter`."""
    try:
        internal = Internal.with_cluster(internal_cidrs)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--internal-cidr") from None
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise click.BadParameter(
            f"must be HOST, HOST:PORT or [ADDRESS]:PORT with a port from 1 to 65535, not {text!r}", param_hint="--host"
        )
    number = int(port) if port else (80 if scheme == "http" else 443)
    return Asked(host, number, scheme or SCHEME_OF_PORT.get(number, "https"), internal)


def judge(agent: str, policy: EgressPolicy, what: Asked, bindings: Sequence[Binding], labels: Mapping[str, str]) -> Answer:
    """What the gateway decides before it resolves the name, with the bindings beside it."""
    decision = policy.judge(what.scheme, what.host, what.port, what.internal)
    lines = [*_because(decision), *_notes(decision, policy, bindings, labels)]
    if not decision.allowed and decision.verdict is not Verdict.InvalidHost:
        lines += ["what would allow it, in a ToolBinding that selects the Agent:", *_rule(what)]
    return Answer(agent, what, decision, tuple(lines))


def _because(decision: Decision) -> list[str]:
    rule = decision.rule
    if rule is not None:
        named = rule.host or rule.cidr
        generation = f", generation {rule.generation}" if rule.generation else ""  # a file has none
        return [f"by rule {rule.rule} ({named}) of ToolBinding {rule.binding}{generation}"]
    if decision.audited:
        return ["no rule allows it; a binding in Audit mode lets it through to public addresses, and it is counted as would-deny"]
    return [_WHY[decision.verdict]]


def _notes(decision: Decision, policy: EgressPolicy, bindings: Sequence[Binding], labels: Mapping[str, str]) -> list[str]:
    notes = []
    if decision.allowed and decision.address is None:
        notes.append("the name is resolved on the node; an address inside is refused unless a rule names it by cidr")
    if decision.allowed and decision.scheme == "https":
        notes.append("the TLS server name in the tunnel must be this host")
    broken = [each for each in bindings if each.error is not None and each.selects(labels, policy)]
    return [*notes, *(f"ToolBinding {each.name} can't be read, what was last good of it is in force: {each.error}" for each in broken)]


def _rule(what: Asked) -> list[str]:
    address = parse_address(what.host)
    where = {"cidr": str(address)} if address is not None else {"host": what.host.lower().removesuffix(".")}
    name = "".join(character if character.isalnum() else "-" for character in str(next(iter(where.values()))))[:63].strip("-")
    rule = {"name": name, **where, "ports": [what.port], "scheme": what.scheme}
    return [f"  {line}" for line in yaml.safe_dump({"egress": [rule]}, sort_keys=False).splitlines()]


def as_json(answer: Answer) -> dict[str, Any]:
    rule = answer.decision.rule
    return {
        "agent": answer.agent,
        "asked": {"scheme": answer.asked.scheme, "host": answer.asked.host, "port": answer.asked.port},
        "allowed": answer.decision.allowed,
        "reason": answer.decision.verdict.value,
        "rule": None if rule is None else {"binding": rule.binding, "generation": rule.generation, "name": rule.rule},
        "text": list(answer.lines),
    }

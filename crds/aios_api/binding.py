"""`ToolBinding`: what the Agents that it selects may reach, and what came of it.

Several bindings add up and nothing subtracts; what no rule allows is denied. Which addresses a rule means is judged in `egress`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from aios_api.addresses import can_be_reached, parse_network
from aios_api.agent import Conditions
from aios_api.meta import Count, Generation, InvalidSpec, Model, field_errors
from aios_api.schema import list_type, rule, rules

MAX_RULES: Final = 64
"""Of one binding."""
BINDING_NAME_MAX: Final = 63

Scheme = Literal["https", "http", "tcp"]
Mode = Literal["Enforce", "Audit"]

DEFAULT_PORTS: Final[Mapping[str, tuple[int, ...]]] = {"https": (443,), "http": (80,)}

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rf"({_LABEL}\.)+[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?"
"""Two labels at least: a shorter name means another host for each resolver. The last begins with a letter, so it is no address."""
_HOST: Final = re.compile(rf"(\*\.)?{_NAME}")
_HOST_NAME: Final = re.compile(_NAME)
_CEL_HOST = f"^(\\*\\.)?{_NAME}$".replace("\\", "\\\\")

RuleName = Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65_535, strict=True)]
LabelValue = Annotated[str, Field(max_length=63)]

_HOST_RULES = rules(
    rule(
        f"self.matches('{_CEL_HOST}')",
        "host must be a lower-case DNS name of at least two labels, or *. and such a name; an address must be given as cidr",
        reason="FieldValueInvalid",
    )
)
_NEVER = "['0.0.0.0/8', '224.0.0.0/3', '::/96', 'ff00::/8']"
_CIDR_RULES = rules(
    rule("isIP(self) || isCIDR(self)", "cidr must be an address or a range such as 10.0.0.7 or 10.0.0.0/24", reason="FieldValueInvalid"),
    rule("!isCIDR(self) || cidr(self) == cidr(self).masked()", "cidr must have no bits beside its prefix", reason="FieldValueInvalid"),
    rule(
        f"self in ['::1', '::1/128'] || {_NEVER}.all(never, (!isCIDR(self) || !cidr(never).containsCIDR(self))"
        " && (!isIP(self) || !cidr(never).containsIP(self)))",
        "cidr must not be an unspecified, multicast, reserved or IPv4-in-IPv6 range",
    ),
)
_RULE_RULES = rules(
    rule("has(self.host) != has(self.cidr)", "exactly one of host and cidr must be set", path=".host"),
    rule("self.scheme != 'tcp' || has(self.cidr)", "cidr must be set for scheme tcp: nothing in its bytes tells a host", path=".cidr"),
    rule("self.scheme != 'tcp' || has(self.ports)", "ports must be set for scheme tcp", path=".ports"),
)
_EXPRESSION_RULES = rules(
    rule(
        "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
        "values must be given for In and NotIn, and for these only",
        path=".values",
    )
)


class Requirement(Model):
    """One condition on the labels of an Agent."""

    model_config = ConfigDict(json_schema_extra=_EXPRESSION_RULES)

    key: Annotated[str, Field(min_length=1, max_length=317)] = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="In and NotIn compare with values; NotIn holds where the label is absent, too."
    )
    values: list[LabelValue] | None = Field(
        default=None, max_length=32, description="For In and NotIn.", json_schema_extra=list_type(unique=True)
    )

    @model_validator(mode="after")
    def _values_where_compared(self) -> Self:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            raise ValueError("values must be given for In and NotIn, and for these only")
        return self

    def holds(self, labels: Mapping[str, str]) -> bool:
        present, value = self.key in labels, labels.get(self.key)
        match self.operator:
            case "Exists":
                return present
            case "DoesNotExist":
                return not present
            case "In":
                return present and value in (self.values or ())
            case "NotIn":
                return value not in (self.values or ())


class AgentSelector(Model):
    """Agents of the binding's namespace, by their labels; all that is said must hold."""

    match_labels: dict[str, LabelValue] | None = Field(
        default=None, alias="matchLabels", max_length=16, description="Labels that the Agent must have, each with this value."
    )
    match_expressions: list[Requirement] | None = Field(
        default=None,
        alias="matchExpressions",
        max_length=16,
        description="Further conditions on its labels.",
        json_schema_extra=list_type(),
    )

    @property
    def empty(self) -> bool:
        """Nothing is asked for: it selects nothing."""
        return not self.match_labels and not self.match_expressions

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether an Agent with these labels is selected. An empty selector selects nothing."""
        return (
            not self.empty
            and all(labels.get(key) == value for key, value in (self.match_labels or {}).items())
            and all(requirement.holds(labels) for requirement in self.match_expressions or ())
        )


class EgressRule(Model):
    """One destination that is allowed."""

    model_config = ConfigDict(json_schema_extra=_RULE_RULES)

    name: RuleName = Field(description="How the rule is called in audits and by aiosctl explain.")
    host: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default=None,
        description="A DNS name, or *. and a name, where * stands for exactly one label. It is resolved on the node, and leads to public "
        "addresses only; an internal one must be named by a rule with cidr beside it.",
        json_schema_extra=_HOST_RULES,
    )
    cidr: Annotated[str, Field(min_length=1, max_length=43)] | None = Field(
        default=None,
        description="An address, or a range without bits beside its prefix. The only way to private, loopback, link-local, metadata and "
        "cluster addresses; a range names them only when it lies within that internal range: 0.0.0.0/0 names public addresses.",
        json_schema_extra=_CIDR_RULES,
    )
    ports: list[Port] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        description="Absent: 443 for https, 80 for http.",
        json_schema_extra=list_type(unique=True),
    )
    scheme: Scheme = Field(
        default="https",
        description="https: a tunnel (CONNECT) with TLS in it, whose server name is the host asked for. http: HTTP/1.1 without TLS, each "
        "request judged. tcp: a tunnel with any bytes, only with cidr.",
    )

    @model_validator(mode="after")
    def _is_one_destination(self) -> Self:
        if (self.host is None) == (self.cidr is None):
            raise ValueError("exactly one of host and cidr must be set")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise ValueError("host must be a lower-case DNS name of at least two labels, or *. and such a name")
        if self.cidr is not None:
            network = parse_network(self.cidr)
            if network is None:
                raise ValueError("cidr must be an address or a range without bits beside its prefix")
            if not can_be_reached(network):
                raise ValueError("cidr must not be an unspecified, multicast, reserved or IPv4-in-IPv6 range")
        if self.scheme == "tcp" and (self.cidr is None or self.ports is None):
            raise ValueError("cidr and ports must be set for scheme tcp")
        return self


class ToolBindingSpec(Model):
    """Who may reach what."""

    agent_selector: AgentSelector | None = Field(
        default=None,
        alias="agentSelector",
        description="The Agents of this namespace to which the binding applies. Absent or empty selects nothing.",
    )
    mode: Mode = Field(
        default="Enforce",
        description="Enforce: what no rule of any binding allows is denied. Audit: the selected Agents may reach every public address, and "
        "what no rule allows is counted as would-deny; its bytes are not looked at. Internal addresses stay denied.",
    )
    egress: list[EgressRule] | None = Field(
        default=None,
        max_length=MAX_RULES,
        description="Destinations that are allowed. Absent or empty allows nothing; several bindings add up.",
        json_schema_extra=list_type(keys=["name"]),
    )

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        names = [each.name for each in self.egress or ()]
        if len(set(names)) != len(names):
            raise ValueError("egress must have each name once")
        return self


class ToolBindingStatus(Model):
    """What came of the binding; written by the operator."""

    conditions: Conditions | None = Field(default=None, description="Accepted, ResolvedRefs, Programmed, Ready.")
    observed_generation: Generation | None = Field(
        default=None, alias="observedGeneration", description="The generation of the spec that this status speaks of."
    )
    agents: Count | None = Field(default=None, description="Agents that are selected.")
    programmed: Count | None = Field(
        default=None, description="Of these, Agents whose gateway has confirmed that this generation of the binding is in force."
    )
    would_deny: Count | None = Field(
        default=None,
        alias="wouldDeny",
        description="In Audit mode: connections and requests of the selected Agents that no rule allows, since each one's current attempt "
        "began. Absent in Enforce mode.",
    )


def is_host_name(name: str) -> bool:
    """A lower-case DNS name of at least two labels that no resolver takes for an address."""
    return len(name) <= 253 and _HOST_NAME.fullmatch(name) is not None


def parse_binding(spec: object) -> ToolBindingSpec:
    """The spec as a model. Raises `InvalidSpec`, whose message names the fields as the user wrote them."""
    try:
        return ToolBindingSpec.model_validate(spec)
    except ValidationError as error:
        raise InvalidSpec(field_errors(error)) from None

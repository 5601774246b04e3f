"""Which requests to an API server meet which fault: data, read from a YAML or JSON file, and the draws that follow from its seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from aios_api.meta import Model, field_errors
from aios_kube.errors import ApiError, Unreachable, from_status

Verb = Literal["get", "list", "watch", "create", "update", "apply", "patch", "delete"]
READS: tuple[Verb, ...] = ("get", "list", "watch")
REASONS = {409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
Seconds = Annotated[float, Field(gt=0, le=3600)]
Glob = Annotated[str, Field(min_length=1, max_length=253)]


class InvalidRules(ValueError):
    """The file can't be used; the message names each field and says what must be true."""


class Matching(Model):
    """Which requests, or events of a watch. What is absent matches all."""

    verbs: list[Verb] | None = Field(default=None, min_length=1)
    kinds: list[Glob] | None = Field(default=None, min_length=1)
    """Plurals, such as pods, or pods/status for a subresource. `*` stands for any part."""
    namespaces: list[Glob] | None = Field(default=None, min_length=1)
    names: list[Glob] | None = Field(default=None, min_length=1)
    events: list[Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]] | None = Field(default=None, min_length=1)
    """Of a watch: the rule is about its events and not about the request."""

    def takes(self, asked: Asked) -> bool:
        kind = f"{asked.kind}/{asked.subresource}" if asked.subresource else asked.kind
        return (
            (self.events is None) == (asked.event is None)
            and (self.events is None or asked.event in self.events)
            and (self.verbs is None or asked.verb in self.verbs)
            and _any(self.kinds, kind)
            and _any(self.namespaces, asked.namespace)
            and _any(self.names, asked.name)
        )


def _any(patterns: list[str] | None, text: str) -> bool:
    return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)


class Fault(Model):
    """What befalls it: exactly one of these."""

    answer: Literal[409, 410, 422, 429, 500, 502, 503, 504] | None = None
    """The server answers so, and does nothing."""
    retry_after_seconds: Annotated[int, Field(ge=1, le=3600)] | None = Field(default=None, alias="retryAfterSeconds")
    """Of an answer 429 or 503."""
    reset: Literal["before", "after"] | None = None
    """The connection is cut: before the server heard of it, or after it did what was asked. A watch is cut at its beginning."""
    delay_seconds: Seconds | None = Field(default=None, alias="delaySeconds")
    """A request, or an event and all that come after it, arrives so much later."""
    stall: bool = False
    """A watch stays open and says nothing more; another request is not heard, and its connection stays open."""
    stale: bool = False
    """A get or list is answered as the last one like it was."""
    drop: bool = False
    """An event never arrives."""
    duplicate: bool = False
    """An event arrives twice."""
    hold: Annotated[int, Field(ge=1, le=100)] | None = None
    """An event arrives after so many others that came later."""

    @property
    def chosen(self) -> list[str]:
        return [each for each in type(self).model_fields if each != "retry_after_seconds" and getattr(self, each) not in (None, False)]


OF_EVENTS = {"delay_seconds", "drop", "duplicate", "hold"}
OF_REQUESTS = {"answer", "reset", "delay_seconds", "stall", "stale"}


class Rule(Model):
    """Of what matches, the ones that are chosen meet the fault."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    when: Matching = Matching()
    do: Fault
    nth: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    """The first, second, … one that matches."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Every so many-th."""
    probability: Annotated[float, Field(gt=0, le=1)] | None = None
    """Each by chance; drawn from the seed."""
    times: Annotated[int, Field(ge=1)] | None = None
    """At most so often."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.do.chosen) != 1:
            raise ValueError(f"do must name exactly one fault, not {', '.join(self.do.chosen) or 'none'}")
        (fault,) = self.do.chosen
        if fault not in (OF_EVENTS if self.when.events is not None else OF_REQUESTS):
            raise ValueError(f"do.{fault} befalls {'requests' if self.when.events is not None else 'events: name them in when.events'}")
        if self.do.retry_after_seconds is not None and self.do.answer not in (429, 503):
            raise ValueError("do.retryAfterSeconds must stand beside an answer of 429 or 503")
        if fault == "stale" and not set(self.when.verbs or ("watch",)) <= {"get", "list"}:
            raise ValueError("do.stale must be on the verbs get or list only")
        if sum(each is not None for each in (self.nth, self.every, self.probability)) > 1:
            raise ValueError("only one of nth, every and probability may be given")
        return self


class Rules(Model):
    """A file of rules. The first rule that chooses a request is the one that counts."""

    seed: Annotated[int, Field(ge=0)] = 1
    rules: list[Rule] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [rule.name for rule in self.rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"names of rules must differ; twice there: {', '.join(sorted(twice))}")
        return self


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, or one event of a watch."""

    verb: Verb
    kind: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    event: str | None = None


def read(path: Path) -> Rules:
    """The rules in a file. Raises `InvalidRules`."""
    try:
        return parse(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidRules(f"{path} must be a readable YAML or JSON file: {error}") from error


def parse(raw: object) -> Rules:
    try:
        return Rules.model_validate(raw)
    except ValidationError as error:
        raise InvalidRules(field_errors(error, "rules")) from None


@dataclass
class Draws:
    """Which rule a request meets. `counts` says how often each has injected its fault."""

    rules: Rules
    counts: dict[str, int] = field(default_factory=dict)
    active: bool = True
    """Nothing befalls anybody while it is not."""
    _matched: dict[str, int] = field(default_factory=dict)
    _chances: dict[str, random.Random] = field(default_factory=dict)

    @property
    def injected(self) -> int:
        return sum(self.counts.values())

    def idle_since(self, counts: Mapping[str, int]) -> list[str]:
        """Rules that have injected nothing since `counts` were these."""
        return [rule.name for rule in self.rules.rules if self.counts.get(rule.name, 0) == counts.get(rule.name, 0)]

    def draw(self, asked: Asked) -> Fault | None:
        """The fault that befalls this one."""
        if not self.active:
            return None
        for rule in self.rules.rules:
            if rule.when.takes(asked) and self._chooses(rule):
                self.counts[rule.name] = self.counts.get(rule.name, 0) + 1
                return rule.do
        return None

    def _chooses(self, rule: Rule) -> bool:
        number = self._matched[rule.name] = self._matched.get(rule.name, 0) + 1
        if rule.times is not None and self.counts.get(rule.name, 0) >= rule.times:
            return False
        if rule.nth is not None:
            return number in rule.nth
        if rule.every is not None:
            return number % rule.every == 0
        if rule.probability is not None:
            chance = self._chances.setdefault(rule.name, random.Random(f"{self.rules.seed} {rule.name}"))  # noqa: S311 - faults
            return chance.random() < rule.probability
        return True


def status(fault: Fault) -> dict[str, Any]:
    """The Kubernetes `Status` of an answer."""
    code = fault.answer
    assert code is not None
    details: Mapping[str, Any] = {"retryAfterSeconds": fault.retry_after_seconds} if fault.retry_after_seconds else {}
    reason = REASONS.get(code, "")
    said = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": f"injected: {code} {reason}",
    }
    return {**said, "details": dict(details)}


def on_fake(draws: Draws, cluster: Any) -> None:
    """The same rules in front of a `FakeCluster`, as far as a call has an answer there: answers, and connections that are cut."""

    def asked(call: Any) -> Asked:
        return Asked(call.verb, call.resource.plural, call.namespace, call.name, call.subresource or "")

    lost: list[Any] = []

    def refuse(call: Any) -> ApiError | None:
        fault = draws.draw(asked(call))
        if fault is None:
            return None
        if fault.answer is not None:
            return from_status(fault.answer, status(fault))
        if fault.reset == "after" and call.writes:
            lost.append(call)
            return None
        return Unreachable("injected: the connection was cut") if fault.reset else None

    def lose(call: Any) -> ApiError | None:
        if call not in lost:
            return None
        lost.remove(call)
        return Unreachable("injected: the connection was cut after the request was carried out")

    cluster.refuse.append(refuse)
    cluster.lose.append(lose)

"""What the loop's workers work for: one subject is worked for by one of them at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from aios_operator.decide.views import Key
from aios_operator.observe.store import Store


class Quotas(NamedTuple):
    """The GPUQuotas of a namespace."""

    namespace: str


@dataclass(frozen=True, slots=True)
class Bindings:
    """The ToolBindings of a namespace."""

    namespace: str


@dataclass(frozen=True, slots=True)
class Exposure:
    """An Agent's Service and NetworkPolicy: a name that is taken holds up nothing else of the Agent's."""

    key: Key


@dataclass(frozen=True, slots=True)
class GoneNode:
    """A node of which only its Lease is left."""

    name: str


@dataclass(frozen=True, slots=True)
class Ranges:
    """The cluster's own address ranges."""


Subject = Key | str | Quotas | Bindings | Exposure | GoneNode | Ranges
"""What a worker works for: an Agent, what it exposes, a namespace, its quotas, its bindings, a node that is gone, or what gateways are told
of the cluster's addresses."""


def named(subject: Subject) -> str:
    """For the log."""
    if isinstance(subject, Quotas):
        return f"GPUQuotas of namespace {subject.namespace}"
    if isinstance(subject, Bindings):
        return f"ToolBindings of namespace {subject.namespace}"
    if isinstance(subject, GoneNode):
        return f"node {subject.name}, which is gone"
    if isinstance(subject, Ranges):
        return "address ranges of the cluster"
    if isinstance(subject, Exposure):
        return f"what {'/'.join(subject.key)} exposes"
    return "/".join(subject) if isinstance(subject, Key) else f"namespace {subject}"


def plan_again(subject: Subject, store: Store) -> None:
    """It is planned in the next turn in which it may be."""
    match subject:
        case Key():
            store.dirty.add(subject)
        case Quotas(namespace):
            store.dirty_quotas.add(namespace)
        case Bindings(namespace):
            store.dirty_bindings.add(namespace)
        case Exposure(key):
            store.dirty_exposures.add(key)
        case GoneNode(name):
            store.gone_nodes.add(name)
        case Ranges():
            store.ranges.dirty = True
        case _:
            store.dirty_namespaces.add(subject)

"""Which bindings may select which Agents, so that a change of one concerns few of the other.

A selector that asks for a label is looked up by one of those; only what asks for none is compared with every Agent of its namespace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeVar

from aios_api.egress import Binding
from aios_operator.decide.views import AgentView, BindingView, Key

Pair = tuple[str, str, str]
"""Namespace, label, value. An empty label: no label in particular."""

Member = TypeVar("Member")
Value = TypeVar("Value")


class Selections:
    """Told of every Agent and every binding; a binding that is being deleted counts no longer."""

    def __init__(self) -> None:
        self._bindings: defaultdict[Pair, dict[str, Binding]] = defaultdict(dict)
        self._agents: defaultdict[Pair, dict[Key, Mapping[str, str]]] = defaultdict(dict)

    def agent_changed(self, old: AgentView | None, new: AgentView | None) -> None:
        for view in (old, new):
            for pair in _pairs_of_agent(view):
                if view is new and new is not None:
                    self._agents[pair][new.key] = new.labels
                elif old is not None:
                    _drop(self._agents, pair, old.key)

    def binding_changed(self, old: BindingView | None, new: BindingView | None) -> set[Key]:
        """The Agents that it selected or selects; all of the namespace where it can't be read whom."""
        concerned: set[Key] = set()
        for view in (old, new):
            if view is None or view.deleting:
                continue
            pair = _pair_of_binding(view)
            if view is new:
                self._bindings[pair][view.name] = view.binding
            else:
                _drop(self._bindings, pair, view.name)
            binding = view.binding
            agents = self._agents.get(pair, {})
            concerned |= {key for key, labels in agents.items() if binding.selector_error or binding.selects(labels)}
        return concerned

    def of(self, key: Key, labels: Mapping[str, str]) -> tuple[Binding, ...]:
        """The bindings that may select an Agent with these labels: all that do are among them."""
        return tuple(binding for pair in _pairs(key.namespace, labels) for binding in self._bindings.get(pair, {}).values())


def _pairs(namespace: str, labels: Mapping[str, str]) -> Iterator[Pair]:
    yield namespace, "", ""
    for label, value in labels.items():
        yield namespace, label, value


def _pairs_of_agent(view: AgentView | None) -> Iterator[Pair]:
    return _pairs(view.key.namespace, view.labels) if view is not None else iter(())


def _pair_of_binding(view: BindingView) -> Pair:
    selector = view.binding.selector
    asked = selector.match_labels if selector is not None else None
    return (view.namespace, *min(asked.items())) if asked else (view.namespace, "", "")


def _drop(index: defaultdict[Pair, dict[Member, Value]], pair: Pair, member: Member) -> None:
    index[pair].pop(member, None)
    if not index[pair]:
        del index[pair]

"""The index from labels to bindings says what comparing every Agent with every binding says, whatever came and went before."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aios_operator.decide.views import AgentView, BindingView, Key
from aios_operator.observe import parse, reach
from aios_operator.observe.selection import Selections

labels = st.dictionaries(st.sampled_from(["app", "team"]), st.sampled_from(["a", "b"]))
expressions = st.lists(
    st.sampled_from(
        [
            {"key": "app", "operator": "Exists"},
            {"key": "app", "operator": "NotIn", "values": ["a"]},
            {"key": "team", "operator": "In", "values": ["a", "b"]},
        ]
    ),
    max_size=2,
)
selectors = st.one_of(
    st.none(),
    st.builds(lambda wanted, listed: {"matchLabels": wanted, "matchExpressions": listed}, labels, expressions),
    st.just({"matchLabels": 7}),
)
namespaces = st.sampled_from(["n1", "n2"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("agent"), namespaces, st.sampled_from(["x", "y", "z"]), st.none() | labels),
        st.tuples(st.just("binding"), namespaces, st.sampled_from(["p", "q"]), st.just("gone") | selectors, st.booleans()),
    ),
    max_size=14,
)


def metadata(namespace: str, name: str, **more: Any) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z", **more}


def an_agent(namespace: str, name: str, marked: dict[str, str]) -> AgentView:
    return parse.agent({"metadata": metadata(namespace, name, labels=marked), "spec": {"template": {"spec": {"containers": []}}}})


def a_binding(namespace: str, name: str, selector: Any, deleting: bool) -> BindingView:
    more = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {}
    return reach.binding({"metadata": metadata(namespace, name, **more), "spec": {} if selector is None else {"agentSelector": selector}})


@given(steps)
def test_the_index_says_what_comparing_everything_says(several: list[Any]) -> None:
    index = Selections()
    agents: dict[Key, AgentView] = {}
    bindings: dict[Key, BindingView] = {}
    for kind, namespace, name, *said in several:
        key = Key(namespace, name)
        if kind == "agent":
            old, new = agents.pop(key, None), an_agent(namespace, name, said[0]) if said[0] is not None else None
            if old is None and new is None:
                continue
            index.agent_changed(old, new)
            if new is not None:
                agents[key] = new
        else:
            before, after = bindings.pop(key, None), None if said[0] == "gone" else a_binding(namespace, name, *said)
            if before is None and after is None:
                continue
            concerned = index.binding_changed(before, after)
            views = [view for view in (before, after) if view is not None and not view.deleting]
            assert concerned == {
                each.key
                for each in agents.values()
                for view in views
                if view.namespace == each.key.namespace and (view.binding.selector_error or view.binding.selects(each.labels))
            }
            if after is not None:
                bindings[key] = after
    for each in agents.values():
        here = [view.binding for view in bindings.values() if view.namespace == each.key.namespace and not view.deleting]
        found = {binding.name for binding in index.of(each.key, each.labels)}
        assert {binding.name for binding in here if binding.selector_error or binding.selects(each.labels)} <= found
        assert found <= {binding.name for binding in here}
    for each in list(agents.values()):
        index.agent_changed(each, None)
    for view in bindings.values():
        index.binding_changed(view, None)
    assert not index._agents
    assert not index._bindings

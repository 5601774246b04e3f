"""Pods that are gone without their kubelet's word, until their node was heard."""

from dataclasses import replace
from typing import Any

import pytest

from aios_api import names
from aios_operator.decide.lost import BY_POD_GC, Leaving
from aios_operator.decide.views import Key, PodView
from aios_operator.observe import parse
from aios_operator.observe.vanished import KEPT, Vanished

A = Key("team", "a")


def pod(phase: str = "Running", node: str | None = "n1", **status: Any) -> PodView:
    labels = {names.LABEL_AGENT: "a", names.LABEL_AGENT_UID: "u", names.LABEL_ATTEMPT: "1"}
    metadata = {"namespace": "team", "name": "a-1", "uid": "p", "resourceVersion": "1", "labels": labels}
    spec = {"containers": [{"name": "main", "image": "i"}], **({"nodeName": node} if node else {})}
    view = parse.pod({"metadata": metadata, "spec": spec, "status": {"phase": phase, **status}})
    assert view is not None
    return view


def test_it_may_run_on_until_its_node_was_heard_twice():
    vanished = Vanished()
    vanished.removed(pod(), lambda node: "1")
    assert vanished.unconfirmed(A, "u") == (Leaving("n1", 1),)
    assert vanished.unconfirmed(A, "another") == (), "of the Agent that had the name before"
    assert vanished.nodes(A) == {"n1"}
    for version, over in (("1", False), ("1", False), ("2", False), ("3", True), ("3", True)):
        vanished.heard({"n1": version}.__getitem__)
        assert (vanished.confirmed(A, "u") == {1}) is over
        assert (vanished.unconfirmed(A, "u") == ()) is over


def test_what_is_known_is_told_when_it_changes_and_forgotten_when_it_is_old():
    vanished = Vanished()
    vanished.removed(pod(), lambda node: "0")
    for version in range(1, KEPT + 1):
        assert vanished.heard(lambda node, now=version: str(now)) == {A}  # type: ignore[misc]
    assert vanished.confirmed(A, "u") == {1}
    assert vanished.heard(lambda node: "last") == {A}
    assert vanished.nodes(A) == set()
    assert vanished.heard(lambda node: "more") == set()


@pytest.mark.parametrize("view", [pod("Succeeded"), pod("Failed"), pod("Pending", None)])
def test_a_kubelet_that_said_how_it_ended_is_believed_and_what_had_no_node_never_ran(view: PodView):
    vanished = Vanished()
    vanished.removed(view, lambda node: "1")
    assert vanished.unconfirmed(A, "u") == ()


def test_what_was_ended_by_somebody_else_in_its_kubelets_place_may_run_on():
    vanished = Vanished()
    vanished.removed(replace(pod("Failed"), disruption=(BY_POD_GC, "")), lambda node: "1")
    assert vanished.unconfirmed(A, "u") == (Leaving("n1", 1),)


def test_a_lease_that_is_removed_or_seen_for_the_first_time_is_no_renewal():
    vanished = Vanished()
    vanished.removed(pod(), lambda node: "")
    for version in ("1", "", "", "1", "2", ""):
        vanished.heard(lambda node, now=version: now)  # type: ignore[misc]
        assert vanished.unconfirmed(A, "u") == (Leaving("n1", 1),)
    vanished.heard(lambda node: "3")
    assert vanished.confirmed(A, "u") == {1}


def test_a_node_that_is_never_heard_again_is_not_waited_for_once_the_next_attempt_has_its_pod():
    vanished = Vanished()
    vanished.removed(pod(), lambda node: "1")
    vanished.followed(pod())
    assert vanished.nodes(A) == {"n1"}
    vanished.followed(replace(pod(), attempt=2))
    assert vanished.nodes(A) == set()


def test_a_node_without_a_lease_is_not_heard():
    vanished = Vanished()
    vanished.removed(pod(), lambda node: "")
    vanished.heard(lambda node: "")
    assert vanished.unconfirmed(A, "u") == (Leaving("n1", 1),)
    vanished.forget(A)
    assert vanished.unconfirmed(A, "u") == ()

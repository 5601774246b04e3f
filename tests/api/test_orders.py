"""What the API server holds the operator's orders to."""

import pytest

from api.support import Object, Space, order, refusal


def updated(space: Space, body: Object) -> Object:
    """The stored order after the update, or the Status that refused it."""
    answer = space.apply(body, "operator", force=True)
    content: Object = answer.json()
    return content


def test_an_order_is_as_it_was_within_its_attempt(space: Space) -> None:
    assert space.apply(order(), "operator").status_code == 201
    assert updated(space, order())["metadata"]["generation"] == 1
    assert (
        "attempt must grow when anything but egress, expose, context, contextFrom changes"
        in updated(space, order(node="node-b"))["message"]
    )
    assert updated(space, order(attempt=2, node="node-b"))["spec"]["attempt"] == 2
    assert "attempt must grow" in updated(space, order(attempt=1, node="node-b"))["message"]


def test_what_is_in_force_at_once_changes_within_an_attempt(space: Space) -> None:
    policy = {"digest": "0" * 64, "bindings": [], "rules": []}
    assert space.apply(order(), "operator").status_code == 201
    assert updated(space, order(egress=policy))["metadata"]["generation"] == 2
    port = {"name": "http", "port": 8080, "protocol": "TCP"}
    assert updated(space, order(egress={**policy, "digest": "1" * 64}, expose=[port]))["metadata"]["generation"] == 3
    assert "egress" not in updated(space, order())["spec"]
    gpu = {"uuid": "GPU-1", "model": "m", "memory": "1Gi"}
    assert "attempt must grow" in updated(space, order(gpu=gpu))["message"]
    assert updated(space, order(attempt=2, gpu=gpu))["spec"]["attempt"] == 2
    assert "attempt must grow" in updated(space, order(attempt=2))["message"]


def test_a_node_hears_of_the_orders_that_fetch_a_context_from_it(space: Space) -> None:
    origin = {"nodeName": "node-b"}
    assert space.apply(order(contextFrom=origin), "operator").status_code == 201
    keys = {"address": "10.0.0.1:9491", "certificate": "QUJD", "receiver": "QUJD"}
    assert updated(space, order(contextFrom={**origin, **keys}))["spec"]["contextFrom"] == {**origin, **keys}

    def heard(node: str) -> int:
        answer = space.client.get(space.path("agentruntimes"), params={"fieldSelector": f"spec.contextFrom.nodeName={node}"})
        return len(answer.json()["items"])

    assert (heard("node-b"), heard("node-a")) == (1, 0)


def test_an_order_stays_with_its_agent(space: Space) -> None:
    assert space.apply(order(), "operator").status_code == 201
    assert "agentUID must not change" in updated(space, order(attempt=2, agentUID="u2"))["message"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"claimName": "other-1", "podName": "other-1"},
            "spec.claimName: Invalid value: claimName must be the Agent's name, a dash and the attempt",
        ),
        ({"claimName": "agent-2", "podName": "agent-2"}, "claimName must be"),
        ({"claimName": "agent-x", "podName": "agent-x"}, "claimName must be"),
        ({"podName": "agent-2"}, "spec.podName: Invalid value: podName must be as claimName"),
        ({"attempt": 0}, "spec.attempt"),
        ({"nodeName": ""}, "spec.nodeName"),
    ],
)
def test_an_order_names_claim_and_pod_after_agent_and_attempt(shared_space: Space, spec: Object, message: str) -> None:
    assert message in refusal(shared_space.create(order(**spec)))


def test_the_longest_name_and_the_last_attempt_fit(shared_space: Space) -> None:
    assert shared_space.create(order("a" * 52, attempt=2**31 - 1)).status_code == 201

"""What runs on when its pod is gone from the API: killed, and nothing else is. Real processes in cgroups named as a kubelet names them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aios_kube.errors import ApiError, Unreachable
from aios_kube.fake import Call, FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, EVENTS, RESOURCE_CLAIMS
from node.played import Played
from node.support import (
    NAMESPACE,
    POD_UID,
    Pod,
    a_claim,
    a_cluster,
    a_pod,
    a_runtime,
    ask,
    eventually,
    prepare,
    running,
    settings_in,
    uid,
)

Play = Callable[[str], Played]
SOON = {"leftover_seconds": 0.1, "reservation_seconds": 0.3}


def reasons(cluster: FakeCluster) -> set[str]:
    return {event["reason"] for event in cluster.all(EVENTS)}


@pytest.mark.parametrize("how", ["the claim is gone", "it is another one", "it is reserved for nobody"])
async def test_containers_of_a_pod_that_is_gone_from_the_api_are_killed(
    directory: Path, hook: Path, pod: Pod, play: Play, how: str
) -> None:
    """However long their grace is: what they had booked is free for others."""
    settings, cluster = settings_in(directory, hook, **SOON), a_cluster()
    ghost, neighbour = play(POD_UID), play(uid(77))
    for each in (ghost, neighbour):
        each.start()
    async with running(settings, cluster):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        assert ghost.alive
        if how == "it is reserved for nobody":
            cluster.alter(RESOURCE_CLAIMS, "agent-1", {"status": {"reservedFor": None}}, NAMESPACE)
        else:
            cluster.remove(RESOURCE_CLAIMS, "agent-1", NAMESPACE)
        if how == "it is another one":
            cluster.put(RESOURCE_CLAIMS, a_claim(claim_uid=uid(50)))
        await eventually(lambda: not ghost.alive)
        assert neighbour.alive
        await eventually(lambda: "LeftRunning" in reasons(cluster))


async def test_a_pod_that_ends_in_its_grace_is_left_alone_when_its_order_has_gone(
    directory: Path, hook: Path, pod: Pod, play: Play
) -> None:
    settings, cluster = settings_in(directory, hook, leftover_seconds=0.05), a_cluster()
    ending = play(POD_UID)
    ending.start()
    async with running(settings, cluster) as agent:
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        cluster.remove(AGENT_RUNTIMES, "agent", NAMESPACE)
        await eventually(lambda: not agent.orders.all())
        before = len(asked(cluster))
        await eventually(lambda: len(asked(cluster)) >= before + 3)
        assert ending.alive


async def test_nobody_is_killed_while_the_api_can_not_say(directory: Path, hook: Path, pod: Pod, play: Play) -> None:
    settings, cluster = settings_in(directory, hook, **SOON), a_cluster()
    agent = play(POD_UID)
    agent.start()

    def away(call: Call) -> ApiError | None:
        return Unreachable("no answer") if call.resource == RESOURCE_CLAIMS else None

    async with running(settings, cluster):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        cluster.remove(RESOURCE_CLAIMS, "agent-1", NAMESPACE)
        cluster.refuse.append(away)
        before = len(asked(cluster))
        await eventually(lambda: len(asked(cluster)) >= before + 3)
        assert agent.alive
        cluster.refuse.clear()
        await eventually(lambda: not agent.alive)


async def test_the_next_attempt_starts_where_nothing_of_the_one_before_runs(directory: Path, hook: Path, pod: Pod, play: Play) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    former = play(POD_UID)
    former.start()
    with a_pod(2) as another:
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            cluster.remove(RESOURCE_CLAIMS, "agent-1", NAMESPACE)
            cluster.put(AGENT_RUNTIMES, a_runtime(attempt=2))
            cluster.put(RESOURCE_CLAIMS, a_claim(attempt=2, claim_uid=uid(51), pod_uid=uid(52)))
            assert not (await prepare(settings, uid(51), "agent-2")).error
            state = another.oci_state(pod_uid=uid(52), pod_name="agent-2")
            assert (await ask(settings, state, uid(51))).code == 0
            await eventually(lambda: not former.alive)


def asked(cluster: FakeCluster) -> list[Call]:
    return [call for call in cluster.calls if call.verb == "get" and call.resource == RESOURCE_CLAIMS]

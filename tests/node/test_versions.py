"""Node agent and gateway of two releases beside each other, as during an update: what they can't say to each other is not guessed."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aios_sidecar.contracts.link import HANDOVER_VERSION, Hello
from aios_sidecar.handover import LinkClosedError, connect
from aios_sidecar.node import link
from aios_sidecar.node.conditions import ALL_LISTENERS
from node.support import CLAIM_UID, Pod, a_cluster, ask, eventually, prepare, running, settings_in
from node.test_mute import ANSWERED, MUTE, MUTE_SECONDS, answer, eventually_answers
from node.test_restarts import gateway


@contextmanager
def next_release() -> Iterator[None]:
    """Node agents in this process speak the next contract; a gateway in another process does not."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(link, "HANDOVER_VERSION", HANDOVER_VERSION + 1)
        changed.setattr(Hello.model_fields["contract"], "default", HANDOVER_VERSION + 1)
        Hello.model_rebuild(force=True)
        yield
    Hello.model_rebuild(force=True)


async def test_a_gateway_of_another_contract_gets_no_listeners_and_the_right_one_does(directory: Path, hook: Path, pod: Pod):
    settings = settings_in(directory, hook)
    async with running(settings, a_cluster()) as agent:
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        other = await connect(settings.gateway_socket, peer=os.geteuid())
        await other.send(Hello(contract=HANDOVER_VERSION + 1))
        assert (await other.receive()).message == Hello()
        with pytest.raises(LinkClosedError):
            await other.receive()
        async with gateway(settings.gateway_socket):
            await eventually(lambda: agent.claims.get(CLAIM_UID).facts.serving == ALL_LISTENERS)


async def test_an_agent_between_two_releases_falls_silent_behind_its_fence_and_is_answered_once_they_are_one(
    directory: Path, hook: Path, pod: Pod
):
    settings, cluster = settings_in(directory, hook, mute_seconds=MUTE_SECONDS), a_cluster()
    path = settings.agent_socket(CLAIM_UID)
    async with gateway(settings.gateway_socket, **MUTE) as old:
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            await eventually_answers(path, ANSWERED)
        with next_release():
            async with running(settings, cluster) as agent:
                live = agent.claims.get(CLAIM_UID)
                await eventually(lambda: live.facts.fenced)
                await asyncio.sleep(2 * MUTE_SECONDS)
                assert live.facts.serving == frozenset(), "nobody says that it is served"
                assert not await is_answered(path)
        old.kill()
        await old.wait()
    async with gateway(settings.gateway_socket, **MUTE), running(settings, cluster), asyncio.timeout(60):
        while not await is_answered(path):
            await asyncio.sleep(0.05)


async def is_answered(path: Path) -> bool:
    try:
        return await asyncio.to_thread(answer, path, 1.0) == ANSWERED
    except OSError:
        return False

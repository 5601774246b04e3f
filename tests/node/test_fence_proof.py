"""A fence that is proven or not, from inside the pod, and what the node agent does about it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_kube.errors import Unreachable
from aios_kube.fake import FakeCluster
from aios_kube.resources import AGENT_RUNTIMES, EVENTS
from aios_sidecar.node import fence, prober
from aios_sidecar.node.netns import NetworkNamespace
from aios_sidecar.node.probe import Found, ProbeFailed, Surroundings, probe
from aios_sidecar.node.state import Opening
from node.fencing import ECHO, NAMES, OTHER, SILENCE_SECONDS, WEB, Receiver, echoes, fenced, inside, own_address
from node.played import Played
from node.support import (
    CLAIM_UID,
    NAMESPACE,
    POD_UID,
    Pod,
    a_cluster,
    a_runtime,
    ask,
    condition,
    eventually,
    prepare,
    running,
    settings_in,
    uid,
)


def test_a_fence_that_stands_is_proven_in_every_direction(pod: Pod) -> None:
    with fenced(pod, WEB) as namespace:
        found = probe(namespace, around(pod))
        assert (found.leaked, found.unclear) == ((), ())
        assert {f"kubelet tcp {pod.outside4}:10250", f"pod tcp {own_address(pod)[:-1]}3:2489", "elsewhere icmp 192.0.2.1"} <= set(
            found.tried
        )
        assert fence.stands(namespace, frozenset((WEB,))), "nothing of the probe is left"
        assert "aiosprobe" not in pod.run("nft", "list", "ruleset").stdout


def test_without_a_fence_every_way_leads_out_and_still_nobody_is_reached(pod: Pod) -> None:
    """Also where somebody listens, and where somebody refuses: a refusal from outside is no proof."""
    with Receiver(10250) as receiver, NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
        found = probe(namespace, around(pod))
        assert set(found.leaked) == set(found.tried)
        assert receiver.heard == []


HOLES = [
    ("udp dport 53 accept", {"resolver udp 10.96.0.10:53", "resolver udp 169.254.20.10:53"}, "udp"),
    ("tcp dport 10250 accept", {"kubelet tcp {v4}:10250"}, "kubelet"),
    ("ip daddr 169.254.169.254 accept", {"metadata tcp 169.254.169.254:80"}, "metadata"),
    ("meta nfproto ipv6 accept", {"elsewhere tcp [2001:db8::1]:443"}, "["),
    ("ip daddr {v4} tcp dport 80 accept", {"node tcp {v4}:80"}, "node tcp"),
]


@pytest.mark.parametrize(("rule", "at_least", "only"), HOLES, ids=[rule for rule, _, _ in HOLES])
def test_a_hole_is_found_and_named(pod: Pod, rule: str, at_least: set[str], only: str) -> None:
    with fenced(pod) as namespace:
        assert pod.run("nft", "insert", "rule", "inet", "aios", "output", *rule.format(v4=pod.outside4).split()).returncode == 0
        found = probe(namespace, around(pod))
        assert {way.format(v4=pod.outside4) for way in at_least} <= set(found.leaked)
        assert all(only in way for way in found.leaked), found.leaked
        assert found.unclear == ()


def test_where_everything_is_dropped_in_silence_nothing_is_proven(pod: Pod) -> None:
    """Nothing gets out, but it is not our fence that holds it, so a connection is never refused."""
    with NetworkNamespace(Path(f"/run/netns/{pod.name}")) as namespace:
        for command in ("add table inet other", "add chain inet other out { type filter hook output priority -10; policy drop; }"):
            assert pod.run("nft", command).returncode == 0
        assert pod.run("nft", "add rule inet other out oifname lo accept").returncode == 0
        found = probe(namespace, around(pod))
        assert found.leaked == ()
        assert any(" tcp " in way for way in found.unclear)


def around(pod: Pod) -> Surroundings:
    return Surroundings((pod.outside4, pod.outside6), ("10.96.0.10",), (("10.96.0.1", 443),))


def status(cluster: FakeCluster) -> dict[str, object]:
    found = cluster.peek(AGENT_RUNTIMES, "agent", NAMESPACE)
    assert found is not None
    return found.get("status") or {}


def exposes(*openings: Opening) -> list[dict[str, object]]:
    return [{"name": f"p{number}", "port": each.port, "protocol": each.protocol} for number, each in enumerate(openings)]


async def test_ports_open_and_close_on_the_running_pod_as_ordered(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster, at = settings_in(directory, hook), a_cluster(runtime=a_runtime(expose=exposes(WEB))), own_address(pod)
    with inside(pod, ECHO):
        async with running(settings, cluster):
            await prepare(settings)
            assert (await ask(settings, pod.oci_state())).code == 0
            assert await asyncio.to_thread(echoes, at, 8080)
            await eventually(lambda: status(cluster).get("exposed") == [{"port": 8080, "protocol": "TCP"}])
            cluster.put(AGENT_RUNTIMES, a_runtime(expose=exposes(OTHER, NAMES)))
            await eventually(lambda: len(status(cluster).get("exposed") or ()) == 2)  # type: ignore[arg-type]
            assert not await asyncio.to_thread(echoes, at, 8080, SILENCE_SECONDS)
            assert await asyncio.to_thread(echoes, at, 8081)
            assert cluster.all(EVENTS) == [], "a change that was ordered is no breach"
        away = a_cluster()
        away.refuse.append(lambda call: Unreachable("the API server is away"))
        async with running(settings, away) as agent:
            live = agent.claims.get(CLAIM_UID)
            assert live is not None
            await eventually(lambda: live.facts.fenced)
            assert await asyncio.to_thread(echoes, at, 8081), "a restart without orders closes nothing"
        cluster.put(AGENT_RUNTIMES, a_runtime())
        async with running(settings, cluster):
            await eventually(lambda: not echoes(at, 8081, SILENCE_SECONDS))
            await eventually(lambda: "exposed" not in status(cluster))


async def test_no_container_starts_behind_a_fence_that_leaks(
    directory: Path, hook: Path, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cluster = settings_in(directory, hook), a_cluster()
    monkeypatch.setattr(prober, "probe", lambda namespace, around: Found(("kubelet tcp 10.0.0.7:10250",), ("kubelet tcp 10.0.0.7:10250",)))
    async with running(settings, cluster):
        await prepare(settings)
        answer = await ask(settings, pod.oci_state())
        assert answer.code == 1
        assert "does not hold: kubelet tcp 10.0.0.7:10250 could be reached; no container is started" in answer.error
        await eventually(lambda: condition(cluster, "EgressFenced") == ("False", "FenceLeaks"))
        await eventually(lambda: [event["reason"] for event in cluster.all(EVENTS)] == ["FenceLeaks"])
        monkeypatch.undo()
        assert (await ask(settings, pod.oci_state())).code == 0, "what failed is tried anew"
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))


class Trials:
    """Stands for the probe: as often as asked it can't run, then it is the real one."""

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.made = 0

    def __call__(self, namespace: NetworkNamespace, around: Surroundings) -> Found:
        self.made += 1
        if self.made <= self.failing:
            raise ProbeFailed("the fence could not be tried: nft did not end within 10 s")
        return probe(namespace, around)


async def test_no_container_starts_behind_a_fence_that_could_not_be_tried(
    directory: Path, hook: Path, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, cluster, trials = settings_in(directory, hook), a_cluster(), Trials(failing=2 * prober.TRIES)
    monkeypatch.setattr(prober, "probe", trials)
    monkeypatch.setattr(prober, "PAUSE_SECONDS", 0.05)
    async with running(settings, cluster):
        await prepare(settings)
        for asked in (1, 2):
            answer = await ask(settings, pod.oci_state())
            assert answer.code == 1
            assert f"no container is started in pod {POD_UID}: the fence could not be tried: nft did not end" in answer.error
            assert trials.made == asked * prober.TRIES, "what could not be tried is no proof for the next container"
        await eventually(lambda: condition(cluster, "EgressFenced") == ("Unknown", "ProbeUnclear"))
        assert (await ask(settings, pod.oci_state())).code == 0
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))
        assert (await ask(settings, pod.oci_state())).code == 0
        assert trials.made == 2 * prober.TRIES + 1, "one proof is enough for all containers of a pod"


async def test_a_probe_that_can_not_run_once_is_made_again_before_the_container_is_refused(
    directory: Path, hook: Path, pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, trials = settings_in(directory, hook), Trials(failing=prober.TRIES - 1)
    monkeypatch.setattr(prober, "probe", trials)
    monkeypatch.setattr(prober, "PAUSE_SECONDS", 0.05)
    async with running(settings, a_cluster()):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        assert trials.made == prober.TRIES


async def test_a_proof_is_told_once_and_again_only_when_it_changes(directory: Path, hook: Path, pod: Pod) -> None:
    settings, cluster = settings_in(directory, hook, probe_seconds=0.2), a_cluster()
    async with running(settings, cluster) as agent:
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))
        told = status(cluster)["probe"]
        assert isinstance(told, dict)
        assert (told["podUID"], told["leaked"]) == (POD_UID, [])
        assert "elsewhere tcp 192.0.2.1:443" in told["tried"]
        await eventually(lambda: b'aios_node_fence_probes_total{outcome="held"} 5.0' in agent.metrics.text())
        assert status(cluster)["probe"] == told
    async with running(settings, cluster) as agent:
        await eventually(lambda: b'aios_node_fence_probes_total{outcome="held"} 3.0' in agent.metrics.text())
        assert status(cluster)["probe"] == told, "a restart is no news either"


async def test_an_agent_whose_fence_leaks_is_killed_and_its_neighbour_is_not(
    directory: Path, hook: Path, pod: Pod, play: Callable[[str], Played]
) -> None:
    settings, cluster = settings_in(directory, hook, probe_seconds=0.3), a_cluster()
    agent, neighbour = play(POD_UID), play(uid(77))
    for each in (agent, neighbour):
        each.start()
    async with running(settings, cluster):
        await prepare(settings)
        assert (await ask(settings, pod.oci_state())).code == 0
        assert agent.alive
        assert pod.run("nft", "insert", "rule", "inet", "aios", "output", "udp", "dport", "53", "accept").returncode == 0
        await eventually(lambda: not agent.alive)
        assert neighbour.alive
        await eventually(lambda: condition(cluster, "EgressFenced") == ("False", "FenceLeaks"))
        await eventually(lambda: any(event["reason"] == "FenceLeaks" for event in cluster.all(EVENTS)))
        event = next(event for event in cluster.all(EVENTS) if event["reason"] == "FenceLeaks")
        assert event["regarding"]["kind"] == "Agent"
        assert "resolver udp 169.254.20.10:53" in event["note"]
        assert (await ask(settings, pod.oci_state())).code == 0, "its next container starts behind a fence that stands again"
        await eventually(lambda: condition(cluster, "EgressFenced") == ("True", "Fenced"))

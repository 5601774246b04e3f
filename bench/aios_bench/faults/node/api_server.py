"""The API server misbehaves as `node-agent.yaml` says, and node agent, gateway and API come to the same end as with one that does not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aios_bench.faults.api import control_plane
from aios_bench.faults.api.control_plane import control_plane as a_control_plane
from aios_bench.faults.api.proxy import proxied
from aios_bench.faults.api.rules import Draws, read
from aios_bench.faults.checkout import of_tests
from aios_bench.faults.node import house as node_house
from aios_bench.faults.node.checker import judge
from aios_bench.faults.node.faults import kept
from aios_bench.faults.node.house import NodeHouse, a_house
from aios_bench.faults.node.team import Team
from aios_bench.faults.scenario import Outcome, Scenario
from aios_sidecar.node import fence

RULES = Path(__file__).with_name("node-agent.yaml")
TENANTS = 2
PATIENCE_SECONDS = 90.0
DISTURBED_SECONDS = 60.0
"""Of a run, at most: it ends when every rule has befallen somebody."""
SHUT = "10.210.1.1:9"
"""On the outside of the first tenant's pod; nobody listens there."""
OTHER = "http://api.example.com:80"


class Story:
    """What happens to the Agents of one node: there and back, again and again."""

    def __init__(self, house: NodeHouse, team: Team, chance: random.Random) -> None:
        self.house, self.team, self._chance = house, team, chance
        self.guest = TENANTS
        self.starts = 1
        """Of the node agent."""
        self.unfenced = 0
        self.let_through = 0
        """How often an Agent came to where its order did not let it go any more, after that was in force."""
        self._before: int | None = None

    async def there(self) -> None:
        """The first Agent may go to fewer places, the second one opens another port."""
        tenant, policy = self.house.tenants[0], narrow()
        await self._do(self.team.change, 0, egress=policy)
        await self._do(self.team.change, 1, expose=exposed(9090))
        await self._later(lambda: self.team.digest(0) == policy["digest"], "the narrower policy is said to be in force")
        await self._later(lambda: tenant.may_go is False, "the Agent is refused what its order does not allow any more")
        self._before = tenant.let_through
        await self._churn()
        self.count()

    async def back(self) -> None:
        """Both are as they were in the beginning."""
        self.count()
        self._before = None
        await self._do(self.team.change, 0, egress=wide())
        await self._do(self.team.change, 1, expose=exposed(8080))
        await self._churn()
        await self._later(lambda: self.house.tenants[0].may_go, "the Agent may go where its order lets it go again")

    def count(self) -> None:
        """While the narrower policy is the newest."""
        if self._before is not None:
            now = self.house.tenants[0].let_through
            self.let_through += now - self._before
            self._before = now

    async def _churn(self) -> None:
        """Once each, in an order of the seed's."""
        happens = [self._guest_changes, self._slices_are_upset, self._fence_is_removed, self._node_agent_is_killed, self._next_attempt]
        for one in self._chance.sample(happens, len(happens)):
            await asyncio.sleep(self._chance.uniform(0.0, 0.3))
            await one()

    async def _guest_changes(self) -> None:
        """An Agent is deleted, and another one comes."""
        await self.house.release(self.guest)
        await self._do(self.team.go, self.guest)
        self.guest += 1
        await self._do(self.team.come, self.guest)
        await self.house.prepare(self.guest)

    async def _slices_are_upset(self) -> None:
        await self._do(self.team.upset_slices)

    async def _fence_is_removed(self) -> None:
        """From the first Agent's pod, by somebody with root on the node: it is put back, and an event says so."""
        await asyncio.to_thread(self.house.tenants[0].pod.run, "nft", "delete", "table", fence.FAMILY, fence.TABLE)

    async def _node_agent_is_killed(self) -> None:
        await self.house.kill("node")
        await self.house.start("node")
        self.starts += 1

    async def _next_attempt(self) -> None:
        """The second Agent's pod has ended, and one more is made for it."""
        tenant = self.house.tenants[1]
        await tenant.end()
        await self.house.release(1)
        await self._do(self.team.come_again, 1)
        await asyncio.to_thread(tenant.enter)
        await self.house.prepare(1)
        self.unfenced += not await self.house.container(tenant)
        await tenant.speak()

    async def settled(self, expected: dict[str, Any]) -> Outcome:
        """What is wrong once everything had its time: on the node, and on the API server with what is `expected` there, if anything is."""
        deadline, since = time.monotonic() + PATIENCE_SECONDS, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        while True:
            wrong = judge(self.house.held, await self.house.look())
            wrong += await asyncio.to_thread(self._compared, expected, since)
            if not wrong.broken or time.monotonic() > deadline:
                return wrong
            await asyncio.sleep(0.2)

    def _compared(self, expected: dict[str, Any], since: str) -> Outcome:
        found = self.team.read(self.guest)
        lost = [f"{what} is gone" for what in expected.keys() - found.keys()]
        lost += [f"{what} says {said}" for what, said in found.items() if what.startswith("AgentRuntime") and not (said and said["right"])]
        both = expected.keys() & found.keys()
        lost += [f"{what} says {found[what]}, not {expected[what]}" for what in both if found[what] != expected[what]]
        lost += ["the Lease of the node is not renewed"] * (self.team.renewed() < since)
        orphans = [f"{what} is left" for what in found.keys() - expected.keys() if expected]
        orphans += self.team.repeated_events(self.starts)
        return Outcome(objects_lost=len(lost), orphans=len(orphans), notes=(*lost, *orphans))

    async def _do(self, what: Callable[..., None], *arguments: Any, **named: Any) -> None:
        await asyncio.to_thread(what, *arguments, **named)

    async def _later(self, holds: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await asyncio.to_thread(holds):
            if time.monotonic() > deadline:
                raise AssertionError(f"after {PATIENCE_SECONDS:.0f} s it must be true that {what}")
            await asyncio.sleep(0.1)


def wide() -> dict[str, Any]:
    return _policy(OTHER, f"tcp://{SHUT}", generation=1)


def narrow() -> dict[str, Any]:
    return _policy(OTHER, generation=2)


def _policy(*rules: str, generation: int) -> dict[str, Any]:
    policy = of_tests("unit.gateway.outside").a_policy(*rules, generation=generation)
    written: dict[str, Any] = policy.model_dump(by_alias=True, exclude_none=True, mode="json")
    return written


def exposed(port: int) -> list[dict[str, Any]]:
    return [{"name": "http", "port": port, "protocol": "TCP"}]


async def _story(team: Team, draws: Draws, seed: int, rounds: int) -> Outcome:
    async with a_house(TENANTS, team, {0: SHUT}) as house:
        story = Story(house, team, random.Random(seed))  # noqa: S311 - repeatable
        await house.prepare(story.guest)
        await story.there()
        if (total := await story.settled({})).broken:
            return total
        expected = await asyncio.to_thread(team.read, story.guest)
        for number in range(rounds):
            counts, before, deadline = dict(draws.counts), draws.injected, time.monotonic() + DISTURBED_SECONDS
            draws.active = True
            idle = [""]
            while idle and time.monotonic() < deadline:
                await story.back()
                await story.there()
                idle = draws.idle_since(counts)
            draws.active = False
            if idle:
                raise AssertionError(f"each rule must befall somebody; these did not: {', '.join(idle)}")
            found = Outcome(draws.injected - before) + await story.settled(expected) + await kept(house)
            total += Outcome(**{**vars(found), "notes": tuple(f"round {number}: {note}" for note in found.notes)})
        story.count()
        spoken = [tenant.acknowledged for tenant in house.tenants]
        if min(spoken) < rounds:
            raise AssertionError(f"the Agents must have gone on: they have appended {spoken} items")
        notes = [f"a container was let in without its fence {story.unfenced} times"] * (story.unfenced > 0)
        notes += [f"an Agent was let through {story.let_through} times where it may not go any more"] * (story.let_through > 0)
        return total + Outcome(
            unfenced_starts=story.unfenced + story.let_through,
            double_identities=sum(tenant.doubled for tenant in house.tenants),
            notes=tuple(notes),
        )


def misbehaves(seed: int, size: str) -> Outcome:
    draws = Draws(read(RULES).model_copy(update={"seed": seed}), active=False)
    with a_control_plane() as (plane, directory), proxied(plane.kubeconfig, draws, directory / "kubeconfig"):
        team = Team(plane, directory / "kubeconfig")
        with plane.node(team.node):
            team.come(0, egress=wide())
            team.come(1, expose=exposed(8080))
            team.come(TENANTS)
            return asyncio.run(_story(team, draws, seed, 1 if size == "small" else 20))


def lacking() -> str | None:
    """Why there can't be a node behind an API server here; None when there can."""
    return node_house.lacking() or control_plane.lacking()


SCENARIOS = (
    Scenario(
        "node-agent-behind-a-misbehaving-api-server",
        "What befalls the operator in api-server-misbehaves befalls a node agent, which is killed as orders, claims and slices change.",
        "node",
        misbehaves,
        lacking,
    ),
)

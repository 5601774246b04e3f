"""Everything on a node that can end ends, at any moment and in any company, and its files are damaged; Agents in it go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from aios_bench.faults.node import last_change, other_release
from aios_bench.faults.node.checker import judge
from aios_bench.faults.node.house import NodeHouse, Program, a_house, lacking
from aios_bench.faults.node.program import MUTE_SECONDS, claim_uid
from aios_bench.faults.node.tenant import Tenant
from aios_bench.faults.scenario import Outcome, Scenario

TENANTS = 2
SETTLE_SECONDS = 60
ITEMS_READ = 1000
VICTIMS: tuple[tuple[Program, ...], ...] = (
    ("node", "gateway"),
    ("node", "worker"),
    ("gateway", "worker"),
    ("node", "gateway", "worker"),
    ("node",),
    ("gateway",),
    ("worker",),
)
SMALL_ROUNDS = 4
"""Of the first of these; tests/node kills each program alone."""
SPARSE = 30
"""The small form kills before one change of so many."""
LEAST_CHANGES = 40
"""That a node agent makes from its start on while a pod comes and goes; fewer are a sign that changes are not seen."""
TWO_RELEASES_SECONDS = 3.0
"""How long node agent and gateway are of two releases: long enough for an Agent to be answered if they did understand each other."""
Round = Callable[[NodeHouse, random.Random, int], Awaitable[Outcome]]


async def kills(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """These are killed while a pod comes or goes and a container starts in another, perhaps again and again before they are up."""
    victims = VICTIMS[number % len(VICTIMS)]
    times = chance.choice((1, 1, 3))
    coming = asyncio.create_task(house.come_or_go())
    starting = asyncio.create_task(house.container(chance.choice(house.tenants)))
    for _ in range(times):
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        for victim in victims:
            await house.kill(victim)
        for victim in victims:
            await house.start(victim)
    return Outcome(times * len(victims), unfenced_starts=(not await coming) + (not await starting))


async def reboots(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """The node reboots, and its programs come back in any order."""
    await house.reboot()
    programs: list[Program] = ["node", "gateway"]
    chance.shuffle(programs)
    for program in programs:
        await house.start(program)
        await asyncio.sleep(chance.uniform(0.0, 0.5))
    unfenced = 0
    for tenant in house.tenants:
        unfenced += 0 if await house.container(tenant) else 1
        await tenant.speak()
    return Outcome(1, unfenced_starts=unfenced)


async def damage(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """The node agent is killed, and comes back to a state file and a CDI file that are damaged, or are not there."""
    await house.kill("node")
    uid = claim_uid(chance.choice(house.tenants).number)
    files = (house.settings.claims_dir / f"{uid}.json", house.settings.cdi_file(uid))
    for file in files:
        if chance.random() < 0.5:
            file.unlink()
        else:
            content = bytearray(file.read_bytes())
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(7)
            file.write_bytes(content[: chance.choice((len(content), len(content) // 2))])
    await house.start("node")
    return Outcome(len(files))


async def disks(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """The disk is full, under the programs and at their next start; then there is room again, and appends are taken by themselves."""
    victims = chance.choice(VICTIMS)
    house.fill_disk()
    await asyncio.sleep(chance.uniform(0.2, 1.0))
    for victim in victims:
        await house.kill(victim)
    for victim in victims:
        await house.start(victim)
    found = await settled(house)
    house.free_disk()
    async with asyncio.timeout(SETTLE_SECONDS):
        await asyncio.gather(*(tenant.next_word() for tenant in house.tenants))
    return found + Outcome(1 + len(victims))


async def suspensions(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """Programs are suspended and wake. In every other round node agent and gateway sleep longer than the mute time, and the gateway wakes
    first: it answers nobody before its node agent has spoken."""
    if number % 2:
        victims = chance.choice(VICTIMS)
        coming = asyncio.create_task(house.come_or_go())
        await asyncio.sleep(chance.uniform(0.0, 0.1))
        for victim in victims:
            house.suspend(victim)
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        for victim in chance.sample(victims, len(victims)):
            house.wake(victim)
        return Outcome(len(victims), unfenced_starts=not await coming)
    house.suspend("node")
    house.suspend("gateway")
    await asyncio.sleep(MUTE_SECONDS + 1)
    before = [tenant.acknowledged for tenant in house.tenants]
    house.wake("gateway")
    await asyncio.sleep(2)
    answered = sum(tenant.acknowledged > was for tenant, was in zip(house.tenants, before, strict=True))
    house.wake("node")
    async with asyncio.timeout(SETTLE_SECONDS):
        await asyncio.gather(*(tenant.next_word() for tenant in house.tenants))
    notes = (f"{answered} Agents were answered by a gateway that had slept longer than it may speak",) if answered else ()
    return Outcome(2, double_identities=answered, notes=notes)


async def gpus(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """The driver loses the GPU, perhaps while the node agent restarts, and offers it again. Who runs goes on, and holds his share."""
    house.take_gpu()
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    killed = chance.random() < 0.5
    if killed:
        await house.kill("node")
        await house.start("node")
    found = await settled(house)
    async with asyncio.timeout(SETTLE_SECONDS):
        await asyncio.gather(*(tenant.next_word() for tenant in house.tenants))
    if house.visitor is None and not await house.refuses(house.guest):
        raise AssertionError("a share of a GPU that is lost must be refused")
    house.put_gpu()
    return found + Outcome(1 + killed, unfenced_starts=not await house.come_or_go())


async def clocks(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """The wall clock is set while a pod comes or goes. Nobody falls silent for that, not for a moment."""
    refused = sum(tenant.refused for tenant in house.tenants)
    coming = asyncio.create_task(house.come_or_go())
    for _ in range(3):
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        house.clock.jump(chance)
        async with asyncio.timeout(SETTLE_SECONDS):
            await asyncio.gather(*(tenant.next_word() for tenant in house.tenants))
    unfenced = not await coming
    if times := sum(tenant.refused for tenant in house.tenants) - refused:
        raise AssertionError(f"Agents must be answered whatever the wall clock says; {times} times they were refused")
    return Outcome(3, unfenced_starts=unfenced)


async def updates(house: NodeHouse, chance: random.Random, number: int) -> Outcome:
    """Node agent and gateway are replaced one after the other by those of a release with another contract, and those by these again. In
    between neither understands the other: who runs stays behind his fence, and who comes starts once they are of one release."""
    programs: list[Program] = ["node", "gateway"]
    unfenced = 0
    for release in (other_release.TOLD, {}):
        chance.shuffle(programs)
        await house.kill(programs[0])
        await house.start(programs[0], **release)
        arrives = house.visitor is None
        coming = asyncio.create_task(house.come_or_go())
        await asyncio.sleep(TWO_RELEASES_SECONDS)
        if arrives and house.visitor is not None and await asyncio.to_thread(house.ask, house.visitor, "GET", "/v1/agent") is not None:
            raise AssertionError("who comes between two releases must be answered by nobody")
        unfenced += sum(not house.is_fenced(tenant) for tenant in house.tenants)
        await house.kill(programs[1])
        await house.start(programs[1], **release)
        unfenced += not await coming
    return Outcome(4, unfenced_starts=unfenced)


async def settled(house: NodeHouse) -> Outcome:
    """What is wrong once everything had its time; what still is then, counts."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_SECONDS
    while True:
        found = judge(house.held, await house.look())
        if not found.broken or loop.time() > deadline:
            return found
        await asyncio.sleep(0.2)


async def kept(house: NodeHouse) -> Outcome:
    """What was acknowledged is there, in its order and once."""
    lost, notes = 0, []
    for tenant in house.tenants:
        wanted = [f"agent-{tenant.number} {number}" for number in range(tenant.acknowledged)]
        found = await items(house, tenant)
        missing = len([item for item, there in zip(wanted, found + [""] * len(wanted), strict=False) if item != there])
        lost += missing
        notes += [f"{missing} of {len(wanted)} items of agent-{tenant.number} are not there, or not in their place"] * (missing > 0)
    return Outcome(context_items_lost=lost, notes=tuple(notes))


async def items(house: NodeHouse, tenant: Tenant) -> list[str]:
    """All that the Agent reads of its context. A question that is not answered is asked again."""
    loop = asyncio.get_running_loop()
    found, deadline = list[str](), loop.time() + SETTLE_SECONDS
    following: int | None = 1
    while following is not None:
        answer = await asyncio.to_thread(house.ask, tenant, "GET", f"/v1/context/items?first={following}&limit={ITEMS_READ}")
        if answer is not None:
            found += [item["content"] for item in answer["items"]]
            following = answer["next"]
        elif loop.time() > deadline:
            raise AssertionError(f"agent-{tenant.number} can't read its context: {house.refused}")
    return found


async def story(seed: int, rounds: list[Round]) -> Outcome:
    chance, total = random.Random(seed), Outcome()  # noqa: S311  chooses what is disturbed
    async with a_house(TENANTS) as house:
        total += await settled(house)
        for number, one in enumerate(rounds):
            found = await one(house, chance, number) + await settled(house)
            total += replace(found, notes=tuple(f"round {number} ({one.__name__}): {note}" for note in found.notes))
            total += await kept(house)
        spoken = [tenant.acknowledged for tenant in house.tenants]
        if min(spoken) < len(rounds):
            raise AssertionError(f"the Agents must have gone on: they have appended {spoken} items")
        total += Outcome(double_identities=sum(tenant.doubled for tenant in house.tenants))
    return total


async def change_by_change(seed: int, size: str) -> Outcome:
    """In the long form before each change, in the small one before one of `SPARSE`."""
    step = SPARSE if size == "small" else 1
    at, total = 1 + seed % step, Outcome()
    async with a_house(TENANTS) as house:
        while True:
            killed, found = await before_change(house, at)
            found += await settled(house) + await kept(house)
            total += replace(found, notes=tuple(f"killed before change {at}: {note}" for note in found.notes))
            if not killed:
                break
            at += step
        total += Outcome(double_identities=sum(tenant.doubled for tenant in house.tenants))
    if at < LEAST_CHANGES:
        raise AssertionError(f"the node agent makes at least {LEAST_CHANGES} changes as a pod comes and goes, not {at}")
    return total


async def before_change(house: NodeHouse, at: int) -> tuple[bool, Outcome]:
    """A new node agent is killed before its `at`-th change, as a pod comes and goes, and the next one goes on. Whether it was."""
    await house.kill("node")
    await house.start("node", **{last_change.VARIABLE: str(at)})
    following = asyncio.create_task(house.follow("node"))
    fenced = await house.visit()
    await house.leave()
    killed = house.has_ended("node") or following.done()
    if not killed:
        await house.kill("node")
    await following
    return killed, Outcome(int(killed), unfenced_starts=not fenced)


def of(one: Round, small: int, long: int) -> Callable[[int, str], Outcome]:
    return lambda seed, size: asyncio.run(story(seed, [one] * (small if size == "small" else long)))


SCENARIOS = (
    Scenario(
        "node-programs-killed",
        "Node agent, GPU worker and gateway are killed, alone, together, and again while they start, as claims and containers come and go.",
        "node",
        of(kills, SMALL_ROUNDS, 20 * len(VICTIMS)),
        lacking,
    ),
    Scenario(
        "node-agent-killed-at-every-change",
        "The node agent is killed before each change that it makes, from its start on, while a pod comes and goes.",
        "node",
        lambda seed, size: asyncio.run(change_by_change(seed, size)),
        lacking,
    ),
    Scenario(
        "node-gpu-lost-and-back",
        "The driver loses the GPU that Agents hold shares of, while the node agent runs or restarts, and offers it again.",
        "node",
        of(gpus, 1, 20),
        lacking,
    ),
    Scenario(
        "node-clock-jumps",
        "The wall clock of a node is set ahead and back while Agents run, come and go.",
        "node",
        of(clocks, 1, 20),
        lacking,
    ),
    Scenario(
        "node-updated",
        "Node agent and gateway are replaced, one after the other, by those of a release that speaks another contract, and back.",
        "node",
        of(updates, 1, 20),
        lacking,
    ),
    Scenario(
        "node-programs-suspended",
        "Node agent, GPU worker and gateway are suspended and wake, also after the time in which the node must have been heard.",
        "node",
        of(suspensions, 2, 40),
        lacking,
    ),
    Scenario(
        "node-reboots",
        "A node loses every process and all below /run, and keeps what lies below /var.",
        "node",
        of(reboots, 1, 20),
        lacking,
    ),
    Scenario(
        "node-files-damaged",
        "The node agent comes back to state and CDI files that are damaged or gone, while the pods run.",
        "node",
        of(damage, 2, 40),
        lacking,
    ),
    Scenario(
        "node-disk-full",
        "The disk below /var is full under the programs of a node and while they start, and has room again.",
        "node",
        of(disks, 1, 20),
        lacking,
    ),
)

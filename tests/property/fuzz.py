"""What fuzzers share: chance that can be repeated, rounds until the time is over, bytes with a few faults, and a gateway to send them to.

`AIOS_FUZZ_SECONDS` for each test (11; `make soak` takes longer), `AIOS_FUZZ_SEED` to repeat a run; the seed is printed.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aios_sidecar.contracts.agents import AgentIdentity, AgentRecord
from aios_sidecar.gateway.agents import Agents
from aios_sidecar.gateway.freshness import Freshness
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.settings import EgressLimits, Limits
from unit.gateway.outside import Names, Notes, a_policy, an_outside

SECONDS = float(os.environ.get("AIOS_FUZZ_SECONDS", "11"))
HERE = "127.0.0.1"
MANY = 65536
HANG_SECONDS = 20
"""Whoever has heard no end by then never will: nothing in a gateway under test waits longer than a fraction of a second."""


def a_chance() -> random.Random:
    seed = int(os.environ.get("AIOS_FUZZ_SEED") or random.SystemRandom().getrandbits(32))
    print(f"AIOS_FUZZ_SEED={seed}")
    return random.Random(seed)


def rounds() -> Iterator[int]:
    """Numbers, until the time is over."""
    end, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        yield number
        number += 1
    print(f"{number} rounds")


def mutate(data: bytes, chance: random.Random, tokens: list[bytes]) -> bytes:
    """`data` with a few changes of the kinds that parsers stumble over."""
    changed = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0:
                changed[at:at] = chance.choice(tokens)
            case 1:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 2:
                del changed[at : at + chance.randrange(1, 9)]
            case 3:
                changed[at:at] = changed[at : at + chance.randrange(1, 40)]
            case 4:
                changed[at : at + chance.randrange(1, 12)] = chance.choice(tokens)
            case 5:
                other = chance.randrange(len(changed) + 1)
                changed[at:at] = changed[min(at, other) : max(at, other)][:60]
    return bytes(changed)


@dataclass
class Gateway:
    """A gateway that serves one agent, impatiently."""

    port: int
    audit: Notes

    async def exchange(self, sent: bytes) -> bytes:
        """All that comes back until the gateway closes the connection. TimeoutError when it hangs; ConnectionError when it is reset."""
        reader, writer = await asyncio.open_connection(HERE, self.port)
        try:
            writer.write(sent)
            writer.write_eof()
            async with asyncio.timeout(HANG_SECONDS):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def a_gateway(names: Names, *rules: str) -> AsyncIterator[Gateway]:
    metrics, audit = Metrics(), Notes()
    limits = EgressLimits(response_seconds=0.2, hello_seconds=0.2, content_seconds=0.2, connects_per_second=MANY, connects_burst=MANY)
    outside = an_outside(metrics, names=names, audit=audit, limits=limits)
    freshness = Freshness(60, lambda: 0.0, metrics)
    freshness.renew(60)
    agents = Agents(Limits(connections=1000, head_seconds=0.2, body_seconds=0.2, idle_seconds=0.2), outside, metrics, freshness)
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    record = AgentRecord(identity=AgentIdentity(namespace="n", name="a", uid="u", attempt=1), node="node")
    agents.serve("a", record, a_policy(*rules), {"loopback": listener})
    try:
        yield Gateway(port, audit)
    finally:
        agents.stop("a")
        await asyncio.sleep(0.3)

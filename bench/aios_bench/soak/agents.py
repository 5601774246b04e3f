"""Who comes and goes: many Agents on simulated nodes, some on the real one that remember, and that try to get out."""

from __future__ import annotations

import asyncio
import itertools
import random

from aios_bench.burst import an_agent as simulated_agent
from aios_bench.faults.cluster.ground import IMAGE, Ground
from aios_bench.start import SPACE, an_agent
from aios_kube import Object, resources
from aios_kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound
from aios_localcluster import simulation

CREATORS = 16
CHURN_SECONDS = 1.0
"""Between two simulated Agents of which one goes and another comes."""
REAL_EVERY = 30
"""Of so many that go, one is a real one."""
OUTAGE_SECONDS = 0.5

REMEMBERS = """
import http.client, json, os, socket, sys, time, urllib.parse
name, witness = sys.argv[1], (sys.argv[2], int(sys.argv[3]))
url = urllib.parse.urlsplit(os.environ["AIOS_URL"])

def call(verb, path, document=None, key=None):
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    while True:
        asked = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        try:
            asked.request(verb, "/v1/context/" + path, document and json.dumps(document), headers)
            answer = asked.getresponse()
            body = answer.read()
            if answer.status < 300:
                return json.loads(body)
            if answer.status < 500 and answer.status != 429:
                print(json.dumps({"refused": body.decode()}), flush=True)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            asked.close()
        time.sleep(0.2)

def out():
    try:
        socket.create_connection(witness, timeout=0.5).close()
    except OSError:
        pass

out()
newest = call("GET", "items?newest=1")["items"]
number = int(newest[0]["content"].split()[-1]) if newest else 0
appended = lost = 0
print(json.dumps({"resumed": number}), flush=True)
while True:
    number += 1
    content = f"{name} remembers {number}"
    call("POST", "items", {"items": [{"role": "user", "content": content}]}, f"{name}-{number}")
    appended += 1
    print(json.dumps({"acknowledged": number}), flush=True)
    if number % 10 == 0:
        kept = [item["content"] for item in call("GET", f"items?newest={min(number, 50)}")["items"]]
        lost += len({f"{name} remembers {n}" for n in range(max(1, number - 49), number + 1)} - set(kept))
        lost += len(kept) - len(set(kept))
        out()
        print(json.dumps({"appended": appended, "lost": lost}), flush=True)
    time.sleep(0.5)
"""
"""Appends what follows on what its context ends with, and looks every ten items whether the last fifty are there, each once. It says what
it found and what was acknowledged, so that an item that is gone between two lives of it shows as well."""


def a_simulated(name: str) -> Object:
    agent = simulated_agent(name)
    agent["metadata"]["namespace"] = SPACE
    agent["spec"]["template"]["spec"]["nodeSelector"] = {simulation.LABEL: simulation.VALUE}
    return agent


def a_real(name: str, witness: tuple[str, int]) -> Object:
    agent = an_agent(name, IMAGE)
    command = ["python3", "-c", REMEMBERS, name, witness[0], str(witness[1])]
    agent["spec"]["template"]["spec"]["containers"][0] |= {"command": command}
    return agent


class Population:
    """So many Agents of each kind; `churn` replaces one after the other. The API server may be away at any time."""

    def __init__(self, ground: Ground, witness: tuple[str, int], chance: random.Random) -> None:
        self._ground = ground
        self._witness = witness
        self._chance = chance
        self._numbers = itertools.count()
        self.ending = False
        """Whoever is to be replaced now is the last one."""
        self.simulated: list[str] = []
        self.real: list[str] = []
        self.came = 0

    @property
    def names(self) -> set[str]:
        return {*self.simulated, *self.real}

    async def settle_in(self, simulated: int, real: int) -> None:
        slots = asyncio.Semaphore(CREATORS)

        async def one(come: bool) -> None:
            async with slots:
                await self._come(come)

        await asyncio.gather(*(one(True) for _ in range(real)), *(one(False) for _ in range(simulated)))

    async def churn(self) -> None:
        """Until `ending`, not in the midst of a replacement: an Agent whose deletion was not answered yet would be nobody's."""
        for number in itertools.count(1):
            await asyncio.sleep(CHURN_SECONDS)
            if self.ending:
                return
            real = number % REAL_EVERY == 0
            there = self.real if real else self.simulated
            if not there:
                continue
            await self._go(there.pop(self._chance.randrange(len(there))))
            await self._come(real)

    async def _come(self, real: bool) -> None:
        name = f"{'real' if real else 'sim'}-{next(self._numbers)}"
        (self.real if real else self.simulated).append(name)
        self.came += 1
        agent = a_real(name, self._witness) if real else a_simulated(name)
        while True:
            try:
                await self._ground.apply(agent)
                return
            except AlreadyExists:
                return  # the first answer was lost
            except (Invalid, Forbidden):
                raise
            except ApiError:
                await asyncio.sleep(OUTAGE_SECONDS)

    async def _go(self, name: str) -> None:
        while True:
            try:
                await self._ground.client.delete(resources.AGENTS, name, SPACE)
                return
            except NotFound:
                return
            except ApiError:
                await asyncio.sleep(OUTAGE_SECONDS)

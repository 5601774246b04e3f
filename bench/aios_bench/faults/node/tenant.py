"""An Agent's pod on a node that is played, and the program in it, which asks and appends all the time."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from contextlib import ExitStack

from aios_bench.faults.checkout import of_tests
from aios_bench.faults.node.program import World, agent_name

TENANT = """
import http.client, json, sys, time
name, number, host = sys.argv[1], int(sys.argv[2]), sys.argv[3]
said = None
while True:
    call = http.client.HTTPConnection("127.0.0.1", 2489, timeout=5)
    try:
        call.request("GET", "/v1/agent", headers={"Host": "localhost"})
        answer = call.getresponse()
        who = json.loads(answer.read())
        if answer.status == 200 and who["identity"]["name"] != name:
            print("double", who["identity"]["name"], flush=True)
        body = json.dumps({"items": [{"role": "user", "content": f"{name} {number}"}]})
        call.request("POST", "/v1/context/items", body, {"Host": "localhost", "Idempotency-Key": f"{name}-{number}"})
        answer = call.getresponse()
        answer.read()
        if answer.status in (200, 201):
            print("kept", number, flush=True)
            number += 1
        else:
            print("refused", answer.status, flush=True)
        if host:
            call.request("CONNECT", host, headers={"Host": host})
            word = {403: "shut", 502: "open"}.get(call.getresponse().status, said)
            if word != said:
                print(word, host, flush=True)
            said = word
    except (OSError, http.client.HTTPException, ValueError):
        pass
    finally:
        call.close()
    time.sleep(0.02)
"""
"""It repeats what was not acknowledged, and says whether it may go to `host`, if one is named and where nobody listens, whenever that
changes."""


class Tenant:
    """One Agent's pod, and the program in it. A pod can be lost with all that is in it and come back under its uid, as after a reboot."""

    def __init__(self, number: int, world: World) -> None:
        self.number = number
        self.host = ""
        """Where it tries to go all the time, with a port; empty: nowhere."""
        self.acknowledged = 0
        self.doubled = 0
        self.refused = 0
        """How often it was answered that it may not, or not now."""
        self.may_go: bool | None = None
        """Whether it was let through the last time; None before it tried."""
        self.let_through = 0
        """How often it was let through after it had not been."""
        self._world = world
        self._heard = asyncio.Event()
        self._stack = ExitStack()
        self._reading: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pod_name(self) -> str:
        return str(self.pod.name)

    def enter(self) -> None:
        """There is a sandbox."""
        self.pod = self._stack.enter_context(of_tests("node.support").a_pod(self.number + 1))
        played = of_tests("node.played")
        self._container = self._stack.enter_context(
            contextlib.closing(played.Played(played.cgroup_root(), self._world.pod_uid(self.number), self.number + 1))
        )
        self._container.take(self.pod.pid)

    async def speak(self) -> None:
        """Its program runs, and goes on where the one before was."""
        told = agent_name(self.number), str(self.acknowledged), self.host
        command = ("ip", "netns", "exec", self.pod_name, sys.executable, "-c", TENANT, *told)
        self._process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            word, _, rest = line.decode().strip().partition(" ")
            if word == "kept":
                self.acknowledged = int(rest) + 1
            elif word in ("open", "shut"):
                self.let_through += word == "open" and self.may_go is False
                self.may_go = word == "open"
            elif word == "refused":
                self.refused += 1
            else:
                self.doubled += 1
            self._heard.set()

    async def next_word(self) -> None:
        """One more item was acknowledged, or it was answered as somebody else."""
        self._heard.clear()
        await self._heard.wait()

    async def end(self) -> None:
        """Nothing is left of the pod."""
        if self._process is not None and self._reading is not None:
            self._process.kill()
            await self._process.wait()
            await self._reading
        self._process = None
        await asyncio.to_thread(self._stack.close)

"""A node agent as a process of its own, on a cluster in memory that is the same at each start.

    node_process.py DIRECTORY HOOK [MODULE:NAME:before|after:N]

With the last argument the process kills itself (SIGKILL) before or after the N-th call of that function.
"""

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.support import a_cluster, running, settings_in


def die_at(point: str) -> None:
    """Arms the kill."""
    module, path, moment, number = point.split(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(number) and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


async def main(directory: Path, hook: Path) -> None:
    async with running(settings_in(directory, hook), a_cluster()) as agent:
        print("started", flush=True)
        while not all(live.listeners for live in agent.claims):
            await asyncio.sleep(0.02)
        print("listeners are back", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        die_at(sys.argv[3])
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))

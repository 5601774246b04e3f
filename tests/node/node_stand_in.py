"""The node agent's end of the hand-over as a process of its own: it opens listeners for two agents, or takes back what the gateway holds.

    node_stand_in.py DIRECTORY GATEWAY_UID open|adopt

Prints what happens, one line each; `stop N` on its standard input stops agent N.
"""

import asyncio
import os
import socket
import sys
from pathlib import Path

from aios_sidecar.contracts.agents import AgentIdentity, AgentRecord
from aios_sidecar.contracts.clock import machine_seconds
from aios_sidecar.contracts.link import Fresh, Held, Hello, ListenerKind, Serve, Serving, Stop, Synced
from aios_sidecar.handover import Link, LinkClosedError, PeerRefusedError, accept, listen

CLAIMS = ("a0", "a1")
Listeners = dict[str, dict[ListenerKind, socket.socket]]


def say(*words: object) -> None:
    print(*words, flush=True)


def open_listeners(directory: Path) -> Listeners:
    opened: Listeners = {}
    for claim in CLAIMS:
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(directory / f"{claim}.sock"))
        (directory / f"{claim}.sock").chmod(0o666)
        unix.listen(256)
        opened[claim] = {"socket": unix, "loopback": socket.create_server(("127.0.0.1", 0), backlog=256)}
        say("port", claim, opened[claim]["loopback"].getsockname()[1])
    return opened


async def converse(link: Link, held: Listeners) -> None:
    await link.send(Hello())
    while True:
        received = await link.receive()
        match received.message:
            case Held(claim_uid=claim):
                say("held", claim, ",".join(sorted(received.listeners)))
                held.setdefault(claim, dict(received.listeners))
            case Synced():
                await link.send(Fresh(until_seconds=machine_seconds() + 60))
                for claim, listeners in held.items():
                    record = AgentRecord(identity=AgentIdentity(namespace="n", name=claim, uid="u", attempt=1), node=f"node-{os.getpid()}")
                    await link.send(Serve(claim_uid=claim, record=record), listeners)
            case Serving(claim_uid=claim, kinds=kinds):
                say("serving", claim, ",".join(sorted(kinds)))


async def orders(links: set[Link], held: Listeners) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        claim = line.split()[1]
        for listener in held.pop(claim).values():
            listener.close()
        for link in links:
            await link.send(Stop(claim_uid=claim))
        say("stopped", claim)


async def main(directory: Path, gateway_uid: int, mode: str) -> None:
    held = open_listeners(directory) if mode == "open" else {}
    server = listen(directory / "node.sock", owner_uid=gateway_uid)
    links: set[Link] = set()
    ordering = asyncio.create_task(orders(links, held))
    say("ready")
    while not ordering.done():
        try:
            link = await accept(server, peer=gateway_uid)
        except PeerRefusedError as error:
            say("refused", error)
            continue
        links.add(link)
        try:
            await converse(link, held)
        except LinkClosedError:
            say("lost")
        finally:
            links.discard(link)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))

"""A context that moves between two processes over the real channel; one of them is killed at every write, and the other one is left alone.

Each scenario's work runs in the child that is killed, which forks the other end. What either tells has been acknowledged to the agent.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from aios_sidecar.context.errors import Busy, Fenced
from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.sqlite.move import Destination, Source, move
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.gateway.moves.channel import Channel, Identity, Unreachable
from aios_sidecar.gateway.moves.fetch import Fetch, Origin
from aios_sidecar.gateway.moves.source import Giver, Offer

KEY = AgentKey("team", "coder", "6a9c")
Tell = Callable[[str], None]
BEFORE, MEANWHILE, AFTER = "abcdefg", "h", "i"
SOURCE, DESTINATION = Identity(), Identity()


def said(text: str) -> list[Draft]:
    return [Draft(Role.USER, f"{text} {'long ' * 200}")]


def before(root: Path) -> None:
    store = SqliteStore(root / "here")
    context = store.context(KEY, 1)
    for text in BEFORE:
        context.append(said(text), key=text)
    store.close()


def give(root: Path, listener: socket.socket, tell: Tell) -> None:
    """Until the context is released. The agent goes on once the copy has gone, and may not any more after the hand-over."""
    store = SqliteStore(root / "here")
    giver = Giver(lambda: store, 1e9, lambda uid: None)
    giver.offer(Offer(KEY, 2, DESTINATION.certificate))
    agent = store.context(KEY, 1)
    for number in range(3):
        connection, _ = listener.accept()
        channel = Channel(SOURCE.as_server(giver.trusted()).wrap_socket(connection, server_side=True))
        giver.serve(channel)
        channel.close()
        if number == 0:
            agent.append(said(MEANWHILE), key=MEANWHILE)
            tell(MEANWHILE)
        elif not (store.holds(KEY) and agent.is_written_by(1)):
            try:
                agent.append(said("x"))
                tell("the old side wrote after the hand-over")
            except Fenced:
                pass
    store.close()


def take(root: Path, port: int, tell: Tell) -> None:
    store = SqliteStore(root / "there")
    origin = Origin("n1", f"127.0.0.1:{port}", SOURCE.certificate)
    fetch = Fetch(store, KEY, 2, DESTINATION, 1 << 30)
    assert fetch.take(origin, fetch.copy(origin, lambda received, of: None))
    fetch.release(origin)
    store.context(KEY, 2).append(said(AFTER), key=AFTER)
    tell(AFTER)
    store.close()


def other(work: Callable[[], None]) -> int:
    """The process that does `work` beside this one. Who connects must not hold the listener: it would seem to be there."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except (Unreachable, OSError):
            pass  # the other end was killed
        finally:
            os._exit(0)
    return child


def giving(root: Path, tell: Tell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        child = other(lambda: listener.close() or take(root, port, tell))
        give(root, listener, tell)
        os.waitpid(child, 0)


def fetching(root: Path, tell: Tell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        us = os.getpid()
        child = other(lambda: give_while(us, root, listener, tell))
        port = listener.getsockname()[1]
        listener.close()
        take(root, port, tell)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def give_while(other_end: int, root: Path, listener: socket.socket, tell: Tell) -> None:
    """As `give`, until the other end was killed."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0) if os.getppid() != other_end else None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    give(root, listener, tell)


def opened(root: Path) -> SqliteStore:
    """Once the process that had it has ended."""
    while True:
        try:
            return SqliteStore(root)
        except Busy:
            time.sleep(0.01)


def check(root: Path, told: list[str]) -> str | None:
    """Who was cut off moves anew, from the beginning; then the agent appends all of it again."""
    if strange := [line for line in told if len(line) > 1]:
        return strange[0]
    here, there = opened(root / "here"), opened(root / "there")
    try:
        acknowledged = BEFORE + "".join(told)
        move(Source(here, KEY, 2), Destination(there, KEY, 2))
        if here.holds(KEY):
            return "the source still has it"
        try:
            here.context(KEY, 1)
            return "an attempt before begins another context"
        except Fenced:
            pass
        if not kept(there).startswith(acknowledged):
            return f"acknowledged {acknowledged}, kept {kept(there)}"
        for text in (*BEFORE, MEANWHILE, AFTER):
            there.context(KEY, 2).append(said(text), key=text)
        if kept(there) != BEFORE + MEANWHILE + AFTER:
            return f"doubled or lost: {kept(there)}"
    finally:
        here.close()
        there.close()
    return None


def kept(store: SqliteStore) -> str:
    with store.context(KEY, 2).reading() as reader:
        items = reader.oldest(100)
        assert [item.seq for item in items] == list(range(1, len(items) + 1))
        assert len(reader.search(["long"], 100)) == len(items)
        return "".join(item.content[0] for item in items)

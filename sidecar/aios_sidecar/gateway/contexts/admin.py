"""Contexts for those who run the cluster: a Unix socket in the directory of contexts, which only the gateway's user and root can reach.

    kubectl exec -n <release> <pod of aios-gateway> -- python3 -m aios_sidecar.gateway.contexts.admin GET /contexts

`/contexts` lists whose contexts are here. Below `/contexts/<uid>` are the routes that the agent has below `/v1/context`, and `restore`.
"""

import argparse
import asyncio
import json
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from aios_sidecar.context.errors import NotThere
from aios_sidecar.context.store import AgentKey, Context
from aios_sidecar.gateway.contexts.answers import CONTENT_BYTES, DONE, ROUTES, ContextCall, ContextRoute
from aios_sidecar.gateway.contexts.desk import AgentContext, Desk
from aios_sidecar.gateway.contexts.models import Wire
from aios_sidecar.gateway.http import Head, Response
from aios_sidecar.gateway.problems import Problem, ProblemKind

SOCKET: Final = "admin.sock"
_ROUTES: Final = {(route.method, route.path.removeprefix("/v1/context")): route for route in ROUTES}


def listener(directory: Path) -> socket.socket:
    """The socket, in the directory of contexts. Raises OSError."""
    path = directory / SOCKET
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(str(path))
        path.chmod(0o600)
        made.listen()
    except BaseException:
        made.close()
        raise
    return made


class Restore(Wire):
    """Which snapshot is to be the context again: one that is kept beside it."""

    file: str = Field(pattern=r"^[0-9]+-[0-9a-f]{64}\.db$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """A request on its way to an answer."""

    name: str
    desk: Desk
    head: Head
    uid: str | None
    to: ContextRoute | None
    content_bytes: int = CONTENT_BYTES

    async def answer(self, content: bytes) -> Response:
        if self.uid is None:
            return await self.desk.run(self._list)
        key = await self.desk.run(lambda: self.desk.files().key(self.uid or ""))
        if key is None:
            raise Problem(ProblemKind.NO_SUCH_ITEM, f"no context of an Agent with the uid {self.uid[:64]} is here")
        context = self.desk.visit(key)
        call = ContextCall(context, self.head, content)
        return await self._restore(call, context, key) if self.to is None else await self.to.answer(call)

    def _list(self) -> Response:
        listed = [key._asdict() for key in self.desk.files().agents()]
        return Response(json.dumps({"contexts": listed}).encode(), "application/json")

    async def _restore(self, call: ContextCall, context: AgentContext, key: AgentKey) -> Response:
        asked = call.read(Restore)

        def work(_: Context) -> Response:
            store = self.desk.files()
            path = store.folder(key.uid) / "snapshots" / asked.file
            if not path.exists():
                raise NotThere(f"there is no snapshot {asked.file}")
            store.restore(key, 1, path, asked.digest)
            self.desk.forget(key.uid)
            return DONE

        return await context.do_anyway(work)


class Admin:
    """The application behind the socket."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def route(self, head: Head) -> AdminRoute:
        path = head.target.partition("?")[0]
        if path == "/contexts" and head.method == "GET":
            return AdminRoute("contexts", self._desk, head, None, None)
        start, _, rest = path.removeprefix("/contexts/").partition("/")
        to = _ROUTES.get((head.method, f"/{rest}" if rest else ""))
        if not path.startswith("/contexts/") or (to is None and (head.method, rest) != ("POST", "restore")):
            raise Problem(
                ProblemKind.NOT_FOUND, f"{head.method} {path[:200]} is nothing here: GET /contexts lists whose contexts there are."
            )
        return AdminRoute(to.name if to else "restore", self._desk, head, start, to)

    def hold(self, content_bytes: int) -> None:
        """Who may reach the socket may send what a request takes."""

    def unread(self, method: str, target: str, problem: Problem) -> None:
        """Nobody is judged here."""

    def answered(self, route: str, status: int) -> None:
        """Not counted: requests are those of agents."""


async def ask(path: Path, method: str, target: str, content: bytes) -> tuple[int, bytes]:
    """Status and content of the answer of the socket at `path`."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        head = f"{method} {target} HTTP/1.1\r\nHost: aios\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        head_bytes, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head_bytes.split()[1]), body
    finally:
        writer.close()


def main() -> int:
    """Exits with 1 when the answer is a refusal."""
    parser = argparse.ArgumentParser(prog="python3 -m aios_sidecar.gateway.contexts.admin", description=__doc__)
    parser.add_argument("method", choices=["GET", "POST"])
    parser.add_argument("target", help="such as /contexts, or /contexts/<uid>/items?newest=20")
    parser.add_argument("content", nargs="?", default="", help="JSON")
    parser.add_argument("--directory", type=Path, default=Path("/var/lib/aios/context"))
    options = parser.parse_args()
    status, body = asyncio.run(ask(options.directory / SOCKET, options.method, options.target, options.content.encode()))
    sys.stdout.write(body.decode() + "\n")
    return 0 if status < 400 else 1


if __name__ == "__main__":
    sys.exit(main())

"""What those who run the cluster may do with contexts, over a socket in their directory."""

import json
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from aios_sidecar.context.sqlite.folder import FILE
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.gateway.contexts.admin import SOCKET, Admin, ask, listener
from aios_sidecar.gateway.contexts.desk import Desk
from aios_sidecar.gateway.metrics import Metrics
from aios_sidecar.gateway.server import Server
from aios_sidecar.gateway.settings import Limits
from aios_sidecar.gateway.turns import Turns
from unit.context.support import said

KEY = AgentKey("team", "coder", "6a9c")


class Administered:
    def __init__(self, directory: Path) -> None:
        metrics = Metrics()
        self.directory = directory
        self.desk = Desk(partial(SqliteStore, directory), metrics.contexts)
        self.server = Server(Admin(self.desk), Limits(), partial(Turns(), "administration"))
        self.server.listen_on([("administration", listener(directory))])

    async def ask(self, method: str, target: str, content: object = None) -> tuple[int, dict]:
        status, body = await ask(self.directory / SOCKET, method, target, b"" if content is None else json.dumps(content).encode())
        return status, json.loads(body)

    def end(self) -> None:
        self.server.end()
        self.desk.close()


@pytest.fixture
async def here() -> AsyncIterator[Administered]:
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        administered = Administered(Path(directory))
        administered.desk.store.context(KEY, 3).append(said("a word", "another", author="ann"))
        yield administered
        administered.end()


async def test_whose_contexts_are_here_and_what_is_in_them(here):
    assert (here.directory / SOCKET).stat().st_mode & 0o777 == 0o600
    assert await here.ask("GET", "/contexts") == (200, {"contexts": [KEY._asdict()]})
    status, answer = await here.ask("GET", "/contexts/6a9c")
    assert (status, answer["items"], answer["firstAttempt"]) == (200, 2, 3)
    status, answer = await here.ask("GET", "/contexts/6a9c/items?newest=1")
    assert answer["items"][0]["content"] == "another"
    status, answer = await here.ask("POST", "/contexts/6a9c/search", {"query": "words"})
    assert [each["item"]["seq"] for each in answer["found"]] == [1]
    status, answer = await here.ask("POST", "/contexts/6a9c/window", {"model": "gpt-4o", "budget": 500})
    assert "another" in answer["text"]


async def test_what_is_erased_for_somebody_is_gone_and_the_agent_writes_on(here):
    status, receipt = await here.ask("POST", "/contexts/6a9c/erase", {"author": "ann"})
    assert (status, receipt["items"]) == (200, 2)
    assert here.desk.store.context(KEY, 3).append(said("on")).first == 3


@pytest.mark.parametrize(
    ("method", "target", "status", "says"),
    [
        ("GET", "/contexts/77", 404, "no context of an Agent with the uid 77 is here"),
        ("GET", "/contexts/..", 404, "is here"),
        ("GET", "/contexts/6a9c/nothing", 404, "GET /contexts lists"),
        ("POST", "/contexts", 404, "GET /contexts lists"),
        ("GET", "/v1/context", 404, "GET /contexts lists"),
        ("POST", "/contexts/6a9c/restore", 400, "file: Field required"),
    ],
)
async def test_what_is_not_there_is_said(here, method, target, status, says):
    got, problem = await here.ask(method, target)
    assert got == status
    assert says in problem["detail"]
    assert [path.name for path in here.directory.iterdir() if path.is_dir()] == ["6a9c"], "asking makes nothing"


async def test_a_damaged_context_is_restored_from_its_snapshot(here):
    _, taken = await here.ask("POST", "/contexts/6a9c/snapshot")
    wanted = {"file": taken["file"], "digest": taken["digest"]}
    status, problem = await here.ask("POST", "/contexts/6a9c/restore", wanted)
    assert (status, problem["reason"]) == (409, "ContextConflict"), "a context that is well is not thrown away"
    here.end()
    (here.directory / "6a9c" / FILE).write_bytes(b"x" * 9000)
    again = Administered(here.directory)
    try:
        assert (await again.ask("GET", "/contexts/6a9c/items"))[0] == 500
        status, problem = await again.ask("POST", "/contexts/6a9c/restore", {**wanted, "digest": "0" * 64})
        assert (status, problem["reason"]) == (409, "ContextConflict")
        assert await again.ask("POST", "/contexts/6a9c/restore", wanted) == (200, {})
        assert [item["content"] for item in (await again.ask("GET", "/contexts/6a9c/items"))[1]["items"]] == ["a word", "another"]
        assert again.desk.store.context(KEY, 3).append(said("on")).first == 3
    finally:
        again.end()

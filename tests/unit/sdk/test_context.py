"""The context through the SDK, against the gateway's real handler, over real sockets."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from aios_sdk import RefusedError, UnreachableError
from aios_sdk.context import AsyncContext, Context, assistant, note, summary, tool_call, tool_result, user
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.gateway.contexts.desk import Desk
from aios_sidecar.gateway.contexts.metrics import ContextMetrics
from unit.sdk.test_whoami import Gateway

WISH = "Ann wants the report by Tuesday."


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="aios-") as directory:
        desk = Desk(partial(SqliteStore, Path(directory, "contexts")), ContextMetrics(CollectorRegistry()))
        gateway = Gateway(Path(directory), desk)
        yield {"AIOS_SOCKET": str(gateway.path)}
        gateway.end()
        desk.close()


def test_what_is_appended_is_read_found_and_shown(environment):
    with Context(environment) as context:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        first = context.append(user(WISH, author="ann", labels={"topic": "work"}, time=at))
        assert (first.first, first.last, first.replayed) == (1, 1, False)
        context.append([tool_call("c1", "calendar", {"day": "Tuesday"}), tool_result("c1", "free")])
        context.append([assistant("I will write it."), note("remember the report")], durable=False)
        context.append(summary("Ann needs a report", [1]))
        items = list(context.read())
        assert [item.seq for item in items] == [1, 2, 3, 4, 5, 6]
        assert (items[0].author, items[0].labels, items[0].time, items[0].content) == ("ann", {"topic": "work"}, at, WISH)
        assert items[1].content == [{"type": "tool_call", "name": "calendar", "arguments": {"day": "Tuesday"}}]
        assert [item.seq for item in context.newest(2)] == [5, 6]
        assert {found.item.seq for found in context.search("reports")} == {1, 5, 6}
        assert [item.content for item in context.expand(6).items] == [WISH]
        (described,) = context.describe_items([6])
        assert (described.sources, described.item.content, described.item.derived_from) == (1, None, (1,))
        context.pin(1)
        context.weigh(4, importance=0.9)
        window = context.window(model="gpt-4o", budget=2000, query="What does Ann want?")
        assert window.tokens <= 2000
        assert any("Tuesday" in str(message) for message in window.messages)
        assert any(1 in line["items"] for line in window.included)
        context.unpin(1)
        context.fork(4, "other")
        assert [(session.name, session.items) for session in context.sessions()] == [("main", 6), ("other", 0)]
        assert [item.seq for item in context.read(session="other")] == [1, 2, 3, 4]
        assert context.snapshot().last_seq == 6
        context.report_usage(model="local", messages=3, content_bytes={"message": 300}, tokens=99)
        receipt = context.erase(author="ann")
        assert (receipt.items, receipt.seqs) == (2, "1,6")
        description = context.describe()
        assert (description.items, description.erased, description.durability) == (4, 2, "NodeLocal")


async def test_the_same_in_asyncio(environment):
    async with AsyncContext(environment) as context:
        await asyncio.gather(*(context.append(user(f"{number} ships")) for number in range(20)))
        assert [item.seq for item in await context.read()] == list(range(1, 21))
        assert len(await context.newest(3)) == 3
        await context.append(summary("ships", [1, 2]))
        assert [item.seq for item in (await context.expand(21)).items] == [1, 2]
        assert (await context.describe_items([21]))[0].sources == 2
        await context.pin(1)
        await context.weigh(2, importance=None)
        await context.fork(2, "b")
        await context.report_usage(model="m", messages=1, content_bytes={"message": 1}, tokens=1)
        assert len(await context.sessions()) == 2
        assert (await context.search("ships", limit=5))[0].score > 0
        assert (await context.window(model="gpt-4o", budget=1000, format="anthropic")).tokens <= 1000
        await context.unpin(1)
        assert (await context.snapshot()).last_seq == 21
        assert (await context.erase(items=[1])).items == 2
        assert (await context.describe()).items == 19


def test_a_long_log_is_read_page_by_page(environment):
    with Context(environment) as context:
        for _ in range(3):
            context.append([user("x") for _ in range(900)], durable=False)
        assert [item.seq for item in context.read(5, 2600)] == list(range(5, 2601))


def test_a_refusal_is_an_error_with_its_reason(environment):
    with Context(environment) as context:
        with pytest.raises(RefusedError, match="there is no item 9") as refusal:
            context.pin(9)
        assert refusal.value.reason == "NoSuchItem"
        with pytest.raises(RefusedError, match="budget must be given"):
            context.window(model="gpt-4o")
        context.append(user("a"), key="k")
        with pytest.raises(RefusedError, match="other items"):
            context.append(user("b"), key="k")


class Flaky:
    """A client whose first requests fail."""

    def __init__(self, client, failures: list[Exception]) -> None:
        self.client, self.failures, self.asked = client, failures, 0

    def request(self, *arguments, **options):
        self.asked += 1
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure
        return self.client.request(*arguments, **options)


def test_an_append_that_is_cut_off_is_tried_again_and_appends_once(environment, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with Context(environment) as context:
        context._client = flaky = Flaky(context._client, [httpx.ReadError("cut"), httpx.ConnectError("gone")])
        assert context.append(user("once")).first == 1
        assert flaky.asked == 3
        flaky.failures = [httpx.ConnectError("gone")] * 9
        with pytest.raises(UnreachableError):
            context.append(user("twice"))
        flaky.failures = [httpx.ReadError("cut")]
        with pytest.raises(UnreachableError):
            context.fork(1, "other")
        flaky.failures = []
        assert [item.content for item in context.read()] == ["once"]
        context._client = flaky.client

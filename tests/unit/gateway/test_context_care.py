"""What the gateway does for contexts of itself: opens and closes them, counts, looks after them, keeps to what the spec says."""

import asyncio
from contextlib import suppress
from pathlib import Path

from aios_api.context import AgentContext as ContextOrder
from aios_sidecar.context.sqlite.folder import FILE
from aios_sidecar.gateway.contexts import models as wire
from unit.gateway.talk import Talk, user

FDS = Path("/proc/self/fd")


async def test_the_context_of_an_agent_that_ended_is_closed(talking, tmp_path):
    def opened() -> int:
        found = 0
        for each in FDS.iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                path = str(each.readlink())
                found += path.startswith(str(tmp_path)) and FILE in path
        return found

    async with talking() as talk:
        await talk.post("/items", {"items": [user("a")]})
        assert opened() > 0
        ((claim, running), *_) = talk.served.agents
        talk.served.agents.stop(claim)
        async with asyncio.timeout(60):
            while opened():
                await asyncio.sleep(0.01)
        await running.context._desk.look_after()
        assert opened() == 0, "nor is it opened again to see what is too old in it"


async def test_what_contexts_do_is_counted(talking):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("a"), user("b")]})
        await agent.refused("/fork", {"at": 1, "into": "main"})
        await agent.refused("/pin", {"items": [99]})
        await agent.post("/erase", {"items": [1]})
        ((_, running), *_) = agent.served.agents
        await running.context.facts()
        value = agent.served.agents._metrics.registry.get_sample_value
        assert value("aios_context_items") == 1
        assert value("aios_context_content_bytes") == 1
        assert value("aios_context_appended_items_total") == 2
        assert value("aios_context_erased_items_total") == 1
        assert value("aios_context_refusals_total", {"reason": "ContextConflict"}) == 1
        assert value("aios_context_commits_total") >= 1


async def test_an_agent_without_a_context_gets_none_by_being_looked_after(talking, tmp_path):
    async with talking() as agent:
        context = next(iter(agent.served.agents))[1].context
        await context.retire()
        assert list((tmp_path / "contexts").iterdir()) == []
        await agent.post("/items", {"items": [user("a")]})
        await context.retire()
        assert len((await agent.get("/items"))["items"]) == 1


async def test_what_the_spec_says_is_in_force_at_once(talking):
    async with talking() as agent:
        (_, served), *_ = agent.served.agents
        await agent.post("/items", {"items": [user(f"{number} ships") for number in range(10)]})
        call = {"model": "gpt-4o"}
        assert (await agent.refused("/window", call))[1] == "InvalidRequest"
        ordered = ContextOrder.model_validate(
            {"budget": 300, "strategy": {"type": "fixed"}, "limits": {"items": 5, "pins": 1}, "retention": {"ageSeconds": 3600}}
        )
        served.record = served.record.model_copy(update={"context": ordered})
        answer = wire.WindowAnswer.model_validate(await agent.post("/window", call))
        assert answer.tokens.budget == 300
        assert {line.reason for line in answer.receipt.in_} == {"First"}
        assert (await agent.get(""))["limits"]["items"] == 5
        await agent.post("/items", {"items": [user("one more")]})
        assert (await agent.get(""))["items"] <= 5
        assert (await agent.refused("/pin", {"items": [10, 11]}))[1] == "ContextLimitReached"
        served.record = served.record.model_copy(update={"context": None})
        assert (await agent.get(""))["limits"]["items"] == 200_000


async def test_what_is_in_a_context_is_told_after_it_was_used(talking):
    async with talking() as agent:
        context = next(iter(agent.served.agents))[1].context
        assert await context.facts() is None
        await agent.post("/items", {"items": [user("abc"), user("de", session="b")]})
        facts = await context.facts()
        assert (facts.items, facts.content_bytes, facts.sessions, facts.first_attempt) == (2, 5, 2, 3)
        assert facts.last_append.endswith("Z")
        assert await context.facts() is facts, "nobody used it meanwhile"
        await agent.post("/erase", {"everything": True})
        assert (await context.facts()).items == 0


async def test_a_directory_that_is_not_ours_yet_is_tried_again(talking, tmp_path):
    (tmp_path / "contexts").write_text("in the way")
    async with talking() as agent:
        for _ in range(2):
            status, reason, _ = await agent.refused("", None)
            assert (status, reason) == (507, "ContextUnwritable")
        (tmp_path / "contexts").unlink()
        assert (await agent.get(""))["items"] == 0


async def test_without_a_directory_there_are_no_contexts(serving):
    async with serving() as served:
        status, reason, _ = await Talk(served).refused("", None)
        assert (status, reason) == (503, "NoContext")

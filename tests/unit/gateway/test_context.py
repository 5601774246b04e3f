"""What an agent may ask of its context, over its own listeners."""

import asyncio
import hashlib
import json

import pytest

from aios_sidecar.context.scoring.embeddings import StaticTable
from aios_sidecar.context.sqlite.folder import FILE
from aios_sidecar.gateway.contexts import models as wire
from aios_sidecar.gateway.settings import Limits
from unit.context.test_embeddings import a_model
from unit.gateway.talk import user


async def test_items_are_appended_and_read_as_they_were(talking):
    call = {
        "role": "assistant",
        "kind": "tool_call",
        "callId": "c",
        "content": [{"type": "tool_call", "name": "f", "arguments": {"a": [1]}}],
    }
    result = {"role": "tool", "kind": "tool_result", "callId": "c", "content": "42"}
    first = user("Łódź?", author="ann", labels={"topic": "trip"}, tokens={"o200k": 4}, time="2026-01-01T10:00:00+01:00")
    async with talking() as agent:
        assert await agent.post("/items", {"items": [first, call, result]}) == {"first": 1, "last": 3, "replayed": False}
        assert (await agent.post("/items", {"items": [user("late")], "durability": "relaxed"}))["first"] == 4
        answer = await agent.get("/items?first=1&last=3")
        assert answer["next"] is None
        one, two, three = answer["items"]
        assert one == {
            "seq": 1,
            "session": "main",
            "time": "2026-01-01T09:00:00Z",
            "role": "user",
            "kind": "message",
            "content": "Łódź?",
            "author": "ann",
            "callId": None,
            "derivedFrom": [],
            "labels": {"topic": "trip"},
            "tokens": {"o200k": 4},
            "pinned": False,
            "importance": None,
            "accesses": 0,
        }
        assert (two["content"], two["callId"], three["content"]) == (call["content"], "c", "42")
        assert [item["seq"] for item in (await agent.get("/items?newest=2"))["items"]] == [3, 4]
        assert [item["seq"] for item in (await agent.get("/items?newest=2&before=3"))["items"]] == [1, 2]
        assert [item["seq"] for item in (await agent.get("/items?limit=2"))["items"]] == [1, 2]
        assert (await agent.get("/items?limit=2"))["next"] == 3
        assert (await agent.get("/items?session=none"))["items"] == []


async def test_an_idempotency_key_makes_an_append_safe_to_repeat(talking):
    async with talking() as agent:
        body = {"items": [user("a")]}
        assert await agent.ask("POST", "/v1/context/items", body, "Idempotency-Key: k\r\n") == (
            201,
            {"first": 1, "last": 1, "replayed": False},
        )
        assert await agent.ask("POST", "/v1/context/items", body, "Idempotency-Key: k\r\n") == (
            200,
            {"first": 1, "last": 1, "replayed": True},
        )
        status, reason, _ = await agent.refused("/items", {"items": [user("b")]}, "Idempotency-Key: k\r\n")
        assert (status, reason) == (409, "ContextConflict")
        assert (await agent.get(""))["items"] == 1


async def test_search_pins_importance_accesses_and_descriptions(talking):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("the dogs ran"), user("cats sleep"), user("a dog", session="b")]})
        summary = {"role": "assistant", "kind": "summary", "content": "animals", "derivedFrom": [1, 2]}
        await agent.post("/items", {"items": [summary]})
        await agent.post("/items", {"items": [{**summary, "content": "all", "derivedFrom": [3, 4]}]})
        found = (await agent.post("/search", {"query": "Dog?", "limit": 5}))["found"]
        assert sorted(each["item"]["seq"] for each in found) == [1, 3]
        assert found[0]["score"] >= found[1]["score"]
        assert [each["item"]["seq"] for each in (await agent.post("/search", {"query": "dog", "session": "b"}))["found"]] == [3]
        await agent.post("/pin", {"items": [1, 2]})
        await agent.post("/unpin", {"items": [2]})
        await agent.post("/importance", {"items": [2], "importance": 0.25})
        one, two, three, *_ = (await agent.get("/items"))["items"]
        assert [one["pinned"], two["pinned"], two["importance"]] == [True, False, 0.25]
        assert [one["accesses"], two["accesses"], three["accesses"]] == [1, 0, 2]
        described = (await agent.get("/describe?items=4,1"))["items"]
        assert [(each["item"]["seq"], each["contentBytes"], each["sources"], each["summaries"]) for each in described] == [
            (1, 12, 0, [4]),
            (4, 7, 2, [5]),
        ]
        assert described[0]["item"]["content"] is None
        assert [item["seq"] for item in (await agent.get("/expand?item=5"))["items"]] == [3, 4]
        assert [item["seq"] for item in (await agent.get("/expand?item=5&depth=2"))["items"]] == [1, 2, 3, 4]
        assert [(each["name"], each["items"]) for each in (await agent.get("/sessions"))["sessions"]] == [("main", 4), ("b", 1)]


async def test_a_fork_an_erasure_with_receipt_and_what_is_left(talking, tmp_path):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("one"), user("sesquipedalian", author="eve"), user("three")]})
        await agent.post("/items", {"items": [{"role": "assistant", "kind": "note", "content": "she said so", "derivedFrom": [2]}]})
        await agent.post("/fork", {"at": 2, "into": "other"})
        assert [item["content"] for item in (await agent.get("/items?session=other"))["items"]] == ["one", "sesquipedalian"]
        receipt = await agent.post("/erase", {"author": "eve"})
        assert (receipt["items"], receipt["seqs"], receipt["places"]["items"], receipt["places"]["derived"]) == (2, "2,4", 1, 1)
        assert [item["content"] for item in (await agent.get("/items"))["items"]] == ["one", "three"]
        assert b"sesquipedalian" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        context = await agent.get("")
        assert (context["items"], context["lastSeq"], context["erased"], context["durability"]) == (2, 4, 2, "NodeLocal")
        assert context["limits"]["itemBytes"] == 256 * 1024


@pytest.mark.parametrize("form", ["ours", "openai", "anthropic"])
async def test_a_window_fits_its_budget_and_says_of_each_item_why(talking, form):
    async with talking() as agent:
        await agent.post("/items", {"items": [user(f"On day {number} we saw {number} ships.", author="ann") for number in range(100)]})
        await agent.post("/pin", {"items": [3]})
        call = {"budget": 500, "model": "gpt-4o", "reserve": 50, "format": form}
        answer = await agent.post("/window", call)
        known = wire.WindowAnswer.model_validate(answer)
        assert 0 < known.tokens.used <= 450
        shown = {item for line in known.receipt.in_ for item in line.items or ()}
        assert {3, 100} <= shown
        assert "On day 99" in json.dumps(answer)
        assert known.last_seq == 100
        assert known.prefix.reused_percent is None
        again = wire.WindowAnswer.model_validate(await agent.post("/window", call))
        assert again.prefix.digest == known.prefix.digest
        assert again.prefix.reused_percent == 100
        asked = wire.WindowAnswer.model_validate(await agent.post("/window", {**call, "query": "What did we see on day 41?"}))
        recalled = [line for line in asked.receipt.in_ if line.reason == "Recalled"]
        assert any(42 in (line.items or ()) for line in recalled)
        items = {item["seq"]: item["accesses"] for item in (await agent.get("/items"))["items"]}
        assert items[42] == 1


async def test_a_question_is_answered_by_meaning_where_the_gateway_has_a_table(talking, tmp_path):
    said = {"items": [user("the engine started"), user("my puppy barked")]}
    asked = {"budget": 100, "model": "gpt-4o", "query": "dog"}
    weighed = {**asked, "strategy": {"type": "sliding", "retrieve": 100, "embedding": 60}}
    async with talking() as agent:
        await agent.post("/items", said)
        _, reason, detail = await agent.refused("/window", weighed)
        assert reason == "InvalidRequest"
        assert detail.startswith("strategy.embedding must be 0 or absent, not 60: this gateway was given no table")
    table = StaticTable.load(a_model(tmp_path / "model"))
    async with talking(table=table) as agent:
        answer = await agent.post("/window", weighed)
        scores = {line["items"][0]: line["scores"] for line in answer["receipt"]["in"]}
        assert scores[2]["meaning"] == 0.6
        places = (await agent.post("/erase", {"items": [2]}))["places"]
        assert places["embeddings"] == 1, "it was kept with its item"


async def test_after_an_erasure_no_window_has_what_was_erased(talking):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("the sesquipedalian word"), user("another word")]})
        call = {"budget": 500, "model": "gpt-4o", "query": "sesquipedalian word?"}
        assert "sesquipedalian" in json.dumps(await agent.post("/window", call))
        await agent.post("/erase", {"items": [1]})
        answer = await agent.post("/window", call)
        assert "sesquipedalian" not in json.dumps(answer)
        assert "another word" in json.dumps(answer)


async def test_a_snapshot_is_kept_on_the_node_until_something_is_erased(talking, tmp_path):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("a"), user("b")]})
        taken = await agent.post("/snapshot", b"")
        (path,) = tmp_path.rglob("snapshots/*.db")
        assert (taken["file"], taken["lastSeq"], taken["fileBytes"]) == (path.name, 2, path.stat().st_size)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == taken["digest"]
        assert (await agent.post("/erase", {"items": [1]}))["places"]["snapshots"] == 1
        assert not path.exists()


async def test_usage_is_reported(talking):
    async with talking() as agent:
        await agent.post("/usage", {"model": "gpt", "messages": 2, "contentBytes": {"message": 400}, "tokens": 120})
        status, reason, detail = await agent.refused("/usage", {"model": "gpt", "messages": 2, "contentBytes": {"video": 1}, "tokens": 120})
        assert (status, reason) == (400, "InvalidRequest")
        assert detail.startswith("contentBytes.video")


@pytest.mark.parametrize(
    ("path", "body", "status", "reason", "says"),
    [
        ("/items", b"{", 400, "InvalidRequest", "the content: Invalid JSON"),
        ("/items", b"[" * 100_000, 400, "InvalidRequest", "the content"),
        ("/items", b"\xff", 400, "InvalidRequest", "the content"),
        ("/items", {"items": []}, 400, "InvalidRequest", "items: List should have at least 1 item"),
        ("/items", {"items": [user("x")] * 1001}, 400, "InvalidRequest", "items: List should have at most 1000 items"),
        (
            "/items",
            {"items": [{"role": "robot", "content": "x"}]},
            400,
            "InvalidRequest",
            "items[0].role: Input should be 'system'",
        ),
        ("/items", {"items": [user("x", color="red")]}, 400, "InvalidRequest", "items[0].color: Extra inputs are not permitted"),
        (
            "/items",
            {"items": [user("x", time="2026-01-01T00:00:00")]},
            400,
            "InvalidRequest",
            "items[0].time: Input should have timezone",
        ),
        ("/items", {"items": [user("x" * 300_000)]}, 400, "InvalidRequest", "content must have at most 262144 bytes, not 300000"),
        ("/items", {"items": [user("x", kind="tool_result")]}, 400, "InvalidRequest", "callId must be given for a tool_result"),
        ("/items", {"items": [user("x", kind="summary", derivedFrom=[7])]}, 400, "InvalidRequest", "derivedFrom must name items"),
        ("/items", b'{"items":[{"role":"user","content":"\\ud800"}]}', 400, "InvalidRequest", "the content: Invalid JSON"),
        ("/items?limit=0", None, 400, "InvalidRequest", "limit and newest must be 1 to 1000"),
        ("/items?newest=5&first=1", None, 400, "InvalidRequest", "newest can't be given together"),
        ("/items?first=x", None, 400, "InvalidRequest", "first: Input should be a valid integer"),
        ("/items?color=red", None, 400, "InvalidRequest", "color: Extra inputs"),
        ("/pin", {"items": [99]}, 404, "NoSuchItem", "there is no item 99"),
        ("/describe?items=1,99", None, 404, "NoSuchItem", "there is no item 99"),
        ("/describe?items=a", None, 400, "InvalidRequest", "items must be 1 to 100 numbers"),
        ("/expand?item=99", None, 404, "NoSuchItem", "there is no item 99"),
        ("/fork", {"at": 1, "into": "main"}, 409, "ContextConflict", "there is a session main"),
        ("/fork", {"at": 1, "into": "a b"}, 400, "InvalidRequest", "into: String should match pattern"),
        ("/erase", {}, 400, "InvalidRequest", "exactly one of items, session, author, label and everything"),
        ("/erase", {"session": "a", "author": "b"}, 400, "InvalidRequest", "exactly one"),
        ("/importance", {"items": [1], "importance": 2}, 400, "InvalidRequest", "importance: Input should be less than or equal to 1"),
        ("/window", {"model": "gpt-4o"}, 400, "InvalidRequest", "budget must be given"),
        ("/window", {"model": "gpt-4o", "budget": 10, "reserve": 10}, 400, "InvalidRequest", "reserve must be at least 0 and less than"),
        ("/window", {"model": "gpt-4o", "budget": 10, "strategy": {"type": "x"}}, 400, "InvalidRequest", "strategy.type: Input should be"),
        ("/window", {"budget": 10}, 400, "InvalidRequest", "model: Field required"),
        ("/search", {"query": ""}, 400, "InvalidRequest", "query: String should have at least 1 character"),
    ],
)
async def test_a_refusal_names_the_field_and_what_must_be_true(talking, path, body, status, reason, says):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("first")]})
        assert (await agent.refused(path, body))[:2] == (status, reason)
        assert says in (await agent.refused(path, body))[2]
        assert (await agent.get(""))["items"] == 1


async def test_content_beyond_the_limits_is_refused_and_what_is_held_is_given_back(talking):
    large = {"items": [user("x" * 200_000) for _ in range(10)]}
    async with talking(Limits(held_bytes=3 << 20)) as agent:
        status, reason, _ = await agent.refused("/items", {"items": [user("x" * 250_000) for _ in range(20)]})
        assert (status, reason) in ((413, "ContentTooLarge"), (503, "TooMuchAtOnce"))
        reader, writer = await agent.served.connect("socket")
        content = json.dumps(large).encode()
        writer.write(b"POST /v1/context/items HTTP/1.1\r\nHost: aios\r\nContent-Length: %d\r\n\r\n" % len(content) + content[:-1])
        await writer.drain()
        async with asyncio.timeout(60):
            while next(iter(agent.served.agents))[1]._held_bytes < len(content) - 1:
                await asyncio.sleep(0.01)
        status, reason, _ = await agent.refused("/items", large)
        assert (status, reason) == (503, "TooMuchAtOnce")
        writer.write(content[-1:])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201")
        writer.close()
        assert (await agent.post("/items", large))["first"] == 11


async def test_a_large_answer_says_where_to_go_on(talking):
    async with talking() as agent:
        for _ in range(3):
            await agent.post("/items", {"items": [user("x" * 250_000) for _ in range(10)]})
        answer = await agent.get("/items")
        assert len(answer["items"]) == 16
        assert answer["next"] == 17
        rest = await agent.get("/items?first=17")
        assert (len(rest["items"]), rest["next"]) == (14, None)
        assert [item["seq"] for item in (await agent.get("/items?newest=30"))["items"]] == list(range(15, 31))


async def test_many_at_once_are_all_answered_and_numbered_without_gaps(talking):
    async with talking() as agent:
        answers = await asyncio.gather(*(agent.post("/items", {"items": [user(str(number))]}) for number in range(60)))
        assert sorted(answer["first"] for answer in answers) == list(range(1, 61))
        read = await asyncio.gather(*(agent.get("/items?newest=1") for _ in range(20)))
        assert {answer["items"][0]["seq"] for answer in read} == {60}


async def test_a_replaced_attempt_is_told_that_it_has_been_replaced(talking):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("a")]})
        (_, served), *_ = agent.served.agents
        identity = served.record.identity
        newer = served.context._desk.of(identity.model_copy(update={"attempt": identity.attempt + 1}))
        await newer.do(lambda context: context.describe())
        status, reason, detail = await agent.refused("/items", {"items": [user("b")]})
        assert (status, reason) == (409, "ContextFenced")
        assert "attempt 4" in detail
        assert len((await agent.get("/items"))["items"]) == 1


async def test_a_damaged_context_says_so_until_everything_is_erased(talking, tmp_path):
    async with talking() as agent:
        await agent.post("/items", {"items": [user("a")]})
    (path,) = tmp_path.rglob(FILE)
    path.write_bytes(b"x" * 9000)
    async with talking() as agent:
        for _ in range(2):
            status, reason, _ = await agent.refused("/items", None)
            assert (status, reason) == (500, "ContextDamaged")
        assert (await agent.post("/erase", {"everything": True}))["places"] == {"damaged": 2}
        assert (await agent.get(""))["items"] == 0

"""What each strategy shows, why, and what a person reads of it."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from aios_api.context import Extent, Strategy, Tier, TierPromotion, TierRetention, TierSelector
from aios_sidecar.context.errors import InvalidWindow
from aios_sidecar.context.eviction import Plan
from aios_sidecar.context.items import Accesses, Draft, Item, Kind, Role, Usage
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.memory import DAWN, MemoryReader, numbered
from aios_sidecar.context.receipt import document
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Scope
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.tokens.files import load
from aios_sidecar.context.window import Memory, Window, WindowRequest, build_window
from unit.context.test_tokens import a_model

NOW = DAWN + timedelta(days=1)
MODELS = Models()
EVERYTHING = Extent(percent=100)


def said(words: str, **more) -> Draft:
    return Draft(Role.USER, words, author="Anna", **more)


TALK = [said("Hello there, how are you?")] + [said(f"Well, it is what it is, is it not, number {'x' * (n % 3)}?") for n in range(40)]


def show(items: list[Item], budget: int = 200, memory: Memory | None = None, **more) -> Window:
    return build_window(MemoryReader(items), WindowRequest(budget, "o200k_base", **more), memory or Memory(), NOW, MODELS)


def seqs(window: Window) -> list[int]:
    return [item.seq for unit in window.units for item in unit.items]


def recalled(window: Window) -> list[int]:
    return [item.seq for unit in window.recalled for item in unit.items]


def test_fixed_shows_the_first_and_sliding_the_newest():
    items = numbered(TALK)
    first = seqs(show(items, strategy=Strategy(type="fixed")))
    newest = seqs(show(items, strategy=Strategy(type="sliding")))
    assert first == list(range(1, len(first) + 1))
    assert newest == list(range(len(items) - len(newest) + 1, len(items) + 1))
    assert 3 < len(newest) < len(items)


def test_importance_keeps_what_is_concrete():
    fact = said("On 12 March I decided to move to Lisbon with Maria for 3 years.")
    items = numbered([*TALK[:5], fact, *TALK[5:]])
    window = show(items, 150, strategy=Strategy(type="importance"))
    assert 6 in seqs(window)
    line = next(line for line in document(window)["receipt"]["in"] if line["items"] == [6])
    assert line["reason"] == "Important"
    assert line["scores"]["importance"] > 0.5


def test_importance_also_keeps_what_was_said_last():
    fact = said("On 12 March I decided to move to Lisbon with Maria for 3 years.")
    assert seqs(show(numbered([fact] * 20 + [said("So?")]), 120, strategy=Strategy(type="importance")))[-1] == 21


def test_what_a_users_own_template_adds_counts(tmp_path):
    """The template adds to every sixth message more than was measured of it: the whole is counted, and made to fit."""
    template = "{% for m in messages %}{% if loop.index % 6 == 0 %}" + "x" * 200 + "{% endif %}<s>{{ m['content'] }}</s>{% endfor %}"
    counter = load(a_model(tmp_path / "tiny", template))
    request = WindowRequest(900, "tiny", format="openai", strategy=Strategy(type="sliding", keep=EVERYTHING))
    window = build_window(MemoryReader(numbered(TALK)), request, Memory(), NOW, Models({"tiny": counter}))
    assert counter.template is not None
    assert 300 < counter.template.count_messages(window.render()["messages"]) <= 900
    text = build_window(MemoryReader(numbered(TALK)), replace(request, format="ours"), Memory(), NOW, Models({"tiny": counter}))
    assert counter.count(text.render()["text"]) <= 900
    assert not text.exact


def test_the_system_part_is_the_beginning_for_anthropic():
    items = numbered([*TALK[:5], Draft(Role.SYSTEM, "Be brief.")])
    memory = Memory()
    request = WindowRequest(1000, "claude-x", format="anthropic")
    for upto in (5, 6):
        window = build_window(MemoryReader(items[:upto]), request, memory, NOW, MODELS)
    assert window.reused_percent is not None
    assert window.reused_percent < 30, "no more than what every request has"
    assert window.render()["system"] == [{"type": "text", "text": "Be brief."}]


def test_what_was_asked_for_again_and_again_stays():
    items = numbered(TALK)
    items[3] = items[3]._replace(accesses=Accesses(5, (NOW - timedelta(minutes=1),) * 5))
    assert 4 in seqs(show(items, 150, strategy=Strategy(type="importance")))


def test_the_agent_may_say_what_is_important():
    items = numbered(TALK)
    items[7] = items[7]._replace(importance=1.0)
    assert 8 in seqs(show(items, 150, strategy=Strategy(type="importance")))


def test_an_eviction_makes_room_down_to_the_mark_and_no_further():
    window = show(numbered(TALK), 200, strategy=Strategy(type="sliding", keep=Extent(items=3)))
    assert len(seqs(window)) == 3
    assert len(seqs(show(numbered(TALK[:4]), 200, strategy=Strategy(type="sliding", keep=Extent(items=3))))) == 4, "nothing had to go yet"


def test_a_trigger_in_items_or_percent_comes_before_the_budget():
    assert len(seqs(show(numbered(TALK), 1000, strategy=Strategy(type="sliding", trigger=Extent(items=4), keep=EVERYTHING)))) == 4
    assert show(numbered(TALK), 1000, strategy=Strategy(type="sliding", trigger=Extent(percent=10))).tokens <= 100


def tiered(*tiers: Tier, items: list[Item], budget: int = 200, **more) -> dict[str, list[int]]:
    window = show(items, budget, strategy=Strategy(type="hierarchical", tiers=list(tiers), keep=EVERYTHING, **more))
    found: dict[str, list[int]] = {}
    for verdict in window.verdicts:
        found.setdefault(str(verdict.tier), []).extend(item.seq for item in verdict.candidate.unit.items)
    return found


def test_tiers_take_in_their_order_each_by_its_own_strategy():
    told = Draft(Role.SYSTEM, "You help Anna with her garden.")
    fact = said("On 12 March I decided to move to Lisbon with Maria for 3 years.")
    items = numbered([told, fact, *TALK])
    found = tiered(
        Tier(name="core", select=TierSelector(roles=["system"]), share=20, strategy="fixed"),
        Tier(name="working", share=50, strategy="sliding"),
        Tier(name="archive", strategy="importance"),
        items=items,
    )
    assert found["core"] == [1]
    assert found["working"][-1] == len(items)
    assert 2 in found["archive"]


def test_the_preset_is_core_working_archive():
    window = show(numbered([Draft(Role.SYSTEM, "Be brief."), *TALK]), strategy=Strategy(type="hierarchical", preset="CoreWorkingArchive"))
    assert {verdict.tier for verdict in window.verdicts} == {"core", "working", "archive"}


def test_a_receipt_names_the_tier_also_later():
    items, memory = numbered([Draft(Role.SYSTEM, "Be brief."), *TALK, said("And now?")]), Memory()
    strategy = Strategy(type="hierarchical", preset="CoreWorkingArchive")
    before, after = (show(items[:upto], memory=memory, strategy=strategy) for upto in (len(items) - 1, len(items)))
    tiers = {verdict.candidate.unit.first: verdict.tier for verdict in before.verdicts}
    assert {verdict.candidate.unit.first: verdict.tier for verdict in after.verdicts} == {**tiers, len(items): None}
    assert [verdict.reason.value for verdict in after.verdicts] == ["Kept"] * len(tiers) + ["New"]


def test_a_tier_leaves_what_a_later_one_is_promised():
    note = Draft(Role.ASSISTANT, "Remember the milk, it is important to Anna.", Kind.NOTE)
    greedy = Tier(name="all", select=TierSelector(kinds=["message"]))
    items = numbered([note, *TALK])
    assert "notes" in tiered(greedy, Tier(name="notes", min=Extent(tokens=40)), items=items, budget=150)
    assert "notes" not in tiered(greedy, Tier(name="notes", max=Extent(items=1)), items=items, budget=60)


def test_no_tier_grows_beyond_its_max_also_when_others_leave_theirs():
    found = tiered(Tier(name="few", share=10, max=Extent(items=2), demote=False), items=numbered(TALK), budget=1000)
    assert len(found["few"]) == 2


def test_what_stayed_long_enough_goes_down_or_out():
    items = numbered(TALK[:10])
    young = TierRetention(age_seconds=int((NOW - items[6].time).total_seconds()))
    down = tiered(Tier(name="young", retention=young), Tier(name="old"), items=items, budget=1000)
    assert (down["young"], down["old"]) == ([7, 8, 9, 10], [1, 2, 3, 4, 5, 6])
    out = tiered(Tier(name="young", retention=young, demote=False), Tier(name="old"), items=items, budget=1000)
    assert out == {"young": [7, 8, 9, 10]}
    by_items = tiered(Tier(name="young", retention=TierRetention(items=3)), Tier(name="old"), items=items, budget=1000)
    assert by_items["young"] == [8, 9, 10]


def test_a_plan_ends_when_an_item_is_past_its_tiers_age():
    items = numbered(TALK[:10])
    strategy = Strategy(type="hierarchical", tiers=[Tier(name="young", retention=TierRetention(age_seconds=86_400), demote=False)])
    request, memory = WindowRequest(1000, "o200k_base", strategy=strategy), Memory()
    assert len(seqs(build_window(MemoryReader(items), request, memory, items[-1].time, MODELS))) == 10
    assert seqs(build_window(MemoryReader(items), request, memory, items[4].time + timedelta(days=1), MODELS)) == [5, 6, 7, 8, 9, 10]


def test_what_was_asked_for_comes_up_from_a_later_tier():
    items = numbered(TALK[:6])
    items[1] = items[1]._replace(accesses=Accesses(3, (NOW,) * 3))
    up = Tier(name="core", select=TierSelector(roles=["system"]), promote=TierPromotion(accesses=3))
    assert tiered(up, Tier(name="rest"), items=items, budget=1000)["core"] == [2]


def test_a_question_brings_old_items_to_the_end_and_leaves_the_beginning_as_it_is():
    fact = said("Biscuit is the name of my dog, she is a corgi.")
    items = numbered([fact, *TALK])
    memory = Memory()
    window = show(items, 300, memory=memory, query="What is the name of the dog?")
    again = show([*items, numbered([*TALK, fact, said("And now?")])[-1]], 300, memory=memory, query="Which breed is Biscuit?")
    assert recalled(window)[0] == 1
    assert again.prefix_digest != window.prefix_digest
    assert [unit.first for unit in again.units][: len(window.units)] == [unit.first for unit in window.units]
    line = next(line for line in document(window)["receipt"]["in"] if line["items"] == [1])
    assert line["reason"] == "Recalled"
    assert line["scores"]["words"] > 0
    assert window.accessed == recalled(window)


def test_who_is_named_in_the_question_should_speak():
    items = numbered(
        [Draft(Role.USER, "My favourite colour is green.", author="Anna"), Draft(Role.USER, "My favourite colour is red.", author="Ben")]
    )
    reader = MemoryReader([*items, *(item._replace(seq=item.seq + 10) for item in numbered(TALK[:3]))])
    request = WindowRequest(20, "o200k_base", strategy=Strategy(type="sliding", retrieve=100), query="What is Ben's favourite colour?")
    assert recalled(build_window(reader, request, Memory(), NOW, MODELS)) == [2]


def test_an_answer_next_to_a_hit_is_found():
    talk = [said(f"Small talk {n}, nothing else.") for n in range(60)]
    talk[20] = said("Which instrument does your daughter play?")
    talk[21] = said("The cello!")
    window = show(numbered(talk), 60, strategy=Strategy(type="sliding", retrieve=100), query="What instrument does the daughter play?")
    assert {21, 22} <= set(recalled(window))


def test_a_question_stays_within_the_session_that_is_named():
    items = numbered([said("Biscuit is my dog.", session="ben"), *TALK])
    assert recalled(show(items, 300, query="Who is Biscuit?"))[0] == 1
    assert 1 not in recalled(show(items, 300, query="Who is Biscuit?", session="main"))


def test_a_fork_shows_what_it_began_with_and_then_its_own(tmp_path):
    store = SqliteStore(tmp_path / "contexts")
    try:
        context = store.context(AgentKey("team", "coder", "u"), attempt=1)
        call = Draft(Role.ASSISTANT, ({"type": "tool_call", "name": "find", "arguments": {}},), Kind.TOOL_CALL, call_id="a")
        context.append([said("Hello."), call])
        memory, request = Memory(), WindowRequest(500, "gpt-4o", session="fork", format="openai")

        def shown() -> list[int]:
            with context.reading() as reader:
                return seqs(build_window(reader, request, memory, NOW, MODELS))

        assert shown() == []
        context.fork(2, "fork")
        context.append([said("Not of the fork.")])
        context.append([Draft(Role.TOOL, "found", Kind.TOOL_RESULT, "fork", call_id="a"), said("And?", session="fork")])
        assert shown() == [1, 2, 4, 5]
    finally:
        store.close()


def test_what_has_gone_by_retention_takes_no_room_from_what_a_question_finds(tmp_path):
    """What is remembered of items is compared with what there is: numbers of items that went are worth nothing."""
    store = SqliteStore(tmp_path / "contexts")
    try:
        context = store.context(AgentKey("team", "coder", "u"), attempt=1, limits=Limits(items=200))
        memory, request = Memory(), WindowRequest(600, "gpt-4o", query="Which harbour did Maria sail to?")

        def asked(memory: Memory) -> Window:
            with context.reading() as reader:
                return build_window(reader, request, memory, NOW, MODELS)

        for words in (*["On 3 May 2024 Maria decided to sail to Lisbon, for 40 €."] * 60, *["Well, a harbour."] * 30):
            context.append([said(words)] * 10)
            asked(memory)
        assert recalled(asked(memory)) == recalled(asked(Memory())) != []
    finally:
        store.close()


def test_a_session_that_is_another_one_under_its_name_is_weighed_anew(tmp_path):
    store = SqliteStore(tmp_path / "contexts")
    try:
        context = store.context(AgentKey("team", "coder", "u"), attempt=1)
        memory, request = Memory(), WindowRequest(600, "gpt-4o", query="Where to?", session="f")

        def asked() -> list[int]:
            with context.reading() as reader:
                return recalled(
                    build_window(reader, replace(request, strategy=Strategy(type="sliding", retrieve=100)), memory, NOW, MODELS)
                )

        context.append([said(f"Number {n} to Lisbon", session="f") for n in range(3)])
        assert asked() == [1, 2, 3]
        context.append([said(f"Number {n} to Porto") for n in range(3)])
        context.erase(Scope(session="f"))
        context.fork(6, "f")
        assert asked() == [4, 5, 6]
    finally:
        store.close()


def test_a_summary_makes_way_for_what_it_stands_for():
    items = numbered([*TALK[:3], Draft(Role.ASSISTANT, "They greeted.", Kind.SUMMARY, derived_from=(1, 2))])
    window = show(items, 1000)
    assert seqs(window) == [1, 2, 3]
    assert [line["reason"] for line in document(window)["receipt"]["out"]] == ["SourcesShown"]
    assert 4 in seqs(show(items, 60, strategy=Strategy(type="sliding", keep=EVERYTHING)))


def test_a_call_waits_outside_for_its_result_and_then_comes_in():
    call = Draft(Role.ASSISTANT, ({"type": "tool_call", "name": "find", "arguments": {}},), Kind.TOOL_CALL, call_id="a")
    items = numbered([*TALK, call, Draft(Role.TOOL, "found", Kind.TOOL_RESULT, call_id="a")])
    memory = Memory()
    waiting = show(items[:-1], 200, memory=memory)
    assert len(items) - 1 not in seqs(waiting)
    assert "CallWithoutResult" in [line["reason"] for line in document(waiting)["receipt"]["out"]]
    assert seqs(show(items, 200, memory=memory))[-2:] == [len(items) - 1, len(items)]


def test_one_item_that_is_more_than_everything_does_not_empty_the_window():
    items = numbered([*TALK[:4], said("word " * 500)])
    window = show(items, 200, strategy=Strategy(type="sliding", keep=EVERYTHING))
    assert seqs(window) == [1, 2, 3, 4]
    assert document(window)["receipt"]["out"] == [{"items": [5], "reason": "TooLarge", "tokens": window.left[0].candidate.cost}]


def test_reports_of_usage_do_not_break_what_is_cached():
    memory, reports, reused = Memory(), [], []
    for upto in range(60, 120):
        items = numbered([said(f"Message number {n}, of no great length.") for n in range(upto)])
        window = build_window(MemoryReader(items, reports), WindowRequest(1000, "claude-x", format="anthropic"), memory, NOW, MODELS)
        size = sum(len(f"Anna: {item.content}") for unit in window.units for item in unit.items)
        reports.append(
            Usage("claude-x", NOW + timedelta(seconds=upto), len(window.units), {"message": size}, size // 4 + 5 * len(window.units))
        )
        reused.append(window.reused_percent)
    assert window.counter.basis.startswith("ratios of tokens to bytes learned from")
    assert sum(each > 90 for each in reused[1:]) > 50


def test_the_receipt_names_everything_and_is_json():
    items = numbered(TALK)
    told = document(show(items))
    json.dumps(told)
    named = [seq for line in told["receipt"]["in"] for seq in line["items"]]
    for line in told["receipt"]["out"]:
        named += line.get("items") or range(line["first"], line["last"] + 1)
    assert sorted(named) == [item.seq for item in items]
    assert told["tokens"] == {
        "used": told["tokens"]["used"], "budget": 200, "reserve": 0, "exact": True, "countedBy": "table o200k_base", "boundPercent": 0.0,
    }  # fmt: skip


def test_an_estimate_says_that_it_is_one():
    told = build_window(MemoryReader(numbered(TALK)), WindowRequest(300, "claude-x", format="anthropic"), Memory(), NOW, MODELS)
    assert document(told)["tokens"]["exact"] is False
    assert document(told)["tokens"]["countedBy"] == "declared ratios of tokens to bytes"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (WindowRequest(0, "gpt-4o"), "budget must be at least 1"),
        (WindowRequest(10, "gpt-4o", reserve=10), "reserve must be at least 0 and less than budget"),
        (WindowRequest(10, "gpt-4o", format="xml"), "format must be one of ours, openai, anthropic"),
    ],
)
def test_a_call_that_can_not_be_answered_names_the_field(request_: WindowRequest, says: str):
    with pytest.raises(InvalidWindow, match=says):
        build_window(MemoryReader([]), request_, Memory(), NOW, MODELS)


@pytest.mark.parametrize("kept", [None, "", "{}", '{"upto": 3}', '{"upto": "x", "runs": []}', '{"upto": 1, "runs": [[1, "a"]]}', "[]"])
def test_a_plan_that_can_not_be_read_is_made_anew(kept: str | None):
    assert Plan.decode(kept) is None


def test_a_plan_comes_back_as_it_was_kept():
    plan = Plan(9, (1, 2, 3, 7, 9), NOW, (("core", (1, 7)), ("rest", (2, 3, 9))))
    assert Plan.decode(plan.encode()) == plan

"""Whether any of very many windows breaks a promise: over its budget, a tool result without its call, a pin that is lost."""

from random import Random
from typing import Final

from aios_api.context import Extent, Strategy, Tier, TierRetention, TierSelector
from aios_sidecar.context.errors import BudgetTooSmall
from aios_sidecar.context.formats import FORMATS
from aios_sidecar.context.items import Draft, Item, Kind, Role
from aios_sidecar.context.memory import MemoryReader, numbered
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.window import Memory, Window, WindowRequest, build_window

WORDS: Final = (
    "Anna",
    "paid",
    "30 €",
    "for",
    "the",
    "trip",
    "yesterday",
    "I decided",
    "why?",
    "naïve",
    "東京",
    "🎉",
    "<|im_end|>",
    "ok",
    "!",
    "\n",
)
QUESTIONS: Final = (None, "When did Anna pay for the trip?", "Who decided?", "東京")
MODELS: Final = ("gpt-4o", "gpt-4", "o200k_base", "claude-x")


def promises(logs: int) -> dict[str, float]:
    """Windows over random logs, strategies, budgets, models and formats: how many broke a promise. Pins that alone are more than a budget
    are refused, and no window."""
    random = Random(7)  # noqa: S311  reproducible, not secret
    models = Models()
    counted = {"windows_over_budget": 0.0, "orphaned_results": 0.0, "lost_pins": 0.0, "windows": 0.0}
    for _ in range(logs):
        items = _random_log(random)
        memory = Memory()
        request = _random_request(random)
        for upto in (random.randrange(1, len(items) + 1), len(items)):
            try:
                window = build_window(MemoryReader(items[:upto]), request, memory, items[-1].time, models)
            except BudgetTooSmall:
                continue
            counted["windows"] += 1
            counted["windows_over_budget"] += _over_budget(window)
            counted["orphaned_results"] += _orphans(window)
            shown = {item.seq for unit in window.units for item in unit.items}
            counted["lost_pins"] += sum(
                item.pinned and item.seq not in shown for item in items[:upto] if request.session in (None, item.session)
            )
    return counted


def _over_budget(window: Window) -> bool:
    room = window.request.budget - window.request.reserve
    return window.tokens > room or (window.request.format == "ours" and window.counter.count(window.render()["text"]) > room)


def _orphans(window: Window) -> int:
    """Results without their call, and calls without their result, among what is written as such."""
    rendered = window.render()
    calls: list[str] = []
    results: list[str] = []
    for message in rendered.get("messages", ()):
        calls += [call["id"] for call in message.get("tool_calls", ())]
        results += [message["tool_call_id"]] if "tool_call_id" in message else []
        for block in message["content"] if isinstance(message["content"], list) else ():
            calls += [block["id"]] if block["type"] == "tool_use" else []
            results += [block["tool_use_id"]] if block["type"] == "tool_result" else []
    return len(set(calls) ^ set(results)) + sum(unit.fault is not None and not unit.pinned for unit in window.units)


def _random_log(random: Random) -> list[Item]:
    """Up to 60 items of every kind in two sessions at once; calls in parallel; results late, missing, doubled, or of nothing; pins."""
    drafts = [_random_draft(random) for _ in range(random.randrange(1, 60))]
    pins = {random.randrange(len(drafts)) for _ in range(random.randrange(3))}
    return [item._replace(pinned=index in pins) for index, item in enumerate(numbered(drafts))]


def _random_draft(random: Random) -> Draft:
    session, call = random.choice(("main", "main", "side")), random.choice(("c1", "c2", "c/3"))
    text = " ".join(random.choices(WORDS, k=random.randrange(40 if random.random() < 0.1 else 12)))
    kind = random.random()
    if kind < 0.15:
        part = {"type": "tool_call", "name": "find page", "arguments": {"query": text}}
        return Draft(Role.ASSISTANT, (part,), Kind.TOOL_CALL, session, call_id=call)
    if kind < 0.35:
        return Draft(Role.TOOL, text, Kind.TOOL_RESULT, session, call_id=call)
    role = random.choice((Role.USER, Role.ASSISTANT, Role.SYSTEM))
    return Draft(role, text, random.choice((Kind.MESSAGE, Kind.NOTE)), session, author=random.choice((None, "Anna", "Jean Luc")))


def _random_request(random: Random) -> WindowRequest:
    budget = random.randrange(20, 800)
    return WindowRequest(
        budget,
        random.choice(MODELS),
        reserve=random.randrange(budget // 3),
        strategy=_random_strategy(random),
        query=random.choice(QUESTIONS),
        session=random.choice((None, "main")),
        format=random.choice(list(FORMATS)),
    )


def _random_strategy(random: Random) -> Strategy:
    kind = random.choice(("fixed", "sliding", "importance", "hierarchical", "preset"))
    keep = random.choice((None, Extent(percent=random.randrange(1, 101)), Extent(items=random.randrange(20))))
    if kind == "preset":
        return Strategy(type="hierarchical", preset="CoreWorkingArchive", keep=keep)
    if kind == "hierarchical":
        first = Tier(name="first", select=TierSelector(roles=["user"]), share=random.randrange(1, 60), strategy="importance")
        second = Tier(name="second", retention=TierRetention(items=random.randrange(1, 20)), max=Extent(percent=random.randrange(1, 101)))
        return Strategy(type="hierarchical", tiers=[first, second], keep=keep)
    return Strategy(type=kind, keep=None if kind == "fixed" else keep, retrieve=random.randrange(1, 101))  # type: ignore[arg-type]

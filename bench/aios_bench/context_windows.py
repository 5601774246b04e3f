"""How fast windows are, and how much of them stays cached from one to the next."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from aios_api.context import Extent, Strategy, Tier, TierSelector
from aios_bench import dialogue_maker
from aios_bench.dialogues import Dialogue, dialogue
from aios_sidecar.context.items import Draft, Role
from aios_sidecar.context.memory import DAWN, MemoryReader, numbered
from aios_sidecar.context.scoring import QueryScorer, Scorer
from aios_sidecar.context.scoring.embeddings import StaticTable, scorer_for
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey, Context
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.window import Memory, WindowRequest, build_window

NEWEST: Final = Strategy(type="sliding", trigger=Extent(items=220), keep=Extent(items=200))
"""Windows of 200 to 220 items: one call in twenty evicts."""
ASKING: Final = Strategy(type="sliding", retrieve=100)
BUDGET: Final = 8000
CORE_TOKENS: Final = 800


@dataclass
class _Asked:
    """A context in a store, asked for windows as the gateway does it."""

    context: Context
    models: Models
    memory: Memory
    now: datetime
    scorer: Scorer = field(default_factory=QueryScorer)

    def window(self, request: WindowRequest) -> float:
        """Milliseconds that it took, the state that is kept included."""
        began = time.perf_counter()
        with self.context.reading() as reader:
            window = build_window(reader, request, self.memory, self.now, self.models, self.scorer)
        if window.state is not None:
            self.context.keep_state(dict([window.state]))
        if window.vectors is not None:
            self.context.keep_vectors(*window.vectors)
        return 1000 * (time.perf_counter() - began)


def speed(large: int, samples: int, table: StaticTable | None) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Windows of 200 items and query windows out of `large` items, and query windows over 600, from a store on this machine's disk; with a
    `table` also query windows by meaning."""
    dialogues = [dialogue(document, "generated") for document in dialogue_maker.dataset(range(10))]
    questions = [question.text for each in dialogues for question in each.questions]
    Random(1).shuffle(questions)  # noqa: S311  reproducible, not secret
    taken: dict[str, list[float]] = {}
    with ExitStack() as stack:
        store = SqliteStore(Path(stack.enter_context(TemporaryDirectory(prefix="aios-bench-context-"))))
        stack.callback(store.close)
        for name, size in (("large", large), ("600", 600)):
            asked = _Asked(_filled(store, name, dialogues, size), Models(), Memory(), DAWN + timedelta(days=3650))
            if name == "large":
                request = WindowRequest(10 * BUDGET, "gpt-4o", strategy=NEWEST, format="openai")
                asked.window(request)
                taken["window_store_ms"] = []
                for number in range(samples):
                    asked.context.append([Draft(Role.USER, f"This is message {number} of them.")], durable=False)
                    taken["window_store_ms"].append(asked.window(request))
            key = "query_600" if name == "600" else "query_100k"
            taken[f"{key}_ms"] = _questions(asked, questions, samples)
            if table is not None:
                asked.scorer = scorer_for(None, table)
                taken[f"{key}_embedding_ms"] = _questions(asked, questions, samples)
    return {f"{name}_p50": round(statistics.median(values), 2) for name, values in taken.items()}, taken


def _questions(asked: _Asked, questions: Sequence[str], samples: int) -> list[float]:
    """Milliseconds of each, once one was asked."""
    asked.window(WindowRequest(2000, "gpt-4o", strategy=ASKING, query=questions[-1]))
    mix = islice(cycle(questions), samples)
    return [asked.window(WindowRequest(2000, "gpt-4o", strategy=ASKING, query=question)) for question in mix]


def _filled(store: SqliteStore, name: str, dialogues: Sequence[Dialogue], size: int) -> Context:
    context = store.context(AgentKey("bench", name, f"bench-{name}"), attempt=1)
    items = islice((item for each in cycle(dialogues) for item in each.items), size)
    drafts = [Draft(item.role, item.content, author=item.author) for item in items]
    for start in range(0, size, 500):
        context.append(drafts[start : start + 500], durable=False)
    return context


def prefix_reuse(dialogues: Sequence[Dialogue]) -> float:
    """The share of all tokens of prompts that begins as the prompt before did: dialogues streamed turn by turn into a window of 8,000
    tokens with a core of 800, from when it is first full."""
    core = Tier(name="core", select=TierSelector(roles=["system"]), share=100 * CORE_TOKENS // BUDGET, strategy="fixed")
    strategy = Strategy(type="hierarchical", tiers=[core, Tier(name="working", strategy="sliding")])
    request = WindowRequest(BUDGET, "gpt-4o", strategy=strategy, format="openai")
    told = Draft(Role.SYSTEM, "You are asked to remember. " * (CORE_TOKENS // 6))
    reused = total = 0.0
    for each in dialogues:
        items = numbered([told, *(Draft(item.role, item.content, author=item.author) for item in each.items)])
        memory, models, full = Memory(), Models(), False
        for upto in range(1, len(items) + 1):
            window = build_window(MemoryReader(items[:upto]), request, memory, items[-1].time, models)
            full = full or sum(len(unit.items) for unit in window.units) < upto
            if full and window.reused_percent is not None:
                reused += window.tokens * window.reused_percent / 100
                total += window.tokens
    return round(100 * reused / total, 1)

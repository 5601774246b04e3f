"""How good windows are: the share of what a question needs that is in the window, by strategy and budget. No model judges anything."""

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aios_api.context import Extent, Strategy
from aios_bench.dialogues import Dialogue, Question
from aios_sidecar.context.costs import Costs
from aios_sidecar.context.eviction import Scene
from aios_sidecar.context.formats import FORMATS
from aios_sidecar.context.memory import MemoryReader
from aios_sidecar.context.scoring import QueryScorer, Scorer
from aios_sidecar.context.scoring.base import Known
from aios_sidecar.context.tokens import Models
from aios_sidecar.context.units import Unit
from aios_sidecar.context.window import Memory, WindowRequest, build_window

MODEL: Final = "o200k_base"
ALL: Final = Extent(percent=100)
STRATEGIES: Final[Mapping[str, Strategy]] = {
    "query": Strategy(type="sliding", retrieve=100),
    "sliding": Strategy(type="sliding", keep=ALL),
    "fixed": Strategy(type="fixed"),
    "importance": Strategy(type="importance", keep=ALL),
    "hierarchical": Strategy(type="hierarchical", preset="CoreWorkingArchive", keep=ALL, retrieve=60),
}
"""query shows only what the question finds; hierarchical gives it 60 % and the tiers the rest; the others do not look at the question."""
ASKED: Final = ("query", "hierarchical")
SHARES: Final = (10, 20, 30)
ENOUGH_PERCENT: Final = 80


@dataclass(frozen=True)
class Quality:
    """What was measured."""

    results: Sequence[Mapping[str, Any]]
    tokens_for_80_percent: Mapping[str, int]
    """By strategy: the budget at which that many questions have all their evidence in the window."""
    figures: Mapping[str, float]


class _Bench:
    """One dialogue, read once, as an agent's context is."""

    def __init__(self, dialogue: Dialogue, models: Models, scorer: Scorer) -> None:
        self.dialogue = dialogue
        self.reader = MemoryReader(dialogue.items)
        self.memory = Memory()
        self.models = models
        self.scorer = scorer
        self.now: datetime = dialogue.items[-1].time
        form, counter = FORMATS["ours"], models.counter(MODEL)
        self.scene = Scene(self.reader, None, form, counter, Costs().table(form, counter), Known(), self.now)
        self.costs = {item.seq: self.scene.candidate(Unit((item,))).cost for item in dialogue.items}

    def window(self, name: str, budget: int, question: Question | None) -> set[int]:
        request = WindowRequest(budget, MODEL, strategy=STRATEGIES[name], query=None if question is None else question.text)
        window = build_window(self.reader, request, self.memory, self.now, self.models, self.scorer)
        return {item.seq for group in (window.units, window.recalled) for unit in group for item in unit.items}

    def order(self, name: str, question: Question) -> Iterable[int]:
        """Items in the order in which a growing budget takes them in."""
        seqs = [item.seq for item in self.dialogue.items]
        match name:
            case "query":
                return [scored.seq for scored in self.scorer.score(question.text, self.reader, self.memory.known, None)]
            case "sliding":
                return seqs[::-1]
            case "importance":
                scores = {item.seq: self.scene.importance(Unit((item,))) for item in self.dialogue.items}
                return sorted(seqs, key=lambda seq: (-scores[seq], -seq))
            case _:
                return seqs


def measure(dialogues: Sequence[Dialogue], budgets: Sequence[int], scorer: Scorer | None = None, only: Sequence[str] = ()) -> Quality:
    """All strategies, or `only` some, at all budgets over all questions."""
    benches = [_Bench(dialogue, Models(), scorer or QueryScorer()) for dialogue in dialogues]
    names = [name for name in STRATEGIES if not only or name in only]
    results = [_result(benches, name, budget) for name in names for budget in budgets]
    needed = {name: _tokens_needed(benches, name) for name in names if name != "hierarchical"}
    figures = {f"kept_at_{share}": _kept(benches, share) for share in SHARES} if "importance" in names else {}
    return Quality(results, needed, figures)


def _result(benches: Sequence[_Bench], name: str, budget: int) -> Mapping[str, Any]:
    recall, complete, took = [], [], []
    for bench in benches:
        shown: set[int] | None = None
        for question in bench.dialogue.questions:
            if shown is None or name in ASKED:
                began = time.perf_counter()
                shown = bench.window(name, budget, question if name in ASKED else None)
                took.append(1000 * (time.perf_counter() - began))
            found = len(shown & question.gold) / len(question.gold)
            recall.append(found)
            complete.append(found == 1)
    return {
        "strategy": name,
        "budget": budget,
        "recall": _percent(recall),
        "complete": _percent(complete),
        "ms_per_window_p50": round(statistics.median(took), 2),
        "questions": len(recall),
    }


def _tokens_needed(benches: Sequence[_Bench], name: str) -> int:
    needed = []
    for bench in benches:
        for question in bench.dialogue.questions:
            waiting, total = set(question.gold), 0
            for seq in bench.order(name, question):
                total += bench.costs[seq]
                waiting.discard(seq)
                if not waiting:
                    break
            needed.append(total)
    return sorted(needed)[max(0, math.ceil(len(needed) * ENOUGH_PERCENT / 100) - 1)]


def _kept(benches: Sequence[_Bench], share: int) -> float:
    """How much of the evidence is in a window of importance alone that holds `share` percent of the history's tokens."""
    kept = []
    for bench in benches:
        shown = bench.window("importance", max(1, sum(bench.costs.values()) * share // 100), None)
        kept += [len(shown & question.gold) / len(question.gold) for question in bench.dialogue.questions]
    return _percent(kept)


def _percent(values: Sequence[float]) -> float:
    return round(100 * statistics.fmean(values), 1) if values else 0.0


def table(quality: Quality) -> list[str]:
    """The results as a person reads them: recall / complete, a line per strategy."""
    budgets = sorted({result["budget"] for result in quality.results})
    rows = ["strategy      " + "".join(f"{budget:>16,} tokens" for budget in budgets) + "   tokens for 80 %"]
    for name in STRATEGIES:
        own = sorted((result for result in quality.results if result["strategy"] == name), key=lambda result: int(result["budget"]))
        if own:
            needed = quality.tokens_for_80_percent.get(name)
            rows.append(f"{name:<14}" + "".join(f"{_cell(result):>23}" for result in own) + f"{needed if needed else '-':>18}")
    return rows


def _cell(result: Mapping[str, Any]) -> str:
    return f"{result['recall']} / {result['complete']} %"

"""The window: what of a context is shown to a model now, within a budget that is never exceeded, and why.

`build_window` is pure over a Reader. `Memory` keeps between calls what makes them cheap; everything in it can be lost.
"""

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from aios_api.context import Strategy
from aios_sidecar.context.costs import Costs
from aios_sidecar.context.errors import BudgetTooSmall, InvalidWindow
from aios_sidecar.context.eviction import Plan, Scene, Shown, base_window
from aios_sidecar.context.formats import FORMATS, Format, Rendered
from aios_sidecar.context.items import Kind
from aios_sidecar.context.reader import Reader
from aios_sidecar.context.recall import Recall, recall
from aios_sidecar.context.scoring import Scorer
from aios_sidecar.context.scoring.base import Known
from aios_sidecar.context.scoring.embeddings import scorer_for
from aios_sidecar.context.strategies.choose import Reason, Room, Verdict
from aios_sidecar.context.tokens import Models, TokenCounter
from aios_sidecar.context.units import Unit, complete

SLIDING: Final = Strategy(type="sliding")
"""Where neither the agent's spec nor the call names a strategy."""
TRACES_LIMIT: Final = 64
"""Windows of one context that the next ones are compared with: one per session, format and model."""
K = TypeVar("K")
V = TypeVar("V")
_CORRECTIONS: Final = 8
"""Where parts need not add up to the whole: so often the room is made smaller before all is left out."""


@dataclass(frozen=True)
class WindowRequest:
    """A call for a window."""

    budget: int
    """Tokens, of everything that the request to the model holds but `reserve`."""
    model: str
    """Whose tokens. A packaged table's own name counts plain text."""
    reserve: int = 0
    """Of the budget, left for tool schemas and the answer."""
    strategy: Strategy = SLIDING
    query: str | None = None
    session: str | None = None
    """Only its items; None: all sessions."""
    format: str = "ours"


@dataclass
class Memory:
    """What is kept of one context between calls: an empty one gives the same windows, later. It has parts of contents in it: it ends when
    something is erased. For one thread at a time."""

    known: Known = field(default_factory=Known)
    costs: Costs = field(default_factory=Costs)
    traces: dict[tuple[str | None, str, str], "Trace"] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    generation: int = 0

    def become(self, generation: int) -> None:
        """It is of this generation of the context: what it had of another is gone."""
        if generation != self.generation:
            self.known, self.costs, self.generation = Known(), Costs(), generation
            for kept in (self.traces, self.plans, self.shown):
                kept.clear()


@dataclass(frozen=True)
class Trace:
    """A window, part by part from its beginning: what the next one is compared with."""

    parts: tuple[tuple[int, int, int], ...]
    """First item, number of items, tokens."""


@dataclass(frozen=True)
class Window:
    """What is shown, and why."""

    request: WindowRequest
    units: Sequence[Unit]
    """In the order of the log, what is pinned among them."""
    recalled: Sequence[Unit]
    """What the question found, at the end."""
    tokens: int
    """All that is shown costs, at most. Never more than budget - reserve."""
    exact: bool
    """`tokens` is what the model counts, not an upper bound."""
    counter: TokenCounter
    verdicts: Sequence[Verdict]
    """Of the units that are shown and not recalled."""
    left: Sequence[Verdict]
    recall: Recall
    looked_from: int
    last_seq: int
    prefix_digest: str
    """Of what is shown before anything recalled: equal digests of one format and model mean equal beginnings."""
    reused_percent: float | None
    """How much of the window, from its beginning, is as in the window before. None: none is known of."""
    trace: Trace
    """What the next window is compared with."""
    state: tuple[str, str] | None
    """To be kept with the context, when set: what the next call begins from."""
    vectors: tuple[str, Mapping[int, bytes]] | None
    """To be kept with the context, when set: those of items that no question had weighed yet."""

    @property
    def format(self) -> Format:
        return FORMATS[self.request.format]

    def render(self) -> Rendered:
        """As its format writes it."""
        return self.format.render(self.units, self.recalled)

    @property
    def accessed(self) -> Sequence[int]:
        """The items that a question asked for: what base-level activation counts."""
        return [item.seq for unit in self.recalled for item in unit.items]


def build_window(
    reader: Reader, request: WindowRequest, memory: Memory, now: datetime, models: Models, scorer: Scorer | None = None
) -> Window:
    """The window that `request` asks for. `scorer` finds what answers its question; None: words do. Raises InvalidWindow, BudgetTooSmall,
    UnknownTokenizer."""
    scorer = scorer or scorer_for(request.strategy.embedding, None)
    form = _format(request)
    memory.become(reader.generation)
    counter = models.counter(request.model, () if models.knows(request.model) else reader.usage(request.model))
    scene = Scene(reader, request.session, form, counter, memory.costs.table(form, counter), memory.known, now)
    spare = 0
    for _ in range(_CORRECTIONS):
        window = _build(scene, request, memory, scorer, spare)
        excess = _excess(window)
        if excess <= 0:
            break
        spare += excess + counter.overheads.message
    else:
        raise BudgetTooSmall(f"the template of {request.model} adds more to messages than a budget of {request.budget} tokens has room for")
    _remember(memory.traces, _trace_key(request), window.trace)
    if window.state is not None:
        _remember(memory.plans, *window.state)
    return replace(window, vectors=memory.known.vectors.take_new())


def _remember(kept: dict[K, V], key: K, value: V) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > TRACES_LIMIT:
        del kept[next(iter(kept))]


def _format(request: WindowRequest) -> Format:
    if request.format not in FORMATS:
        raise InvalidWindow(f"format must be one of {', '.join(FORMATS)}")
    if request.budget < 1:
        raise InvalidWindow("budget must be at least 1")
    if not 0 <= request.reserve < request.budget:
        raise InvalidWindow("reserve must be at least 0 and less than budget")
    return FORMATS[request.format]


def _build(scene: Scene, request: WindowRequest, memory: Memory, scorer: Scorer, spare: int) -> Window:
    fixed = scene.form.request_cost(scene.counter)
    available = request.budget - request.reserve - fixed - spare
    pins = [scene.candidate(unit) for unit in complete(scene.reader, scene.reader.pinned(scene.session), scene.session)]
    pinned_cost = sum(each.cost for each in pins)
    if pinned_cost > available:
        raise BudgetTooSmall(
            f"what is pinned costs {pinned_cost} tokens, and {max(0, available)} are left of a budget of {request.budget} after "
            f"{request.reserve} in reserve and {fixed + spare} for the request itself: raise budget, or unpin"
        )
    pinned = frozenset(item.seq for each in pins for item in each.unit.items)
    room = available - pinned_cost
    aside = 0 if request.query is None else min(room, available * request.strategy.retrieve // 100)
    key = plan_key(request)
    plan = Plan.decode(memory.plans.get(key) or scene.reader.state(key))
    base = base_window(scene, request.strategy, plan, memory.shown.get(key), Room(room - aside), available, pinned)
    if base.shown is not None:
        _remember(memory.shown, key, base.shown)
    verdicts = [Verdict(each, Reason.PINNED) for each in pins] + base.chosen.taken
    verdicts.sort(key=lambda verdict: verdict.candidate.unit.items[0].seq)
    verdicts, doubled = _without_doubles(verdicts)
    shown = {item.seq for verdict in verdicts for item in verdict.candidate.unit.items}
    found = Recall() if request.query is None else recall(scene, request.query, scorer, aside, shown)
    tokens = fixed + sum(verdict.candidate.cost for verdict in verdicts) + found.cost
    units = [verdict.candidate.unit for verdict in verdicts]
    recalled = [each.unit for each in found.taken]
    trace = Trace(_parts(scene.form, verdicts, found))
    return Window(
        request=request,
        units=units,
        recalled=recalled,
        tokens=tokens,
        exact=scene.form.exact(units, scene.counter),
        counter=scene.counter,
        verdicts=verdicts,
        left=[*base.chosen.left, *doubled],
        recall=found,
        looked_from=base.looked_from,
        last_seq=scene.reader.last_seq(),
        prefix_digest=_digest(scene, units),
        reused_percent=_reused(memory.traces.get(_trace_key(request)), trace, fixed, tokens),
        trace=trace,
        state=None if base.plan is None else (key, base.plan.encode()),
        vectors=None,
    )


def _without_doubles(verdicts: list[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """Without summaries of what is shown itself."""
    summaries = [verdict for verdict in verdicts if verdict.candidate.unit.items[0].kind is Kind.SUMMARY]
    if not summaries:
        return verdicts, []
    shown = {item.seq for verdict in verdicts for item in verdict.candidate.unit.items}
    doubled = [
        verdict._replace(reason=Reason.SOURCES_SHOWN)
        for verdict in summaries
        if verdict.reason is not Reason.PINNED and shown.issuperset(verdict.candidate.unit.items[0].derived_from)
    ]
    gone = {verdict.candidate.unit.first for verdict in doubled}
    return [verdict for verdict in verdicts if verdict.candidate.unit.first not in gone], doubled


def plan_key(request: WindowRequest) -> str:
    """Under which the plan of such calls is kept. Calls with a question and calls without have plans of their own: their rooms differ.

    What the model's tokens are counted by may change with every report of usage: a plan holds as long as it fits.
    """
    parts = (request.session, request.strategy.model_dump_json(), request.budget, request.reserve, request.format, request.model)
    return "window:" + hashlib.sha256(repr((parts, request.query is not None)).encode()).hexdigest()[:32]


def _trace_key(request: WindowRequest) -> tuple[str | None, str, str]:
    return request.session, request.format, request.model


def _parts(form: Format, verdicts: Sequence[Verdict], found: Recall) -> tuple[tuple[int, int, int], ...]:
    costs = {verdict.candidate.unit.items[0].seq: verdict.candidate.cost for verdict in verdicts}
    units = form.order([verdict.candidate.unit for verdict in verdicts])
    shown = [(unit.items[0].seq, len(unit.items), costs[unit.items[0].seq]) for unit in units]
    if not found.taken:
        return tuple(shown)
    # What is recalled is one message: as before as a whole, or not at all.
    recalled = hash(tuple(each.unit.first for each in found.taken))
    return (*shown, (-abs(recalled), len(found.taken), found.cost))


def _reused(before: Trace | None, trace: Trace, fixed: int, tokens: int) -> float | None:
    if before is None or tokens == 0:
        return None
    same = fixed
    for ours, theirs in zip(trace.parts, before.parts, strict=False):
        if ours[:2] != theirs[:2]:
            break
        same += ours[2]
    return round(100 * min(same, tokens) / tokens, 2)


def _digest(scene: Scene, units: Sequence[Unit]) -> str:
    seqs = array("Q", [item.seq for unit in scene.form.order(units) for item in unit.items])
    return "sha256:" + hashlib.sha256(scene.form.name.encode() + seqs.tobytes()).hexdigest()


def _excess(window: Window) -> int:
    """How much more the window is than it may be, counted as a whole where its parts need not add up."""
    request, counter = window.request, window.counter
    counted = 0
    if request.format == "openai" and counter.template is not None and (window.units or window.recalled):
        messages: Sequence[Mapping[str, Any]] = window.render()["messages"]
        counted = counter.template.count_messages([{**message, "content": message["content"] or ""} for message in messages])
    elif request.format == "ours" and counter.exact and not counter.adds_up:
        counted = counter.count(window.render()["text"])
    return counted - (request.budget - request.reserve)

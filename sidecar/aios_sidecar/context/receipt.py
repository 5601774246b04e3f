"""A window as a document: what is shown, in its format, and a receipt that says of each item why it is in or out."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from aios_sidecar.context.eviction import runs
from aios_sidecar.context.scoring.base import Scored
from aios_sidecar.context.strategies.choose import Reason, Verdict
from aios_sidecar.context.window import Window

OUT_LIMIT: Final = 256
"""Lines of a receipt about what is out; the rest is counted. What has one reason and stands in a row is one line."""
Line = Mapping[str, Any]


def document(window: Window) -> dict[str, Any]:
    """All that an answer to a call for a window says, ready for JSON."""
    request = window.request
    return {
        "format": request.format,
        **window.render(),
        "tokens": {
            "used": window.tokens,
            "budget": request.budget,
            "reserve": request.reserve,
            "exact": window.exact,
            "countedBy": window.counter.basis,
            **({} if window.counter.bound_percent is None else {"boundPercent": window.counter.bound_percent}),
        },
        "prefix": {
            "digest": window.prefix_digest,
            **({} if window.reused_percent is None else {"reusedPercent": window.reused_percent}),
        },
        "receipt": receipt(window),
        "lastSeq": window.last_seq,
    }


def receipt(window: Window) -> dict[str, Any]:
    """Why each item is in or out. Items before the first that was looked at are one line: evicted, and found by a question."""
    shown = [_line(verdict) for verdict in window.verdicts]
    shown += [_found(each.scored, Reason.RECALLED, each.cost, [item.seq for item in each.unit.items]) for each in window.recall.taken]
    out = _together(window.left)
    out += [_found(scored, Reason.NO_ROOM) for scored in window.recall.left]
    if window.looked_from > 1:
        out.append({"first": 1, "last": window.looked_from - 1, "reason": Reason.EVICTED.value, "but": "those that are named here"})
    return {"in": shown, "out": out[:OUT_LIMIT], "notNamed": max(0, len(out) - OUT_LIMIT)}


def _line(verdict: Verdict) -> Line:
    return {
        "items": [item.seq for item in verdict.candidate.unit.items],
        "reason": verdict.reason.value,
        "tokens": verdict.candidate.cost,
        **({} if verdict.tier is None else {"tier": verdict.tier}),
        **({} if verdict.importance is None else {"scores": {"importance": round(verdict.importance, 4)}}),
    }


def _found(scored: Scored, reason: Reason, tokens: int | None = None, items: Sequence[int] = ()) -> Line:
    cost = {} if tokens is None else {"tokens": tokens}
    scores = {"total": round(scored.score, 4), **scored.parts}
    return {"items": list(items or [scored.seq]), "reason": reason.value, **cost, "scores": scores}


def _together(left: Sequence[Verdict]) -> list[Line]:
    """What is out, with neighbours of one reason and tier in one line where no score tells them apart."""
    ordered = sorted(left, key=lambda verdict: verdict.candidate.unit.first)
    lines: list[Line] = []
    for (reason, tier, score), group in groupby(ordered, key=lambda verdict: (verdict.reason, verdict.tier, verdict.importance)):
        verdicts = list(group)
        named = {} if tier is None else {"tier": tier}
        if len(verdicts) == 1 or score is not None:
            lines += [_line(verdict) for verdict in verdicts]
            continue
        seqs = sorted(item.seq for verdict in verdicts for item in verdict.candidate.unit.items)
        lines += [{"first": first, "last": last, "reason": reason.value, **named} for first, last in runs(seqs)]
    return lines

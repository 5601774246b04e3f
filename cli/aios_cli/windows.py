"""A window as a person reads it: what each part holds, why each item is there, and what was left out and why. Pure: the answer of
`POST /v1/context/window` in, lines out. The texts of items are shown when the answer is in the format `ours`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

Document = Mapping[str, Any]

MEANINGS = {
    "Pinned": "it is pinned",
    "First": "among the first that fit",
    "Newest": "among the newest that fit",
    "Important": "among the most important that fit",
    "New": "it came since the last eviction",
    "Kept": "it stayed at the last eviction",
    "Recalled": "the question found it",
    "NoRoom": "there was no room for it",
    "TooLarge": "it alone is more than the room for its like",
    "Evicted": "it left before, or is older than what was looked at; a question finds it",
    "Expired": "it was in its tier as long as the tier's retention says",
    "NoTier": "no tier selects it",
    "SourcesShown": "a summary of what is shown itself",
    "CallWithoutResult": "a call that has no result yet",
    "ResultWithoutCall": "a result whose call is gone",
}
SCORES_SHOWN = 3
"""The largest parts of a score."""


def view(document: Document, width: int = 100) -> list[str]:
    """The window in lines of at most `width` columns."""
    texts = {item["seq"]: " ".join(str(item["text"]).split()) for item in document.get("items", ())}
    lines = [*_head(document), ""]
    for name, group in groupby(_in_parts(document["receipt"]["in"]), key=lambda pair: pair[0]):
        shown = [line for _, line in group]
        items, tokens = sum(len(line["items"]) for line in shown), sum(line.get("tokens", 0) for line in shown)
        lines.append(f"{name}: {_counted(items, 'item')}, {tokens} tokens")
        lines += [row for line in shown for row in _shown(line, texts)]
    lines += ["", "left out:", *_left_out(document["receipt"])]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines]


def _head(document: Document) -> Iterable[str]:
    tokens, prefix = document["tokens"], document["prefix"]
    how = "counted exactly" if tokens["exact"] else "estimated, at most"
    bound = tokens.get("boundPercent")
    doubt = f"; reports of the provider were up to {bound:g} % above such an estimate" if bound and not tokens["exact"] else ""
    yield f"{tokens['used']} of {tokens['budget'] - tokens['reserve']} tokens, {how} ({tokens['countedBy']}{doubt})"
    if tokens["reserve"]:
        yield f"{tokens['reserve']} more are in reserve for tools and the answer"
    reused = prefix.get("reusedPercent")
    if reused is not None:
        yield f"{reused:g} % of it, from the beginning, is as in the window before"


def _in_parts(lines: Iterable[Document]) -> list[tuple[str, Document]]:
    """Each line with the part of the window that it is in: what is pinned, tiers in the order in which they come up, what is recalled."""
    named = [(_part(line), line) for line in lines]
    order = list(dict.fromkeys(["pinned", *(name for name, _ in named if name != "recalled by the question"), "recalled by the question"]))
    return sorted(named, key=lambda pair: order.index(pair[0]))


def _part(line: Document) -> str:
    match line:
        case {"reason": "Pinned"}:
            return "pinned"
        case {"reason": "Recalled"}:
            return "recalled by the question"
        case {"tier": str(tier)}:
            return f"tier {tier}"
        case _:
            return "in order"


def _shown(line: Document, texts: Mapping[int, str]) -> Iterable[str]:
    why = MEANINGS.get(line["reason"], line["reason"])
    scores = _scores(line.get("scores") or {})
    for number, seq in enumerate(line["items"]):
        cost = f"{line['tokens']:>5}" if number == 0 and "tokens" in line else " " * 5
        text = texts.get(seq, "")
        yield f"  {seq:>6} {cost}  {f'{why}{scores}' if number == 0 else 'with it':<44}  {text}".rstrip()


def _scores(scores: Mapping[str, float]) -> str:
    parts = sorted(((name, value) for name, value in scores.items() if name != "total"), key=lambda part: -abs(part[1]))
    return f" ({', '.join(f'{name} {value:.2f}' for name, value in parts[:SCORES_SHOWN])})" if parts else ""


def _left_out(receipt: Document) -> Iterable[str]:
    if not receipt["out"]:
        yield "  nothing"
    for line in receipt["out"]:
        which = _numbers(line["items"]) if line.get("items") else f"{line['first']}-{line['last']}"
        tier = f", tier {line['tier']}" if line.get("tier") else ""
        but = " (but for those named here)" if line.get("but") else ""
        why = MEANINGS.get(line["reason"], line["reason"])
        yield f"  {which:>14}  {why}{_scores(line.get('scores') or {})}{tier}{but}"
    if receipt.get("notNamed"):
        yield f"  and {_counted(receipt['notNamed'], 'line')} more"


def _numbers(seqs: Sequence[int]) -> str:
    return ",".join(map(str, seqs))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

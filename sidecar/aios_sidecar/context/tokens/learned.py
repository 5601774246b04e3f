"""Ratios of tokens to bytes, learned from what providers reported: for models whose tokenizer is nowhere to be had.

A report has the bytes of each kind of item in one request, and the tokens that the provider counted. The ratios are moved, kind by kind,
until they explain the reports in the mean (multiplicative updates, so that none becomes negative), and then all of them are raised until
they would have been enough for nearly every report: an upper quantile, not a mean, because a window that is too large is refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aios_sidecar.context.items import Usage

DECLARED: Final[Mapping[str, float]] = {
    "message": 0.40,
    "tool_call": 0.65,
    "tool_result": 0.65,
    "observation": 0.60,
    "note": 0.40,
    "summary": 0.40,
}
"""Tokens per byte while nothing was reported. Measured with o200k: English 0.22, code 0.27, JSON of a chat 0.28, telemetry with ids 0.46;
tokenizers of other makers need up to two thirds more."""
QUANTILE: Final = 0.95
ENOUGH: Final = 8
"""Reports before the declared ratios give way: fewer say too little about the upper end."""
RECENT: Final = 64
"""So many reports are looked at, the newest: models change under their names."""
_ROUNDS: Final = 8
_SPREAD: Final = 4.0
"""No ratio leaves the declared one by more than this factor: a kind that hardly occurs must not take the blame for another."""
MOST: Final = 1.0
"""No tokenizer that falls back to bytes needs more than a token per byte."""


class Ratios(NamedTuple):
    """Tokens per byte, by kind of item."""

    per_byte: Mapping[str, float]
    reports: int
    """How many reports they were learned from; 0 for the declared ones."""
    bound_percent: float | None
    """By how much the worst of the reports exceeds its estimate, at most, in percent; None while nothing was learned."""

    def tokens(self, size_bytes: int, kind: str) -> int:
        """An upper estimate for a text of that size."""
        return math.ceil(size_bytes * self.per_byte.get(kind, MOST))


UNLEARNED: Final = Ratios(DECLARED, 0, None)


def learn(reports: Sequence[Usage], message_overhead: int) -> Ratios:
    """Ratios that were enough for `QUANTILE` of the newest reports; the declared ones while there are fewer than `ENOUGH`."""
    usable = [report for report in reports[-RECENT:] if report.tokens > 0 and sum(report.content_bytes.values()) > 0]
    if len(usable) < ENOUGH:
        return UNLEARNED
    ratios = dict(DECLARED)
    for _ in range(_ROUNDS):
        for kind in ratios:
            weighted = [(_share(report, ratios, message_overhead, kind), _factor(report, ratios, message_overhead)) for report in usable]
            total = sum(share for share, _ in weighted)
            if total > 0:
                moved = ratios[kind] * sum(share * factor for share, factor in weighted) / total
                ratios[kind] = min(max(moved, DECLARED[kind] / _SPREAD), DECLARED[kind] * _SPREAD, MOST)
    factors = sorted(_factor(report, ratios, message_overhead) for report in usable)
    enough = factors[min(len(factors) - 1, math.ceil(QUANTILE * (len(factors) + 1)) - 1)]
    # Rounded up: a report that says little new leaves every count as it was.
    raised = {kind: min(MOST, math.ceil(100 * ratio * max(enough, 1.0)) / 100) for kind, ratio in ratios.items()}
    worst = max(_factor(report, raised, message_overhead) for report in usable)
    return Ratios(raised, len(usable), round(max(0.0, 100 * (worst - 1)), 1))


def _estimate(report: Usage, ratios: Mapping[str, float], overhead: int) -> float:
    content = sum(size * ratios.get(kind, MOST) for kind, size in report.content_bytes.items())
    return content + overhead * report.messages


def _factor(report: Usage, ratios: Mapping[str, float], overhead: int) -> float:
    return report.tokens / max(1.0, _estimate(report, ratios, overhead))


def _share(report: Usage, ratios: Mapping[str, float], overhead: int, kind: str) -> float:
    return report.content_bytes.get(kind, 0) * ratios[kind] / max(1.0, _estimate(report, ratios, overhead))

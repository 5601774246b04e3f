"""What answers a question, without a language model: words first, then what stands near them, who speaks, and what is concrete.

Each word of the question is searched by itself, so that its share is known. A word in more than 3 % of the items separates nothing and is
left out; in small logs a word in at most `COMMON_ITEMS` items always counts. An answer often shares no word with its question, and stands
next to an item that does: so scores spread to neighbours of the same session (`neighbours`), and items in whose vicinity many words of
the question come up gain (`session`). Names of authors are not looked for as words: who is named in the question is who should speak
(`speaker`).

The weights were chosen on the train halves of `aiosctl bench context` (docs/design/0007-context.md has the settings that were tried).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aios_sidecar.context.reader import Reader
from aios_sidecar.context.scoring import words
from aios_sidecar.context.scoring.base import Facts, Known, Scored
from aios_sidecar.context.scoring.lines import KnownLines, Lines, lines_of


@dataclass(frozen=True)
class Weights:
    """How the parts of a score are weighed against one another. The first part, `words` with `neighbours`, is scaled to 0…1."""

    before: tuple[float, ...] = (0.45, 0.3, 0.1)
    """What an item gains of the scores of the items one, two, three places before it."""
    after: tuple[float, ...] = (0.35, 0.2, 0.1)
    """And after it."""
    vicinity: float = 0.2
    """For many words of the question within a few items, scaled to 0…1."""
    vicinity_items: int = 6
    vicinity_decay: float = 0.8
    """Per item of distance."""
    speaker: float = 0.55
    """When the question names one author, and this is who speaks."""
    concrete: float = 0.3
    asks: float = 0.05
    """Taken off items that end with a question themselves."""
    timed: float = 0.15
    """For items with a time in them when the question asks when."""
    saturation: float = 1.2
    """How soon a word that comes up again and again in a vicinity adds nothing more."""


COMMON_SHARE = 0.03
COMMON_ITEMS = 60
HITS_PER_WORD = 512
SPREAD_ITEMS = 160
"""Only the best so many hits give something to their neighbours; in a log of 100,000 items there may be thousands."""
WHOLE_LOG_ITEMS = 2048
"""Up to that size every item is scored, found or not: who speaks and what is concrete then fill the window."""


class _Evidence(NamedTuple):
    """What the words alone say."""

    score: Mapping[int, float]
    """By BM25, the sum over words."""
    by_word: Sequence[tuple[float, Sequence[int]]]
    """Of each word its weight, and where it is."""


PARTS = ("words", "neighbours", "session", "speaker", "concrete", "asks", "time")


class QueryScorer:
    """BM25 with neighbours, vicinity, speaker and concreteness."""

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or Weights()

    def score(self, question: str, reader: Reader, known: Known, session: str | None) -> Iterable[Scored]:
        asked = words.parse(question)
        total = reader.count(session)
        if total <= WHOLE_LOG_ITEMS:
            facts = known.of_line(reader, session)
            found = self._evidence(asked.words, reader, session, {each.author for each in facts.values()})
            lines: Lines = KnownLines(facts)
        else:
            found = self._evidence(asked.words, reader, session, set())
            best = sorted(found.score, key=found.score.__getitem__, reverse=True)[:SPREAD_ITEMS]
            found = _restricted(found, set(best))
            lines = lines_of(reader, session, best, max(self.weights.vicinity_items, len(self.weights.before), len(self.weights.after)))
            facts = {}
        near = self._neighbours(found, lines)
        vicinity = self._vicinity(found, lines)
        if not facts:
            facts = known.of(reader, near)
        return self._sum(asked, facts, found.score, near, vicinity)

    def _evidence(self, asked: Sequence[str], reader: Reader, session: str | None, authors: set[str]) -> _Evidence:
        names = {part for author in authors for part in author.split()}
        everywhere = max(1, reader.count())
        common = max(COMMON_SHARE * everywhere, COMMON_ITEMS)
        score: dict[int, float] = {}
        by_word = []
        for word, frequency in reader.document_frequencies([word for word in asked if word not in names]).items():
            if 0 < frequency <= common:
                hits = reader.search([word], HITS_PER_WORD, session)
                for seq, bm25 in hits:
                    score[seq] = score.get(seq, 0.0) + bm25
                by_word.append((math.log(1 + (everywhere - frequency + 0.5) / (frequency + 0.5)), [hit.seq for hit in hits]))
        return _Evidence(score, by_word)

    def _neighbours(self, found: _Evidence, lines: Lines) -> dict[int, float]:
        """What each item gains from those beside it; items that were found themselves are in it too."""
        before, after = self.weights.before, self.weights.after
        gained: dict[int, float] = dict.fromkeys(found.score, 0.0)
        for seq, score in found.score.items():
            for other, share in zip(lines.after(seq, len(before)), before, strict=False):
                gained[other] = gained.get(other, 0.0) + share * score
            for other, share in zip(lines.before(seq, len(after)), after, strict=False):
                gained[other] = gained.get(other, 0.0) + share * score
        return gained

    def _vicinity(self, found: _Evidence, lines: Lines) -> dict[int, float]:
        reach, saturation = self.weights.vicinity_items, self.weights.saturation
        shares = [self.weights.vicinity_decay**distance for distance in range(1, reach + 1)]
        total: dict[int, float] = {}
        for weight, places in found.by_word:
            present: dict[int, float] = {}
            for seq in places:
                present[seq] = present.get(seq, 0.0) + 1.0
                for other, share in zip(lines.before(seq, reach), shares, strict=False):
                    present[other] = present.get(other, 0.0) + share
                for other, share in zip(lines.after(seq, reach), shares, strict=False):
                    present[other] = present.get(other, 0.0) + share
            for seq, amount in present.items():
                total[seq] = total.get(seq, 0.0) + weight * amount / (amount + saturation)
        return total

    def _sum(
        self,
        asked: words.Question,
        facts: Mapping[int, Facts],
        score: Mapping[int, float],
        near: Mapping[int, float],
        vicinity: Mapping[int, float],
    ) -> Iterator[Scored]:
        weights = self.weights
        named = _named(asked.words, {each.author for each in facts.values() if each.author})
        by_words = 1 / (max((score.get(seq, 0.0) + gained for seq, gained in near.items()), default=0.0) or 1.0)
        by_vicinity = weights.vicinity / (max(vicinity.values(), default=0.0) or 1.0)
        speaker, concrete = (0.0 if named is None else weights.speaker), weights.concrete
        asks, timed = -weights.asks, weights.timed if asked.asks_when else 0.0
        summed: list[tuple[float, int, tuple[float, ...]]] = []
        for seq, (_, author, concreteness, asking, has_time) in facts.items():
            values = (
                by_words * score.get(seq, 0.0),
                by_words * near.get(seq, 0.0),
                by_vicinity * vicinity.get(seq, 0.0),
                speaker if author == named else 0.0,
                concrete * concreteness,
                asks if asking else 0.0,
                timed if has_time else 0.0,
            )
            summed.append((-sum(values), -seq, values))
        summed.sort()
        return (Scored(-seq, -score, values, PARTS) for score, seq, values in summed)


def _restricted(found: _Evidence, kept: set[int]) -> _Evidence:
    return _Evidence(
        {seq: score for seq, score in found.score.items() if seq in kept},
        [(weight, [seq for seq in places if seq in kept]) for weight, places in found.by_word],
    )


def _named(asked: Sequence[str], authors: set[str]) -> str | None:
    """The one author that the question names."""
    said = set(asked)
    named = [author for author in authors if not said.isdisjoint(author.split())]
    return named[0] if len(named) == 1 else None

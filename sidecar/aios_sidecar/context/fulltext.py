"""The one full-text search of a context: SQLite's FTS5 with Porter stems, for every back end."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from aios_sidecar.context.reader import Hit

TOKENIZER: Final = "porter unicode61 remove_diacritics 2"
WORDS_LIMIT: Final = 64
"""Of one search: more words than that find everything."""


def match_any(words: Collection[str]) -> str | None:
    """The FTS5 expression that finds items with at least one of `words`; None when there is nothing to look for.

    Each word becomes a string of FTS5's grammar, so that nothing in it is an operator.
    """
    given = list(dict.fromkeys(word for word in words if any(map(str.isalnum, word))))[:WORDS_LIMIT]
    return " OR ".join('"' + word.replace('"', '""').replace("\0", " ") + '"' for word in given) or None


class Stems:
    """The words that the index knows texts by, as FTS5 itself makes them. For one thread at a time."""

    def __init__(self) -> None:
        self._base = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._base.execute(f"CREATE VIRTUAL TABLE t USING fts5(x, tokenize='{TOKENIZER}')")
        self._base.execute("CREATE VIRTUAL TABLE v USING fts5vocab(t, instance)")

    def of(self, texts: Sequence[str]) -> list[list[str]]:
        """The stems of each text, in their order in it."""
        found: list[list[str]] = [[] for _ in texts]
        self._base.execute("BEGIN")
        self._base.executemany("INSERT INTO t(rowid, x) VALUES (?, ?)", enumerate(texts, 1))
        for term, doc, _ in sorted(self._base.execute("SELECT term, doc, offset FROM v"), key=lambda row: row[1:]):
            found[doc - 1].append(term)
        self._base.execute("ROLLBACK")
        return found


class Index:
    """An index in memory over texts with numbers."""

    def __init__(self, texts: Iterable[tuple[int, str]]) -> None:
        self._base = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._base.execute(f"CREATE VIRTUAL TABLE t USING fts5(x, tokenize='{TOKENIZER}')")
        self._base.executemany("INSERT INTO t(rowid, x) VALUES (?, ?)", texts)

    def search(self, words: Collection[str]) -> list[Hit]:
        """All that have at least one of `words`, best first."""
        match = match_any(words)
        if match is None:
            return []
        return [Hit(seq, -rank) for seq, rank in self._base.execute("SELECT rowid, bm25(t) FROM t(?) ORDER BY 2, 1 DESC", (match,))]

    def frequency(self, word: str) -> int:
        """How many of the texts have `word`."""
        match = match_any([word])
        return 0 if match is None else int(self._base.execute("SELECT count(*) FROM t(?)", (match,)).fetchone()[0])

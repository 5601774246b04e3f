"""How a context is read: what a window is built from."""

from collections.abc import Collection, Mapping, Sequence, Set
from datetime import datetime
from typing import NamedTuple, Protocol

from aios_sidecar.context.items import Item, Usage


class Session(NamedTuple):
    """One line of a conversation."""

    name: str
    items: int
    first: int
    last: int
    """Its oldest and its newest item, by number."""
    last_append: datetime


class Hit(NamedTuple):
    """An item that a search found."""

    seq: int
    score: float
    """BM25 over stemmed words; higher is better. Comparable within one search only."""


Forks = Mapping[str, tuple[str, int]]
"""Of each session that is a fork, what it was forked from, and the number of the last item that they share."""


class Reader(Protocol):
    """One agent's context at one moment: what is appended while it is open is not seen. Called in a worker thread; nothing here writes.

    Erased items are never shown. Where `session` is None, all sessions are meant. Lists are in ascending order of `seq` unless said.
    """

    @property
    def generation(self) -> int:
        """Another number once the context is another one, under the same agent: what is remembered of the one before says nothing of it."""

    def count(self, session: str | None = None) -> int:
        """How many items there are."""

    def last_seq(self) -> int:
        """The number of the newest entry of the log, erased or not; 0 in an empty one."""

    def sessions(self) -> Sequence[Session]:
        """All sessions, the one that was appended to last first."""

    def newest(self, limit: int, before: int | None = None, session: str | None = None) -> Sequence[Item]:
        """The newest `limit` items, of those with a number below `before`. In ascending order, as everywhere."""

    def oldest(self, limit: int, after: int = 0, session: str | None = None) -> Sequence[Item]:
        """The oldest `limit` items, of those with a number above `after`."""

    def range(self, first: int, last: int, session: str | None = None) -> Sequence[Item]:
        """Those numbered `first` to `last`, both included."""

    def by_seq(self, seqs: Collection[int]) -> Sequence[Item]:
        """Those of `seqs` that there are."""

    def there(self, seqs: Collection[int]) -> Set[int]:
        """Those of `seqs` that there are, without what they say."""

    def forks(self) -> Forks:
        """The sessions that are forks."""

    def call_of(self, result: Item) -> Item | None:
        """The tool call that this result answers: the newest one before it with its `call_id`, in its session or in what that was forked
        from; None when there is none."""

    def answers(self, call: Item) -> Sequence[Item]:
        """The results whose `call_of` is this tool call."""

    def pinned(self, session: str | None = None) -> Sequence[Item]:
        """All that are pinned."""

    def neighbours(self, seq: int, n: int) -> Sequence[Item]:
        """Up to `n` items before and `n` after `seq` within its session, without itself."""

    def made_from(self, seqs: Collection[int]) -> Sequence[Item]:
        """Items whose `derived_from` names one of `seqs`: the summaries that stand for them."""

    def search(self, words: Collection[str], limit: int, session: str | None = None) -> Sequence[Hit]:
        """The best `limit` items with at least one of `words` (stemmed here: give them as they are), best first."""

    def document_frequencies(self, words: Collection[str]) -> Mapping[str, int]:
        """In how many items of all sessions each of `words` is, stemmed as in `search`; erased ones are not counted. 0 for none."""

    def usage(self, model: str) -> Sequence[Usage]:
        """The last reports of usage for `model`, oldest first, at most 256."""

    def vectors(self, name: str, seqs: Collection[int]) -> Mapping[int, bytes]:
        """What was kept of these items with `Context.keep_vectors` under this name: embeddings."""

    def state(self, key: str) -> str | None:
        """What was last kept under `key` with `Context.keep_state`: derived, so it may be None again at any time."""

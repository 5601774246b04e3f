"""What every back end of the context store does. The conformance suite (tests/unit/context) holds each of them to it."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from aios_sidecar.context.errors import ContextError
from aios_sidecar.context.items import Draft, Usage
from aios_sidecar.context.limits import Limits
from aios_sidecar.context.reader import Reader

KEY_LENGTH: Final = 128
KEYS_KEPT: Final = 10_000
"""Idempotency keys that are remembered: the newest of them."""
STATE_KEYS: Final = 64
STATE_LENGTH: Final = 64 * 1024
USAGE_MODELS: Final = 32
USAGE_KEPT: Final = 256
"""Reports for each of the models that were reported last."""
ANNOTATIONS_KEPT: Final = 20_000
"""The newest pins, unpins and importances; what they say now is kept beside them."""


class AgentKey(NamedTuple):
    """Whose context it is: it outlives the agent's attempts, pods and gateways."""

    namespace: str
    name: str
    uid: str


class Appended(NamedTuple):
    """The numbers that a batch got, in its order without gaps."""

    first: int
    last: int
    replayed: bool = False
    """The batch had been appended before, under the same idempotency key; nothing was added now."""


@dataclass(frozen=True)
class Description:
    """What a context holds now."""

    items: int
    content_bytes: int
    file_bytes: int
    sessions: int
    pinned: int
    last_seq: int
    erased: int
    """Items that were erased since the beginning."""
    retired: int
    """Items that retention removed since the beginning."""
    last_append: datetime | None
    first_attempt: int
    """The attempt of the agent that began it. More than 1: earlier ones ran elsewhere, and what they wrote is not here."""
    fence: int
    """The attempt that may write; an earlier one is refused."""
    limits: Limits


@dataclass(frozen=True)
class Snapshot:
    """A copy of a context as one file."""

    path: Path
    digest: str
    """SHA-256 of its bytes."""
    last_seq: int
    """The log ended with this item."""
    file_bytes: int


@dataclass(frozen=True)
class Scope:
    """What is to be erased: exactly one of these."""

    items: tuple[int, ...] = ()
    session: str | None = None
    author: str | None = None
    label: tuple[str, str] | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        given = [bool(self.items), self.session is not None, self.author is not None, self.label is not None, self.everything]
        if sum(given) != 1:
            raise ContextError("exactly one of items, session, author, label and everything must be given")


@dataclass(frozen=True)
class Receipt:
    """An erasure that is done: each place where the content could have been, and how many pieces of it went from there."""

    time: datetime
    items: int
    """Erased items in all: those of the scope and what was derived from them."""
    seqs: str
    """Their numbers, as ranges: `1-5,8`."""
    places: Mapping[str, int] = field(default_factory=dict)


class Observer:
    """Told of what a store does beside its answers, in the threads that do it. This one takes no notice."""

    def committed(self, writes: int, items: int, retired: int) -> None:
        """So many writes went to the disk together; they added `items`, and retention removed `retired`."""

    def erased(self, items: int) -> None:
        """So many items were erased."""

    def damaged(self, key: AgentKey, why: str) -> None:
        """This agent's file was damaged and is set aside."""


class Context(Protocol):
    """One agent's context. Every method may be called from any thread, and blocks it; every write is whole or not at all.

    Writes raise Fenced, Unwritable and Damaged beside what they name; reads raise Damaged.
    """

    def append(self, drafts: Sequence[Draft], key: str | None = None, durable: bool = True) -> Appended:
        """The drafts are items at the end of the log; with `durable` they are on the disk too, else they survive the end of this program
        but not that of the machine. With a `key` that was used for the same drafts, nothing is added.
        Raises InvalidItem, Conflict, LimitReached."""

    def submit(self, drafts: Sequence[Draft], key: str | None = None, durable: bool = True) -> Future[Appended]:
        """As `append`, without waiting. InvalidItem is raised at once."""

    def pin(self, seqs: Collection[int], pinned: bool = True) -> None:
        """These items are pinned, or no longer. Raises NotThere, LimitReached."""

    def weigh(self, seqs: Collection[int], importance: float | None) -> None:
        """These items have this importance, 0 to 1, or none of their own. Raises NotThere."""

    def accessed(self, seqs: Collection[int]) -> None:
        """These items were asked for now. Those that are gone are passed over."""

    def report(self, usage: Usage) -> None:
        """A provider reported this."""

    def keep_vectors(self, name: str, values: Mapping[int, bytes]) -> None:
        """`Reader.vectors` gives these from now on, durably or not; those of items that are gone are passed over. They go with their items.
        `name` stands for a model: an item has a vector of one, and what it had of another goes. Raises InvalidItem."""

    def keep_state(self, values: Mapping[str, str]) -> None:
        """`Reader.state` gives these from now on. Only the newest keys are kept, and none through an erasure."""

    def fork(self, at: int, into: str) -> None:
        """The session `into` begins with what the session of item `at` has up to it. The items are the same, not copies.
        Raises NotThere, Conflict, LimitReached."""

    def erase(self, scope: Scope) -> Receipt:
        """What `scope` names, and all that was derived from it, is in no file of this context any more."""

    def snapshot(self) -> Snapshot:
        """A copy of the context as one file is kept beside it. The newest few stay, and none through an erasure."""

    def retire(self) -> int:
        """What is too old or too much by the limits is gone; how many items went now. Every append does a part of it."""

    def limit(self, limits: Limits) -> None:
        """These limits hold from now on."""

    def reading(self) -> AbstractContextManager[Reader]:
        """A Reader over the context as it is now, for one thread."""

    def describe(self) -> Description:
        """What it holds now."""


class ContextStore(Protocol):
    """The contexts of many agents."""

    def context(self, key: AgentKey, attempt: int, limits: Limits | None = None) -> Context:
        """This agent's context, written by this attempt; an empty one when it has none yet. Earlier attempts may not write it any more.
        Limits that are not given stay as they are. Raises Fenced, Unwritable, Damaged."""

    def existing(self, key: AgentKey, attempt: int) -> Context:
        """As `context`, without looking yet whether this can be: also for one that is damaged, which only erasing everything changes."""

    def holds(self, key: AgentKey) -> bool:
        """Whether there is anything of this agent, be it damaged."""

    def ages(self) -> datetime:
        """The time by which things age; never after the machine's clock."""

    def rest(self, key: AgentKey) -> None:
        """Nothing of this agent's context is open, or stays so once who uses it at this moment is done; the next use opens it."""

    def close(self) -> None:
        """Every write that was acknowledged is in its file, and the files are closed."""


def ranges(seqs: Collection[int]) -> str:
    """Numbers in short: `1-5,8`."""
    found: list[list[int]] = []
    for seq in sorted(set(seqs)):
        if found and found[-1][1] == seq - 1:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def in_ranges(text: str) -> list[range]:
    """As `ranges`, back."""
    bounds = (part.partition("-") for part in text.split(",") if part)
    return [range(int(first), int(last or first) + 1) for first, _, last in bounds]

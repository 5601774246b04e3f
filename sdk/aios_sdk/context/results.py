"""What the endpoint answers, read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from aios_sdk.answers import Part
from aios_sdk.context.items import Item


@dataclass(frozen=True, slots=True)
class Appended:
    """The numbers of a batch, in its order without gaps. `replayed`: it had been appended before under the same key."""

    first: int
    last: int
    replayed: bool

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(part.whole("first"), part.whole("last"), part.flag("replayed"))


@dataclass(frozen=True, slots=True)
class Page:
    """Items in the order of the log; `next` is where to go on, None at the end."""

    items: tuple[Item, ...]
    next: int | None

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(tuple(Item.read(each) for each in part.parts("items")), part.optional_whole("next"))


@dataclass(frozen=True, slots=True)
class Found:
    """An item that a search found; a higher score is better, within one search."""

    item: Item
    score: float

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(Item.read(part.part("item")), part.number("score"))


@dataclass(frozen=True, slots=True)
class DescribedItem:
    """An item without its content: how large it is, how many of its sources are left, what was made from it."""

    item: Item
    content_bytes: int
    sources: int
    summaries: tuple[int, ...]

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(Item.read(part.part("item")), part.whole("contentBytes"), part.whole("sources"), tuple(part.listed("summaries")))


@dataclass(frozen=True, slots=True)
class Session:
    """One line of a conversation."""

    name: str
    items: int
    first: int
    last: int
    last_append: datetime

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(part.text("name"), part.whole("items"), part.whole("first"), part.whole("last"), part.moment("lastAppend"))


@dataclass(frozen=True, slots=True)
class Window:
    """What to show a model. Never more than budget less reserve."""

    body: Mapping[str, Any]
    """The whole answer."""
    tokens: int
    """What it costs, at most."""
    exact: bool
    """`tokens` is what the model counts, not an upper bound."""
    prefix_digest: str
    reused_percent: float | None
    """How much of it, from its beginning, is as in the window before; None when none is known of."""
    included: Sequence[Mapping[str, Any]]
    """The receipt: each line names items, the reason, and where there are some, tier, tokens and scores."""
    left_out: Sequence[Mapping[str, Any]]

    @property
    def messages(self) -> list[Any]:
        """For the request, in the formats openai and anthropic."""
        return list(self.body.get("messages", ()))

    @property
    def system(self) -> list[Any]:
        """For the request, in the format anthropic."""
        return list(self.body.get("system", ()))

    @classmethod
    def read(cls, part: Part) -> Self:
        tokens, prefix, receipt = part.part("tokens"), part.part("prefix"), part.part("receipt")
        return cls(
            body=part.value,
            tokens=tokens.whole("used"),
            exact=tokens.flag("exact"),
            prefix_digest=prefix.text("digest"),
            reused_percent=prefix.optional_number("reusedPercent"),
            included=receipt.listed("in"),
            left_out=receipt.listed("out"),
        )


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """The erasure is done: how many items, which, and how much went from each place."""

    time: datetime
    items: int
    seqs: str
    places: Mapping[str, int]

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(part.moment("time"), part.whole("items"), part.text("seqs"), part.mapping("places"))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the context on the node: its name, the SHA-256 of its bytes, the item that its log ends with."""

    file: str
    digest: str
    last_seq: int
    file_bytes: int

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(part.text("file"), part.text("digest"), part.whole("lastSeq"), part.whole("fileBytes"))


@dataclass(frozen=True, slots=True)
class Description:
    """What the context holds now."""

    durability: str
    items: int
    content_bytes: int
    file_bytes: int
    sessions: int
    pinned: int
    last_seq: int
    erased: int
    retired: int
    last_append: datetime | None
    first_attempt: int
    limits: Mapping[str, int]

    @classmethod
    def read(cls, part: Part) -> Self:
        return cls(
            durability=part.text("durability"),
            items=part.whole("items"),
            content_bytes=part.whole("contentBytes"),
            file_bytes=part.whole("fileBytes"),
            sessions=part.whole("sessions"),
            pinned=part.whole("pinned"),
            last_seq=part.whole("lastSeq"),
            erased=part.whole("erased"),
            retired=part.whole("retired"),
            last_append=part.optional_moment("lastAppend"),
            first_attempt=part.whole("firstAttempt"),
            limits=part.mapping("limits"),
        )

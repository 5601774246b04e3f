"""What is said on the wire of `/v1/context`. The OpenAPI document is made from these models."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from aios_api.context import Strategy
from aios_sidecar.context.items import Content, Draft, Item, Kind, Role, Usage
from aios_sidecar.context.reader import Session
from aios_sidecar.context.store import Appended, Description, Receipt, Scope, Snapshot

Seq = Annotated[int, Field(ge=1, le=2**53, description="The number of an item.")]
Seqs = Annotated[list[Seq], Field(min_length=1, max_length=1000)]
SessionName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$")]
Labels = Annotated[dict[str, str], Field(max_length=16)]


class Wire(BaseModel):
    """Unknown fields are refused; names are camelCase."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, alias_generator=to_camel)


class TextPart(Wire):
    """Text."""

    type: Literal["text"]
    text: str


class ToolCallPart(Wire):
    """One call of a tool; the only part of an item of kind tool_call."""

    type: Literal["tool_call"]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: dict[str, Any]


class DataPart(Wire):
    """A picture, a sound, a file."""

    type: Literal["data"]
    media_type: Annotated[str, Field(min_length=1, max_length=128)]
    data: Annotated[str, Field(description="In base64.")]


Part = Annotated[TextPart | ToolCallPart | DataPart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, max_length=256)]


class NewItem(Wire):
    """What is to be appended."""

    role: Role
    content: str | Parts
    kind: Kind = Kind.MESSAGE
    session: SessionName = "main"
    author: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="Who said it, where the role does not tell."
    )
    call_id: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="Links a tool call and its results; each of them must have it."
    )
    derived_from: Annotated[list[Seq], Field(max_length=1024)] = Field(
        default_factory=list, description="The items that this one was made from. A summary must name them; erasing one of them erases it."
    )
    labels: Labels = Field(default_factory=dict)
    tokens: Annotated[dict[str, Annotated[int, Field(ge=0, lt=1 << 40)]], Field(max_length=8)] = Field(
        default_factory=dict, description="What the content counts, by the name of the counter."
    )
    time: AwareDatetime | None = Field(default=None, description="When it happened. Absent: now.")

    def draft(self) -> Draft:
        """As the store takes it."""
        content: Content = self.content if isinstance(self.content, str) else tuple(part.model_dump(by_alias=True) for part in self.content)
        return Draft(
            self.role,
            content,
            self.kind,
            self.session,
            self.author,
            self.call_id,
            tuple(sorted(set(self.derived_from))),
            self.labels,
            self.tokens,
            self.time,
        )


class Append(Wire):
    """Items for the end of the log, all of them or none."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=1000)]
    durability: Literal["durable", "relaxed"] = Field(
        default="durable", description="durable: answered once the disk has it. relaxed: survives the gateway, not a loss of power."
    )


class AppendedItems(Wire):
    """Where they are."""

    first: Seq
    last: Seq
    replayed: bool = Field(description="They had been appended before under this Idempotency-Key; nothing was added now.")

    @classmethod
    def of(cls, appended: Appended) -> "AppendedItems":
        return cls.model_construct(first=appended.first, last=appended.last, replayed=appended.replayed)


class KnownItem(Wire):
    """An item of the log."""

    seq: Seq
    session: str
    time: datetime
    role: Role
    kind: Kind
    content: str | list[dict[str, Any]] | None = Field(description="As it was appended; null where only a description was asked for.")
    author: str | None = None
    call_id: str | None = None
    derived_from: list[int] = Field(default_factory=list)
    labels: dict[str, str] = Field(default_factory=dict)
    tokens: dict[str, int] = Field(default_factory=dict)
    pinned: bool = False
    importance: float | None = None
    accesses: int = 0

    @classmethod
    def of(cls, item: Item, *, content: bool = True) -> "KnownItem":
        """Nothing is checked anew: the store has done that."""
        return cls.model_construct(
            seq=item.seq,
            session=item.session,
            time=item.time,
            role=item.role,
            kind=item.kind,
            content=None if not content else item.content if isinstance(item.content, str) else list(item.content),
            author=item.author,
            call_id=item.call_id,
            derived_from=list(item.derived_from),
            labels=dict(item.labels),
            tokens=dict(item.tokens),
            pinned=item.pinned,
            importance=item.importance,
            accesses=item.accesses.times,
        )


class Items(Wire):
    """Items in the order of the log."""

    items: list[KnownItem]
    next: int | None = Field(default=None, description="There is more: go on from this number.")


class Found(Wire):
    """An item that a search found."""

    item: KnownItem
    score: float = Field(description="BM25; higher is better; comparable within one answer.")


class Search(Wire):
    """A search by words."""

    query: Annotated[str, Field(min_length=1, max_length=4096)]
    session: SessionName | None = Field(default=None, description="Absent: in all sessions.")
    limit: Annotated[int, Field(ge=1, le=100)] = 10


class SearchResult(Wire):
    """Best first."""

    found: list[Found]


class DescribedItem(Wire):
    """What an item is, without its content."""

    item: KnownItem
    content_bytes: int
    sources: int = Field(description="How many of the items that it was made from are still there.")
    summaries: list[int] = Field(description="The items that were made from it.")


class DescribedItems(Wire):
    """In the order of the log."""

    items: list[DescribedItem]


class ItemNumbers(Wire):
    """Some items."""

    items: Seqs


class Importance(ItemNumbers):
    """How much some items matter."""

    importance: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(description="null: as the scorer reckons.")


class Fork(Wire):
    """A new session that begins as another one did."""

    at: Seq
    into: SessionName


class KnownSession(Wire):
    """One line of a conversation. Items, first and last count its own, not those of the session that it was forked from."""

    name: str
    items: int
    first: int
    last: int
    last_append: datetime

    @classmethod
    def of(cls, session: Session) -> "KnownSession":
        return cls.model_construct(**session._asdict())


class Sessions(Wire):
    """The one that was appended to last comes first."""

    sessions: list[KnownSession]


class UsageReport(Wire):
    """What a provider reported for a request that was made of a window."""

    model: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$")]
    messages: Annotated[int, Field(ge=0, le=1_000_000)]
    content_bytes: Annotated[dict[Kind, Annotated[int, Field(ge=0, lt=1 << 40)]], Field(max_length=6)] = Field(
        description="Bytes of content in the request, by the kind of item."
    )
    tokens: Annotated[int, Field(ge=0, lt=1 << 40)] = Field(description="What the provider counted for the input.")

    def usage(self, time: datetime) -> Usage:
        return Usage(self.model, time, self.messages, {str(kind): size for kind, size in self.content_bytes.items()}, self.tokens)


class Erase(Wire):
    """What is to be erased: exactly one of these. What was made from it goes with it."""

    items: Seqs | None = None
    session: SessionName | None = None
    author: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    label: Annotated[dict[str, str], Field(min_length=1, max_length=1)] | None = Field(default=None, description="One key and its value.")
    everything: bool = False

    def scope(self) -> Scope:
        """Raises ContextError unless exactly one is given."""
        label = next(iter(self.label.items())) if self.label else None
        return Scope(tuple(self.items or ()), self.session, self.author, label, self.everything)


class ErasureReceipt(Wire):
    """The erasure is done."""

    time: datetime
    items: int = Field(description="How many items in all.")
    seqs: str = Field(description="Their numbers, as ranges: 1-5,8.")
    places: dict[str, int] = Field(
        description="Each place, and how much went from there. items were named, derived were made from them. log: what is left of it."
    )

    @classmethod
    def of(cls, receipt: Receipt) -> "ErasureReceipt":
        return cls.model_construct(time=receipt.time, items=receipt.items, seqs=receipt.seqs, places=dict(receipt.places))


class WindowCall(Wire):
    """A call for a window: what of the context is to be shown to a model now."""

    budget: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None, description="Tokens of the whole request but `reserve`. Absent: as the Agent's spec says."
    )
    model: Annotated[str, Field(min_length=1, max_length=128)] = Field(description="Whose tokens are counted.")
    reserve: Annotated[int, Field(ge=0, le=100_000_000)] = Field(default=0, description="Of the budget, for tool schemas and the answer.")
    strategy: Strategy | None = Field(default=None, description="Absent: as the Agent's spec says; and where it says nothing, sliding.")
    query: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None, description="A question: what it finds comes at the end of the window."
    )
    session: SessionName | None = Field(default=None, description="Absent: all sessions.")
    format: Literal["ours", "openai", "anthropic"] = "ours"


class WindowTokens(Wire):
    """What the window costs."""

    used: int = Field(description="At most; never more than budget less reserve.")
    budget: int
    reserve: int
    exact: bool = Field(description="used is what the model counts, not an upper bound.")
    counted_by: str
    bound_percent: float | None = Field(
        default=None, description="By how much the provider's count was above such an estimate, at most. Absent: never reported."
    )


class WindowPrefix(Wire):
    """The beginning of the window, which a provider may have cached."""

    digest: str
    reused_percent: float | None = Field(default=None, description="How much is as in the window before. Absent: none is known of.")


class ReceiptLine(Wire):
    """Why some items are in or out."""

    items: list[int] | None = None
    first: int | None = None
    last: int | None = None
    reason: str
    tokens: int | None = None
    tier: str | None = None
    scores: dict[str, float] | None = None
    but: str | None = None


class WindowReceipt(Wire):
    """Each item that was looked at, in or out."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, alias_generator=lambda name: to_camel(name.rstrip("_")))

    in_: list[ReceiptLine]
    out: list[ReceiptLine]
    not_named: int = Field(description="Further lines about what is out.")


class WindowAnswer(Wire):
    """A window in its format: `text` (ours), `messages` (openai), `system` and `messages` (anthropic), ready for the request."""

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, alias_generator=to_camel)

    format: Literal["ours", "openai", "anthropic"]
    messages: list[dict[str, Any]] | None = None
    system: list[dict[str, Any]] | None = None
    tokens: WindowTokens
    prefix: WindowPrefix
    receipt: WindowReceipt
    last_seq: int


class SnapshotTaken(Wire):
    """A copy of the context as one file, on the node. Those who run the cluster can fetch and restore it."""

    file: str = Field(description="Its name in the folder of the context.")
    digest: str = Field(description="SHA-256 of its bytes.")
    last_seq: int = Field(description="The log ended with this item.")
    file_bytes: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> "SnapshotTaken":
        return cls.model_construct(
            file=snapshot.path.name, digest=snapshot.digest, last_seq=snapshot.last_seq, file_bytes=snapshot.file_bytes
        )


class ContextLimits(Wire):
    """What the context may hold; beyond items, contentBytes and ageSeconds the oldest items go, and pinned ones stay."""

    items: int
    content_bytes: int
    age_seconds: int
    item_bytes: int
    sessions: int
    pins: int


class ContextDescription(Wire):
    """What the context holds now."""

    durability: Literal["NodeLocal"] = Field(default="NodeLocal", description="It is on the disk of this node, and nowhere else.")
    items: int
    content_bytes: int
    file_bytes: int
    sessions: int
    pinned: int
    last_seq: int
    erased: int = Field(description="Items erased since the beginning.")
    retired: int = Field(description="Items removed by retention since the beginning.")
    last_append: datetime | None
    first_attempt: int = Field(description="The attempt that began it. More than 1: what earlier ones wrote elsewhere is not here.")
    limits: ContextLimits

    @classmethod
    def of(cls, description: Description) -> "ContextDescription":
        fields = {name: getattr(description, name) for name in cls.model_fields if name not in ("durability", "limits")}
        limits = {name: getattr(description.limits, name) for name in ContextLimits.model_fields}
        return cls.model_construct(**fields, limits=ContextLimits.model_construct(**limits))

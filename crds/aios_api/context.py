"""How windows of a context are made: strategies as data. The same models in `Agent.spec.context.strategy` and in a call for a window."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from aios_api.meta import Count, InvalidSpec, Model, Time, field_errors
from aios_api.quantity import parse_bytes
from aios_api.schema import list_type, rule, rules

Percent = Annotated[int, Field(ge=1, le=100)]
TierName = Annotated[str, Field(min_length=1, max_length=32, pattern="^[a-z][a-z0-9-]*$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=128)]
LabelValue = Annotated[str, Field(max_length=256)]
ItemKind = Literal["message", "tool_call", "tool_result", "observation", "note", "summary"]
ItemRole = Literal["system", "user", "assistant", "tool"]
Choice = Literal["fixed", "sliding", "importance"]

_ONE_UNIT = "exactly one of tokens, items and percent must be set in an amount of the strategy"
_EXTENT_RULES = rules(rule("[has(self.tokens), has(self.items), has(self.percent)].filter(x, x).size() == 1", _ONE_UNIT))


class Extent(Model):
    """An amount of context: tokens, items, or a part of the budget."""

    model_config = ConfigDict(json_schema_extra=_EXTENT_RULES)

    tokens: Annotated[int, Field(ge=0, le=100_000_000)] | None = Field(default=None, description="In tokens, as the model counts them.")
    items: Annotated[int, Field(ge=0, le=100_000)] | None = Field(default=None, description="In items of the log.")
    percent: Percent | None = Field(default=None, description="In percent of the budget that is left after the reserve.")

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if sum(value is not None for value in (self.tokens, self.items, self.percent)) != 1:
            raise ValueError(_ONE_UNIT)
        return self


class TierSelector(Model):
    """Which items belong to a tier by what they are. All that is said must hold; an empty selector selects every item."""

    kinds: Annotated[list[ItemKind], Field(min_length=1, max_length=6)] | None = Field(
        default=None, description="One of these kinds.", json_schema_extra=list_type(unique=True)
    )
    roles: Annotated[list[ItemRole], Field(min_length=1, max_length=4)] | None = Field(
        default=None, description="One of these roles.", json_schema_extra=list_type(unique=True)
    )
    labels: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=8)] | None = Field(
        default=None, description="All of these labels, with these values."
    )


class TierRetention(Model):
    """How long an item stays in a tier. What is past one of the bounds goes down, to the tier that takes it next, or out of the window."""

    age_seconds: Annotated[int, Field(ge=1, le=3_153_600_000)] | None = Field(
        default=None, alias="ageSeconds", description="Since it happened."
    )
    items: Annotated[int, Field(ge=1, le=100_000)] | None = Field(default=None, description="The newest so many of the tier.")
    tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None, description="The newest of the tier with so many tokens together."
    )


class TierPromotion(Model):
    """Which items come up to a tier that does not select them. One of the bounds is enough."""

    accesses: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="It was asked for at least so often: found by a search, or expanded."
    )
    importance: Percent | None = Field(
        default=None, description="Its importance, set by the agent or reckoned, is at least that, in percent."
    )


_MIN_UNIT = "min must be in tokens or percent"
_RANGE = "min of tiers must not be above max, where both are in the same unit"
_TIER_RULES = rules(
    rule("!has(self.min) || !has(self.min.items)", _MIN_UNIT, path=".min"),
    rule(
        "!has(self.min) || !has(self.max) || "
        "((!has(self.min.tokens) || !has(self.max.tokens) || self.min.tokens <= self.max.tokens) && "
        "(!has(self.min.percent) || !has(self.max.percent) || self.min.percent <= self.max.percent))",
        _RANGE,
    ),
)


class Tier(Model):
    """A part of the window, with a room of its own, and a strategy of its own for what is in it."""

    model_config = ConfigDict(json_schema_extra=_TIER_RULES)

    name: TierName = Field(description="Named in receipts.")
    select: TierSelector | None = Field(
        default=None, description="Which items begin here. Absent: every item that no tier before this one took."
    )
    promote: TierPromotion | None = Field(default=None, description="Which others come up. Absent: none.")
    retention: TierRetention | None = Field(default=None, description="How long items stay. Absent: as long as there is room.")
    demote: bool = Field(
        default=True,
        description="What leaves this tier, by its retention or for lack of room, is offered to the tiers after it. "
        "False: it leaves the window.",
    )
    share: Percent | None = Field(default=None, description="Its room, in percent of the budget. Absent: what the tiers before it leave.")
    min: Extent | None = Field(default=None, description="Room that no tier before it may take.")
    max: Extent | None = Field(default=None, description="Room that it does not exceed, also when others leave theirs.")
    strategy: Choice = Field(
        default="sliding",
        description="What stays when there is no room for all: the first (fixed), the newest (sliding), the most important (importance).",
    )

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min is not None and self.min.items is not None:
            raise ValueError(_MIN_UNIT)
        if self.min is not None and self.max is not None:
            pairs = ((self.min.tokens, self.max.tokens), (self.min.percent, self.max.percent))
            if any(low is not None and high is not None and low > high for low, high in pairs):
                raise ValueError(_RANGE)
        return self


_TIERS = "tiers and preset of the strategy are for the type hierarchical, and it must have exactly one of them"
_SHARES = "the shares of all tiers must be at most 100 together"
_KEEP = "keep must not be set for the type fixed: nothing leaves such a window"
_STRATEGY_RULES = rules(
    rule("self.type != 'fixed' || !has(self.keep)", _KEEP, path=".keep"),
    rule("self.type == 'hierarchical' ? has(self.tiers) != has(self.preset) : !has(self.tiers) && !has(self.preset)", _TIERS),
    rule("!has(self.tiers) || self.tiers.map(t, has(t.share) ? t.share : 0).sum() <= 100", _SHARES, path=".tiers"),
)


class Strategy(Model):
    """Which items are shown when not all fit. What is not shown stays in the log, and is found by a question."""

    model_config = ConfigDict(json_schema_extra=_STRATEGY_RULES)

    type: Literal["fixed", "sliding", "importance", "hierarchical"] = Field(
        description="fixed: the first that fit. sliding: the newest. importance: what most likely matters, without a question. "
        "hierarchical: tiers, each with a strategy of its own."
    )
    trigger: Extent | None = Field(
        default=None, description="Items leave the window when it would grow beyond this. Absent: the whole budget; never more than that."
    )
    keep: Extent | None = Field(
        default=None,
        description="So much stays when items leave. Absent: 85 percent of the trigger. The gap is what keeps the beginning of windows, "
        "and with it the provider's cache, the same from call to call.",
    )
    retrieve: Percent = Field(
        default=50,
        description="With a question: the part of the budget for what the question finds, at the end of the window, in percent. "
        "100 shows, beside what is pinned, only what it finds.",
    )
    embedding: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="With a question: how much likeness of meaning counts, in percent; words are the rest. More than 0 needs a gateway "
        "that was given a table of vectors: elsewhere such calls for windows are refused. Absent: 20 where there is one, else words alone.",
    )
    preset: Literal["CoreWorkingArchive"] | None = Field(
        default=None,
        description="CoreWorkingArchive: core (system items, the first; at most 50 percent), working (the newest; 60 percent), "
        "archive (the most important of the rest).",
    )
    tiers: Annotated[list[Tier], Field(min_length=1, max_length=8)] | None = Field(
        default=None,
        description="The order is the order in which tiers take items; the window itself is in the order of the log.",
        json_schema_extra=list_type(keys=["name"]),
    )

    @model_validator(mode="after")
    def _tiers(self) -> Self:
        if self.type == "fixed" and self.keep is not None:
            raise ValueError(_KEEP)
        if self.type == "hierarchical":
            if (self.tiers is None) == (self.preset is None):
                raise ValueError(_TIERS)
        elif self.tiers is not None or self.preset is not None:
            raise ValueError(_TIERS)
        tiers = self.tiers or []
        if sum(tier.share or 0 for tier in tiers) > 100:
            raise ValueError(_SHARES)
        if len({tier.name for tier in tiers}) != len(tiers):
            raise ValueError("tiers must have different names")
        return self


_SIZE_RULES = rules(
    rule("isQuantity(self)", "content must be a Kubernetes quantity such as 256Mi", reason="FieldValueInvalid"),
    rule(
        "!isQuantity(self) || !quantity(self).isLessThan(quantity('1Mi')) && !quantity(self).isGreaterThan(quantity('16Gi'))",
        "content must be 1Mi to 16Gi",
        reason="FieldValueInvalid",
    ),
)


def _size(text: str) -> str:
    if not 1 << 20 <= parse_bytes(text) <= 16 << 30:
        raise ValueError("must be 1Mi to 16Gi")
    return text


Size = Annotated[str, AfterValidator(_size), Field(min_length=1, max_length=32, json_schema_extra=_SIZE_RULES)]
Seconds = Annotated[int, Field(ge=60, le=3_153_600_000)]
Items = Annotated[int, Field(ge=1, le=10_000_000)]


class RetentionTier(Model):
    """How long items of some kinds are kept."""

    name: TierName = Field(description="For people.")
    kinds: Annotated[list[ItemKind], Field(min_length=1, max_length=6)] = Field(
        description="Which items.", json_schema_extra=list_type(unique=True)
    )
    age_seconds: Seconds | None = Field(default=None, alias="ageSeconds", description="Since they happened.")
    items: Items | None = Field(default=None, description="The newest so many.")
    content: Size | None = Field(default=None, description="The newest with so much content together, a quantity such as 64Mi.")


class ContextRetention(Model):
    """What goes in the end. The oldest items go first, a tool call with its results; pinned items stay."""

    age_seconds: Seconds = Field(default=31_536_000, alias="ageSeconds", description="How long items are kept. A year by default.")
    tiers: Annotated[list[RetentionTier], Field(max_length=8)] | None = Field(
        default=None,
        description="Further bounds for some kinds. Absent: tool calls, their results and observations are kept for 90 days.",
        json_schema_extra=list_type(keys=["name"]),
    )


class ContextLimits(Model):
    """What the context may hold. Beyond items and content the oldest go; beyond sessions and pins a request is refused."""

    items: Items = Field(default=200_000, description="Items.")
    content: Size = Field(default="256Mi", description="All contents together, a quantity. The file takes two to three times as much.")
    sessions: Annotated[int, Field(ge=1, le=100_000)] = Field(default=1024, description="Sessions.")
    pins: Annotated[int, Field(ge=0, le=100_000)] = Field(default=1024, description="Pinned items.")


class AgentContext(Model):
    """The Agent's context. What is set here is in force at once, also for an Agent that runs."""

    budget: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None, description="Tokens of a window where the call for it names no budget. Absent: every call must name one."
    )
    strategy: Strategy | None = Field(default=None, description="Of windows where the call names none. Absent: sliding.")
    limits: ContextLimits = Field(default_factory=ContextLimits, description="How much is kept.")
    retention: ContextRetention = Field(default_factory=ContextRetention, description="For how long.")
    when_node_lost: Literal["Wait", "StartEmpty"] = Field(
        default="StartEmpty",
        alias="whenNodeLost",
        description="The context is on one node, and moves with the Agent while both nodes are in touch. When its node is not: Wait: once "
        "there is something in it, the Agent waits for that node. StartEmpty: it runs where there is a place, begins without its context, "
        "and says so (status.context.startedEmpty).",
    )
    reclaim: Literal["Retain", "Erase"] = Field(
        default="Retain",
        description="What becomes of the context when the Agent is deleted. Retain: it stays on its node until somebody erases it. "
        "Erase: its node erases all of it once the Agent is gone from the API, and says so in an event.",
    )


class ContextFacts(Model):
    """What the gateway says of the context; written at most every ten seconds."""

    items: Count = Field(description="Items in it.")
    content_bytes: Count = Field(alias="contentBytes", description="Their contents together.")
    sessions: Count = Field(description="Sessions in it.")
    last_append: Time | None = Field(default=None, alias="lastAppend", description="When the newest item happened.")
    first_attempt: Count = Field(alias="firstAttempt", description="The attempt that began it.")


class ContextStatus(Model):
    """The Agent's context as its node last told."""

    durability: Literal["NodeLocal"] = Field(
        description="NodeLocal: on the disk of the node, and nowhere else. It is moved when an attempt on another node begins."
    )
    node_name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(default=None, alias="nodeName", description="The node.")
    items: Count = Field(description="Items in it.")
    content_bytes: Count = Field(alias="contentBytes", description="Their contents together.")
    sessions: Count = Field(description="Sessions in it.")
    last_append: Time | None = Field(default=None, alias="lastAppend", description="When the newest item happened.")
    first_attempt: Count = Field(alias="firstAttempt", description="The attempt that began it.")
    started_empty: bool = Field(
        default=False, alias="startedEmpty", description="It began without what the Agent had before, which is on another node or gone."
    )


def parse_strategy(strategy: object) -> Strategy:
    """The strategy as a model. Raises `InvalidSpec`, whose message names the fields as the user wrote them."""
    try:
        return Strategy.model_validate(strategy)
    except ValidationError as error:
        raise InvalidSpec(field_errors(error, "strategy")) from None

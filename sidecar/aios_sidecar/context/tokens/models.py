"""Which counter speaks for a model, and what its template adds to the text of a message."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from aios_sidecar.context.items import Usage
from aios_sidecar.context.tokens import tables
from aios_sidecar.context.tokens.learned import Ratios, learn


class Overheads(NamedTuple):
    """Tokens beside the texts."""

    request: int
    """Once."""
    message: int
    """Per message, its role included."""
    name: int
    """Where a message has a name, beside the name's own."""
    call: int
    """Per tool call or result, beside its id, name and text."""


PUBLISHED: Final = Overheads(request=3, message=4, name=1, call=16)
"""Of OpenAI's chat models: each message begins and ends with three tokens, its role is one, and the answer is primed with three. What a
tool call adds is not published; 16 is more than any layout of these fields takes."""
DECLARED: Final = Overheads(request=16, message=8, name=4, call=24)
"""Of templates that nobody has published: more than those take that can be read."""


_LEARNED_LIMIT: Final = 256
"""Models whose ratios are kept between calls; the agent names the model."""


class Template(Protocol):
    """Counts a whole request as the model's own template renders it."""

    def count_messages(self, messages: Sequence[Mapping[str, Any]]) -> int: ...


class TokenCounter:
    """How one model counts. Equal names count alike, so that counts may be kept by name."""

    def __init__(
        self,
        name: str,
        overheads: Overheads,
        *,
        table: tables.Table | None = None,
        ratios: Ratios | None = None,
        template: Template | None = None,
        published: bool = False,
        adds_up: bool = False,
    ) -> None:
        assert (table is None) != (ratios is None), "a counter counts by a table or by ratios"
        self.name = name
        self.overheads = overheads
        self.template = template
        self._table = table
        self._ratios = ratios
        self._published = published
        self.adds_up = adds_up
        """Lines of text cost together what they cost one by one: known of the packaged tables, which split at every line feed."""

    @property
    def exact(self) -> bool:
        """Texts are counted as the model counts them."""
        return self._table is not None

    @property
    def exact_messages(self) -> bool:
        """What a plain message adds to its text is known too."""
        return self._published or self.template is not None

    @property
    def basis(self) -> str:
        """What the counts rest on, for a person."""
        if self._ratios is None:
            return f"table {self.name}"
        if not self._ratios.reports:
            return "declared ratios of tokens to bytes"
        return f"ratios of tokens to bytes learned from {self._ratios.reports} reports, bound {self._ratios.bound_percent:g} %"

    @property
    def bound_percent(self) -> float | None:
        """By how much the worst report exceeded what these ratios estimate; None where nothing was reported, 0 where counts are exact."""
        return 0.0 if self._ratios is None else self._ratios.bound_percent

    def count(self, text: str, kind: str = "message") -> int:
        """Tokens of `text`, at most, as part of an item of that kind."""
        if self._table is not None:
            return self._table.count(text)
        assert self._ratios is not None
        return self._ratios.tokens(len(text.encode()), kind)


class Models:
    """Counters by the names of models: packaged tables, what users gave, and ratios for the rest."""

    def __init__(self, given: Mapping[str, TokenCounter] | None = None) -> None:
        """`given` are models with files of their own (see `files.load`); they come before all others."""
        self._given = dict(given or {})
        self._learned: dict[str, tuple[tuple[int, Usage | None], TokenCounter]] = {}

    def knows(self, model: str) -> bool:
        """Texts for `model` are counted exactly; reports of its provider would change nothing."""
        return model in self._given or tables.name_for(model) is not None

    def counter(self, model: str, reports: Sequence[Usage] = ()) -> TokenCounter:
        """What counts for `model`. `reports` are what its provider counted; they matter where no table is known."""
        if model in self._given:
            return self._given[model]
        table = tables.name_for(model)
        if table is not None:
            published = tables.has_known_template(model)
            return TokenCounter(
                table, PUBLISHED if published else DECLARED, table=tables.packaged(table), published=published, adds_up=True
            )
        seen = (len(reports), reports[-1] if reports else None)
        known = self._learned.get(model)
        if known is None or known[0] != seen:
            ratios = learn(reports, DECLARED.message)
            digest = ",".join(f"{kind}={math.ceil(1000 * ratio)}" for kind, ratio in sorted(ratios.per_byte.items()))
            known = self._learned[model] = (seen, TokenCounter(f"ratios:{digest}", DECLARED, ratios=ratios))
            while len(self._learned) > _LEARNED_LIMIT:
                del self._learned[next(iter(self._learned))]
        return known[1]

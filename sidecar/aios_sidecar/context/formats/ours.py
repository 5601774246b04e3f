"""Our own format: items as they are, and the same as one text of lines."""

from collections.abc import Iterable, Sequence

from aios_sidecar.context.formats.base import Rendered, line, line_cost, lines
from aios_sidecar.context.items import Item
from aios_sidecar.context.tokens import TokenCounter
from aios_sidecar.context.units import Unit


class Ours:
    """`items` for a program, `text` for a prompt. The budget is over `text`."""

    name = "ours"

    def request_cost(self, counter: TokenCounter) -> int:
        return 0

    def cost(self, unit: Unit, counter: TokenCounter) -> int:
        return line_cost(unit, counter)

    def recall_cost(self, counter: TokenCounter) -> int:
        return 0

    def exact(self, units: Iterable[Unit], counter: TokenCounter) -> bool:
        return counter.exact and counter.adds_up

    def order(self, units: Sequence[Unit]) -> Sequence[Unit]:
        return units

    def render(self, units: Sequence[Unit], recalled: Sequence[Unit]) -> Rendered:
        return {
            "items": [_item(item, shown) for group, shown in ((units, False), (recalled, True)) for unit in group for item in unit.items],
            "text": lines(units) + lines(recalled),
        }


def _item(item: Item, recalled: bool) -> Rendered:
    shown: dict[str, object] = {
        "seq": item.seq,
        "session": item.session,
        "time": item.time.isoformat().replace("+00:00", "Z"),
        "role": item.role.value,
        "kind": item.kind.value,
        "content": item.content if isinstance(item.content, str) else list(item.content),
        "text": line(item),
    }
    optional = {
        "author": item.author,
        "callId": item.call_id,
        "derivedFrom": list(item.derived_from),
        "labels": dict(item.labels),
        "pinned": item.pinned,
        "recalled": recalled,
    }
    return {**shown, **{name: value for name, value in optional.items() if value}}

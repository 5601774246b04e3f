"""How a window is written, and for whom: ours, OpenAI chat, Anthropic messages. Each knows what a unit costs and what its reader accepts.

Costs are upper bounds that add up: what a format writes for several units never costs more than the sum. What a question found comes at
the end, as lines of text in one message: so the messages before it stay as they were, and no call in it needs its result there.
"""

from aios_sidecar.context.formats.anthropic import Anthropic
from aios_sidecar.context.formats.base import Format, Rendered
from aios_sidecar.context.formats.openai import OpenAI
from aios_sidecar.context.formats.ours import Ours

FORMATS: dict[str, Format] = {each.name: each for each in (Ours(), OpenAI(), Anthropic())}

__all__ = ["FORMATS", "Format", "Rendered"]

"""What texts cost a model: exact where the tokenizer's table is at hand, else estimated from what providers reported.

`tables` are the tables that a package brings, `files` those that a user gives with a chat template, `learned` ratios of tokens to bytes,
`models` which of them speaks for a model, and what a message adds to its text. Nothing here reads the network.
"""

from aios_sidecar.context.tokens.models import Models, Overheads, TokenCounter

__all__ = ["Models", "Overheads", "TokenCounter"]

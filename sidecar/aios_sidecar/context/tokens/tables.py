"""Tokenizer tables that a package brings (extra `gateway`): exact counts without a network."""

import re
import warnings
from functools import cache
from typing import Final, Protocol

from aios_sidecar.context.tokens.errors import UnknownTokenizer

NAMES: Final = ("o200k_base", "cl100k_base")

_TABLES: Final = (
    (re.compile(r"(gpt-4o|chatgpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|gpt-oss|o[134])(-.*)?"), "o200k_base"),
    (re.compile(r"(gpt-4|gpt-3\.5-turbo|gpt-35-turbo|text-embedding-(ada-002|3-small|3-large))(-.*)?"), "cl100k_base"),
)
_CHAT: Final = re.compile(r"(gpt-4o|gpt-4o-mini|gpt-4|gpt-3\.5-turbo)(-\d{4}(-\d{2}-\d{2})?)?")
"""Models whose maker has published what a message adds to its text; of the others only the table is known."""


class Table(Protocol):
    """Counts as the model does."""

    def count(self, text: str) -> int: ...


class _Packaged:
    def __init__(self, name: str) -> None:
        try:
            with warnings.catch_warnings():
                # It opens its tables in a way that Python 3.11 calls deprecated, and later ones took back into favour.
                warnings.simplefilter("ignore", DeprecationWarning)
                import bpe_openai
        except ImportError:
            raise UnknownTokenizer(f"the table {name} is in the package bpe-openai, which is not installed (extra gateway)") from None
        self._encode = bpe_openai.get_encoding(name).encode_ordinary

    def count(self, text: str) -> int:
        return len(self._encode(text))


@cache
def packaged(name: str) -> Table:
    """The table called `name`. Raises UnknownTokenizer when there is none, or the package that has it is not installed."""
    if name not in NAMES:
        raise UnknownTokenizer(f"a packaged table must be one of {', '.join(NAMES)}, not {name}")
    return _Packaged(name)


def name_for(model: str) -> str | None:
    """Which packaged table counts for `model`: its own name, or that of a model; None when no table is known."""
    if model in NAMES:
        return model
    return next((name for pattern, name in _TABLES if pattern.fullmatch(model)), None)


def has_known_template(model: str) -> bool:
    """What a message of a chat adds to its text is published for `model`."""
    return _CHAT.fullmatch(model) is not None

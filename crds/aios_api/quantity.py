"""Kubernetes quantities: `16Gi`, `1.5G`, `500m`, `1e9`.

Strict: what the API server refuses is refused here (`NaN`, `1_000`, `1e3Ki`, an empty text). So is some of what it lets pass: surrounding
spaces; a text without a digit (`.`, which it reads as 0); numbers below 0; numbers above 2^63-1, which it caps or not, depending on the
suffix; exponents beyond 100, which it may wrap around.
"""

import re
from fractions import Fraction
from math import ceil
from typing import Final

MIB: Final = 1 << 20
MAX: Final = (1 << 63) - 1
"""The largest number that a quantity may stand for, as published."""

_MAX_LENGTH: Final = 64
_MAX_EXPONENT: Final = 100
_NUMBER: Final = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]*))?|\.(?P<only_part>[0-9]+))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]+)|(?P<suffix>[numkMGTPE]|[KMGTPE]i)?)"
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


class InvalidQuantity(ValueError):
    """Not a quantity, or one that nothing of ours can have. The message says what must be true."""


def parse(text: str) -> Fraction:
    """The exact number that `text` stands for, at least 0 and at most 2^63-1. Raises `InvalidQuantity`."""
    match = _NUMBER.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None:
        raise InvalidQuantity(
            f"{text[:_MAX_LENGTH]!r} must be a Kubernetes quantity of at most {_MAX_LENGTH} characters, such as 16Gi, 1.5G or 500m"
        )
    part = match["part"] or match["only_part"] or ""
    digits = int((match["whole"] or "") + part)
    number = Fraction(digits, 10 ** len(part)) * _factor(text, match["exponent"], match["suffix"] or "")
    if match["sign"] == "-" and digits:
        raise InvalidQuantity(f"{text!r} must not be negative")
    if number > MAX:
        raise InvalidQuantity(f"{text!r} must be at most {MAX} (2^63-1)")
    return number


def parse_bytes(text: str) -> int:
    """Whole bytes, or whole units of whatever is counted; a part of a unit counts as one, as the API server has it."""
    return ceil(parse(text))


def parse_milli(text: str) -> int:
    """Thousandths, as CPU is counted: `500m` is 500, `1` is 1000; a part of a thousandth counts as one."""
    return ceil(parse(text) * 1000)


def mebibytes(text: str) -> int:
    """Whole MiB, rounded up: the step in which VRAM is booked."""
    return ceil(parse(text) / MIB)


def format_bytes(number: int) -> str:
    """The canonical quantity of so many bytes, as the API server writes it: the largest binary suffix that leaves a whole number."""
    if number < 0 or number > MAX:
        raise InvalidQuantity(f"{number} must be at least 0 and at most {MAX} (2^63-1)")
    for suffix, exponent in reversed(_BINARY.items()):
        if number and number % (1 << exponent) == 0:
            return f"{number >> exponent}{suffix}"
    return str(number)


def _factor(text: str, exponent: str | None, suffix: str) -> Fraction:
    if suffix in _BINARY:
        return Fraction(1 << _BINARY[suffix])
    power = int(exponent) if exponent is not None else _DECIMAL[suffix]
    if abs(power) > _MAX_EXPONENT:
        raise InvalidQuantity(f"{text!r} must have an exponent between -{_MAX_EXPONENT} and {_MAX_EXPONENT}")
    return Fraction(10) ** power

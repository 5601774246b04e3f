"""Reads what the endpoint answers, and names what is not as it must be."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from aios_sdk.errors import UnexpectedAnswerError

T = TypeVar("T")


class Part:
    """A JSON object and where it stands, so that an error can name the field."""

    def __init__(self, path: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise UnexpectedAnswerError(f"{path or 'the answer'} must be an object, not {type(value).__name__}")
        self._path = f"{path}." if path else ""
        self._value = value

    @property
    def value(self) -> Mapping[str, Any]:
        """The object itself."""
        return self._value

    def text(self, key: str) -> str:
        return self.typed(key, str, "a string")

    def whole(self, key: str) -> int:
        return self.typed(key, int, "a whole number")

    def part(self, key: str) -> "Part":
        return Part(self._path + key, self._value.get(key))

    def optional_part(self, key: str) -> "Part | None":
        return None if self._value.get(key) is None else self.part(key)

    def parts(self, key: str) -> list["Part"]:
        items = self.typed(key, list, "a list")
        return [Part(f"{self._path}{key}[{index}]", item) for index, item in enumerate(items)]

    def typed(self, key: str, kind: type[T], wanted: str) -> T:
        value = self._value.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UnexpectedAnswerError(f"{self._path}{key} must be {wanted}, not {type(value).__name__}")
        return value

    def optional(self, key: str, kind: type[T], wanted: str) -> T | None:
        return None if self._value.get(key) is None else self.typed(key, kind, wanted)

    def optional_text(self, key: str) -> str | None:
        return self.optional(key, str, "a string")

    def optional_whole(self, key: str) -> int | None:
        return self.optional(key, int, "a whole number")

    def flag(self, key: str) -> bool:
        value = self._value.get(key)
        if not isinstance(value, bool):
            raise UnexpectedAnswerError(f"{self._path}{key} must be true or false, not {type(value).__name__}")
        return value

    def number(self, key: str) -> float:
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnexpectedAnswerError(f"{self._path}{key} must be a number, not {type(value).__name__}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return None if self._value.get(key) is None else self.number(key)

    def moment(self, key: str) -> datetime:
        text = self.text(key)
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise UnexpectedAnswerError(f"{self._path}{key} must be a time, not {text!r}") from None

    def optional_moment(self, key: str) -> datetime | None:
        return None if self._value.get(key) is None else self.moment(key)

    def mapping(self, key: str) -> Mapping[str, Any]:
        return self.typed(key, dict, "an object")

    def listed(self, key: str) -> list[Any]:
        return self.typed(key, list, "a list")

    def raw(self, key: str) -> Any:
        return self._value.get(key)

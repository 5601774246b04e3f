"""A clock, a key and short drafts for tests of contexts."""

from datetime import UTC, datetime, timedelta

from aios_sidecar.context.items import Draft, Kind, Role
from aios_sidecar.context.store import AgentKey

KEY = AgentKey("team", "coder", "6a9c")


class Clock:
    """A minute later at each look."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


def said(*texts: str, **fields: object) -> list[Draft]:
    return [Draft(Role.USER, text, **fields) for text in texts]


def call(call_id: str, session: str = "main") -> list[Draft]:
    """A tool call and its result."""
    return [
        Draft(
            Role.ASSISTANT,
            ({"type": "tool_call", "name": "weather", "arguments": {"city": call_id}},),
            Kind.TOOL_CALL,
            session,
            call_id=call_id,
        ),
        Draft(Role.TOOL, f"it rains in {call_id}", Kind.TOOL_RESULT, session, call_id=call_id),
    ]


def texts(items) -> list[str]:
    return [item.content for item in items]


def read(context, what):
    with context.reading() as reader:
        return what(reader)


def kept(context) -> list[str]:
    return texts(read(context, lambda reader: reader.oldest(10_000)))

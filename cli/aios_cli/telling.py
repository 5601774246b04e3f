"""The story of `aiosctl explain` as text with colours, and as JSON. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.text import Text

from aios_cli.happenings import Happening
from aios_cli.states import age
from aios_cli.story import Mark, Story

MARKS: dict[Mark, tuple[str, str]] = {
    "done": ("✓", "green"),
    "now": ("…", "yellow"),
    "bad": ("✗", "bold red"),
    "next": ("·", "bright_black"),
}
INDENT = 24
HAPPENINGS_SHOWN = 12


def tell(story: Story, width: int) -> Group:
    """All of it in lines of at most `width` columns where words allow it. Times are UTC."""
    return Group(*_lines(story, max(width, INDENT + 20)))


def _lines(story: Story, width: int) -> Iterator[Text]:
    said = story.standing
    head = Text.assemble((f"{story.namespace}/{story.name}", "bold"), "  ", (said.state.value, said.state.style))
    if said.since is not None:
        head.append(f" for {age(said.since, story.at)}")
    if story.attempt:
        head.append(f", attempt {story.attempt}")
    if said.reason and said.reason.lower() != said.state.value:
        head.append(f", {said.reason}")
    yield head.append(f"  (times are UTC, now {story.at:%H:%M:%S})", "bright_black")
    yield Text()
    for step in story.steps:
        mark, style = MARKS[step.mark]
        line = Text.assemble((f"{clock(step.at, story.at):>10} ", "bright_black"), (f"{mark} ", style), (f"{step.name:<11}", style))
        yield from _wrapped(line, step.text, width)
        for detail in step.details:
            yield from _wrapped(Text(" " * INDENT), detail, width, "bright_black", "  ")
    for title, texts in (("restarts", story.restarts), ("last failure", tuple(_failure(story))), ("what comes next", story.next)):
        if texts:
            yield Text()
            yield Text(title, "bold")
            for text in texts:
                yield from _wrapped(Text("  "), text, width)
    yield from _happenings(story, width)


def clock(at: datetime | None, now: datetime) -> str:
    """The time of day, or the day when that is long ago."""
    if at is None:
        return ""
    return f"{at:%H:%M:%S}" if (now - at).total_seconds() < 20 * 3600 else f"{at:%Y-%m-%d}"


def _wrapped(start: Text, text: str, width: int, style: str = "", hang: str = "") -> Iterator[Text]:
    room = len(start)
    pieces = textwrap.wrap(" ".join(text.split()), width - room - len(hang), break_on_hyphens=False) or [""]
    yield start.append(hang + pieces[0], style)
    for piece in pieces[1:]:
        yield Text(" " * room + hang + piece, style)


def _failure(story: Story) -> Iterator[str]:
    if (last := story.last_failure) is not None:
        yield f"attempt {last['attempt']} at {last['time']}, {last['reason']}: {last['message']}"
        if story.failed_attempts:
            yield f"{story.failed_attempts} in a row; 0 again after ten minutes of Ready"


def _happenings(story: Story, width: int) -> Iterator[Text]:
    if not story.happenings:
        return
    yield Text()
    left = len(story.happenings) - HAPPENINGS_SHOWN
    yield Text("events" + (f" (the last {HAPPENINGS_SHOWN} of {len(story.happenings)}; --json has all)" if left > 0 else ""), "bold")
    for each in story.happenings[-HAPPENINGS_SHOWN:]:
        start = Text.assemble(
            (f"{clock(each.at, story.at):>10} ", "bright_black"), (f"{each.reason:<{INDENT - 12}} ", "red" if each.warning else "cyan")
        )
        times = f" ({each.count} times)" if each.count > 1 else ""
        yield from _wrapped(start, f"{each.about}: {each.text}{times}", width)


def as_json(story: Story) -> dict[str, Any]:
    """The story for programs. Times are RFC 3339."""
    said = story.standing
    return {
        "time": story.at.isoformat(),
        "namespace": story.namespace,
        "name": story.name,
        "state": said.state.value,
        "exitCode": said.state.exit_code,
        "reason": str(said.reason),
        "message": said.message,
        "smallestChange": said.smallest_change or None,
        "since": _iso(said.since),
        "attempt": story.attempt,
        "failedAttempts": story.failed_attempts,
        "lastFailure": story.last_failure,
        "restarts": list(story.restarts),
        "steps": [{"step": s.name, "mark": s.mark, "time": _iso(s.at), "text": s.text, "details": list(s.details)} for s in story.steps],
        "next": list(story.next),
        "events": [_event(each) for each in story.happenings],
    }


def _event(each: Happening) -> dict[str, Any]:
    kind = "Warning" if each.warning else "Normal"
    return {"time": _iso(each.at), "type": kind, "about": each.about, "reason": each.reason, "note": each.text, "count": each.count}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None

"""The picture of `aiosctl top` as lines of text with colours. Pure: a picture, a width and a height in, lines out.

Bars tell their holders apart by pattern as well as by colour, so that they read the same in a log or on a black-and-white terminal.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator

from rich.console import Group
from rich.text import Text

from aios_cli.picture import AgentLine, GpuLine, Holder, NodeLine, Picture
from aios_cli.states import FINE, State, age
from aios_operator.decide.objects import format_mebibytes

PATTERNS = "█▓▒"
COLOURS = ("cyan", "magenta", "blue", "yellow", "green")
FREE = "·"
BAR_MOST, BAR_LEAST = 48, 10
FIXED_COLUMNS = 32
"""Of a GPU's line: what stands beside model and bar."""
MODEL_MOST = 30
WHY_LINES = 3
"""Of an Agent's message, where there is room for it; otherwise one."""


def draw(shown: Picture, width: int, height: int | None = None, problem: str | None = None) -> Group:
    """The picture in at most `width` columns and, when given, `height` lines: what does not fit is counted in the last line of its part."""
    head = _head(shown, problem)
    gpus, agents = list(_gpus(shown, width)), list(_agents(shown, width, WHY_LINES))
    if height is not None:
        room = max(height - len(head) - 2, 4)
        if len(gpus) + len(agents) > room:
            agents = list(_agents(shown, width, 1))
        for_gpus = min(len(gpus), max(room // 2, room - len(agents)))
        gpus, agents = _cut(gpus, for_gpus), _cut(agents, room - for_gpus)
    lines = [*head, Text(), *gpus, Text(), *agents]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)


def _cut(lines: list[Text], most: int) -> list[Text]:
    if len(lines) <= most:
        return lines
    left = len(lines) - most + 1
    return [*lines[: most - 1], Text(f"  … {left} more lines: a taller terminal or --once shows them", "bright_black")]


def _head(shown: Picture, problem: str | None) -> list[Text]:
    where = f"namespace {shown.namespace}" if shown.namespace else "all namespaces"
    lines = [Text.assemble(("KubeAIOS", "bold"), f"  {shown.context}, {where}", (f"  {shown.at:%H:%M:%S} UTC", "bright_black"))]
    if problem:
        lines.append(Text(f"! no news since {shown.at:%H:%M:%S} UTC: {problem}", "bold white on red"))
    capacity, booked = sum(g.mebibytes for g in shown.gpus), sum(g.booked_mebibytes for g in shown.gpus)
    lines.append(Text(f"{_count(len(shown.gpus), 'GPU')}, {gib(booked)} of {gib(capacity)} booked" if shown.gpus else "no GPUs"))
    told = Text(_count(len(shown.agents), "Agent"))
    states = Counter(line.standing.state for line in shown.agents)
    for index, state in enumerate(state for state in State if states[state]):
        told.append(": " if index == 0 else ", ").append(f"{states[state]} {state.value}", state.style)
    lines.append(told)
    lines += [Text(f"not shown, since you may not read it: {what}", "yellow") for what in shown.unseen]
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def gib(mebibytes: int) -> str:
    """`24 GiB`, `0.5 GiB`: to compare sizes at a glance; the exact ones are in --json."""
    size = mebibytes / 1024
    return f"{size:.0f} GiB" if size == int(size) or size >= 100 else f"{size:.1f} GiB"


def _gpus(shown: Picture, width: int) -> Iterator[Text]:
    model = min(max((len(_model(gpu)) for gpu in shown.gpus), default=0), MODEL_MOST)
    bar = min(max(width - model - FIXED_COLUMNS, BAR_LEAST), BAR_MOST)
    for node in shown.nodes:
        yield _node(node)
        for gpu in node.gpus:
            yield _gpu(gpu, model, bar)
            if gpu.taints:
                yield Text(f"     takes nobody new: {', '.join(gpu.taints)}", "bold red")
            if gpu.holders:
                yield from _holders(gpu, width, shown.namespace)


def _node(node: NodeLine) -> Text:
    line = Text.assemble((node.name, "bold"), (f"  {node.slots_taken} of {node.slots} agent slots taken", "bright_black"))
    if node.gpus_refused:
        line.append(f"  GPUs withheld: {node.gpus_refused}", "red")
    return line


def _model(gpu: GpuLine) -> str:
    return f"{gpu.model} (fake)" if gpu.fake else gpu.model


def _gpu(gpu: GpuLine, model: int, bar: int) -> Text:
    label = "?" if gpu.index is None else str(gpu.index)
    share = 100 * gpu.booked_mebibytes / gpu.mebibytes if gpu.mebibytes else 0.0
    line = Text(f"  {label:>2} {_model(gpu)[:model]:<{model}} ")
    line.append_text(_bar(gpu, bar))
    line.append(f" {gib(gpu.booked_mebibytes).removesuffix(' GiB'):>5} of {gib(gpu.mebibytes)} {share:3.0f}%")
    return line


def _bar(gpu: GpuLine, cells: int) -> Text:
    """Each holder has the cells between the sums before and with it, so that rounding never adds up; who holds anything has one."""
    bar, end, taken = Text(), 0, 0
    for index, holder in enumerate(gpu.holders):
        taken += holder.mebibytes
        upto = min(max(round(cells * taken / gpu.mebibytes) if gpu.mebibytes else cells, end + 1), cells)
        bar.append(_pattern(index) * (upto - end), _colour(index))
        end = max(end, upto)
    return bar.append(FREE * (cells - end), "bright_black")


def _pattern(index: int) -> str:
    return PATTERNS[index % len(PATTERNS)]


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _holders(gpu: GpuLine, width: int, namespace: str | None) -> Iterator[Text]:
    """Who holds what, as many to a line as fit."""
    indent = " " * 5
    line = Text(indent)
    for index, holder in enumerate(gpu.holders):
        entry = f"{_named(holder, namespace)} {format_mebibytes(holder.mebibytes)}" + ("" if holder.booked else " (ordered)")
        if len(line) > len(indent) and len(line) + len(entry) + 2 > width:
            yield line
            line = Text(indent)
        line.append(_pattern(index), _colour(index)).append(f" {entry}  ")
    line.rstrip()
    yield line


def _named(holder: Holder, namespace: str | None) -> str:
    return holder.name if holder.namespace == namespace else f"{holder.namespace}/{holder.name}"


def _agents(shown: Picture, width: int, why_lines: int) -> Iterator[Text]:
    if not shown.agents:
        where = f"in namespace {shown.namespace}; -A shows all namespaces" if shown.namespace else "here"
        yield Text(f"no Agents {where}", "bright_black")
        return
    names = [_title(line, shown.namespace) for line in shown.agents]
    wide = min(max(map(len, names)), max(width // 3, 12))
    yield Text(f"{'STATE':<10}{'AGENT':<{wide}}  {'VRAM':>8}  {'FOR':>7}  {'NODE':<16}  WHY", "bold")
    for line, name in zip(shown.agents, names, strict=True):
        yield from _agent(line, name, wide, shown, width, why_lines)


def _title(line: AgentLine, namespace: str | None) -> str:
    return line.name if namespace else f"{line.namespace}/{line.name}"


def _agent(line: AgentLine, name: str, wide: int, shown: Picture, width: int, why_lines: int) -> Iterator[Text]:
    said = line.standing
    vram = format_mebibytes(line.mebibytes) if line.mebibytes else "-"
    row = Text.assemble((f"{said.state.value:<10}", said.state.style), f"{_short(name, wide):<{wide}}")
    row.append(f"  {vram:>8}  {age(said.since, shown.at):>7}  {_short(line.node or '-', 16):<16}  {said.reason}")
    if line.failed_attempts:
        row.append(f", {_count(line.failed_attempts, 'failure')} in a row", "red")
    if line.restarts:
        row.append(f", {_count(line.restarts, 'restart')}", "red")
    yield row
    if said.state.exit_code != FINE:
        yield from _wrapped(said.message, width, "  ", "", why_lines)
        if said.smallest_change:
            yield from _wrapped(said.smallest_change, width, "→ ", "green", why_lines)


def _wrapped(text: str, width: int, mark: str, style: str, most: int) -> Iterator[Text]:
    """At most so many lines below a row: all of it is in `aiosctl explain`."""
    indent = " " * 10
    pieces = textwrap.wrap(" ".join(text.split()), max(width - len(indent) - len(mark) - 2, 20)) or [""]
    for index, piece in enumerate(pieces[:most]):
        end = " …" if index == most - 1 and len(pieces) > most else ""
        yield Text(indent + (mark if index == 0 else " " * len(mark)) + piece + end, style)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

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
from aios_cli.quotas import QuotaLine
from aios_cli.states import FINE, State, age
from aios_operator.decide.objects import format_mebibytes

PATTERNS = "█▓▒"
COLOURS = ("cyan", "magenta", "blue", "yellow", "green")
FREE = "·"
BAR_MOST, BAR_LEAST = 48, 10
FIXED_COLUMNS = 32
"""Of a GPU's line: what stands beside model and bar."""
MODEL_MOST = 30
QUOTA_COLUMNS = 62
"""Of a quota's line: what stands beside name and bar."""
WHY_LINES = 3
"""Of an Agent's message, where there is room for it; otherwise one."""


def draw(shown: Picture, width: int, height: int | None = None, problem: str | None = None) -> Group:
    """The picture in at most `width` columns and, when given, `height` lines: what does not fit is counted in the last line of its part."""
    head = _head(shown, problem)
    gpus, quotas, agents = list(_gpus(shown, width)), list(_quotas(shown, width)), list(_agents(shown, width, WHY_LINES))
    if height is not None:
        room = max(height - len(head) - 2, 4)
        if len(gpus) + len(quotas) + len(agents) > room:
            agents = list(_agents(shown, width, 1))
        quotas = _cut(quotas, max(room // 4, 2))
        room -= len(quotas)
        for_gpus = min(len(gpus), max(room // 2, room - len(agents)))
        gpus, agents = _cut(gpus, for_gpus), _cut(agents, room - for_gpus)
    lines = [*head, Text(), *gpus, *quotas, Text(), *agents]
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
    known = [gpu.used_mebibytes for gpu in shown.gpus if gpu.used_mebibytes is not None]
    used = f", {gib(sum(known))} in use" if known else ""
    lines.append(Text(f"{_count(len(shown.gpus), 'GPU')}, {gib(booked)} of {gib(capacity)} booked{used}" if shown.gpus else "no GPUs"))
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
            if gpu.used_mebibytes is not None:
                yield _used(gpu, model, bar)
            if gpu.health == "Unmonitored":
                yield Text("     not monitored: its use can't be read, or its errors can't be heard", "bold yellow")
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
    """Booked: each holder with its cells."""
    bar, end = Text(), 0
    for index, (_, begin, end) in enumerate(_cells(gpu, cells)):
        bar.append(_pattern(index) * (end - begin), _colour(index))
    return bar.append(FREE * (cells - end), "bright_black")


def _cells(gpu: GpuLine, cells: int) -> Iterator[tuple[Holder, int, int]]:
    """Each holder has the cells between the sums before and with it, so that rounding never adds up; who holds anything has one."""
    end, taken = 0, 0
    for holder in gpu.holders:
        taken += holder.mebibytes
        upto = min(max(round(cells * taken / gpu.mebibytes) if gpu.mebibytes else cells, end + 1), cells)
        yield holder, end, max(end, upto)
        end = max(end, upto)


def _used(gpu: GpuLine, model: int, cells: int) -> Text:
    """Below the bar of what is booked: how much of its cells each holder uses. What is unknown is blank, what is idle is dotted."""
    line, end = Text(f"     {'in use':>{model}} "), 0
    for index, (holder, begin, end) in enumerate(_cells(gpu, cells)):
        if holder.used_mebibytes is None:
            line.append(" " * (end - begin))
            continue
        full = min(round((end - begin) * holder.used_mebibytes / holder.mebibytes), end - begin)
        full = max(full, 1) if holder.used_mebibytes and end > begin else full
        line.append(_pattern(index) * full, _colour(index)).append(FREE * (end - begin - full), "bright_black")
    line.append(" " * (cells - end))
    return line.append(f" {gib(gpu.used_mebibytes or 0).removesuffix(' GiB'):>5} of {gib(gpu.booked_mebibytes)}")


def _pattern(index: int) -> str:
    return PATTERNS[index % len(PATTERNS)]


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _holders(gpu: GpuLine, width: int, namespace: str | None) -> Iterator[Text]:
    """Who holds what, as many to a line as fit."""
    indent = " " * 5
    line = Text(indent)
    for index, holder in enumerate(gpu.holders):
        uses = "" if holder.used_mebibytes is None else f", uses {gib(holder.used_mebibytes).removesuffix(' GiB')}"
        entry = f"{_named(holder, namespace)} {format_mebibytes(holder.mebibytes)}{uses}" + ("" if holder.booked else " (ordered)")
        if len(line) > len(indent) and len(line) + len(entry) + 2 > width:
            yield line
            line = Text(indent)
        line.append(_pattern(index), _colour(index)).append(f" {entry}  ")
    line.rstrip()
    yield line


def _named(holder: Holder, namespace: str | None) -> str:
    return holder.name if holder.namespace == namespace else f"{holder.namespace}/{holder.name}"


def _quotas(shown: Picture, width: int) -> Iterator[Text]:
    """What each namespace may hold and holds, with an empty line before."""
    if not shown.quotas:
        return
    name = min(max(len(line.namespace) for line in shown.quotas), max(width // 4, 12))
    bar = min(max(width - name - QUOTA_COLUMNS, BAR_LEAST), BAR_MOST // 2)
    yield Text()
    yield Text(f"{'QUOTA OF':<{name + 2}}{'VRAM HELD':<{bar + 21}}AGENTS", "bold")
    for line in shown.quotas:
        yield _quota(line, name, bar)


def _quota(line: QuotaLine, name: int, cells: int) -> Text:
    row = Text(f"{_short(line.namespace, name):<{name}}  ")
    if line.error:
        return row.append(f"grants nothing: {line.error}", "bold red")
    held, granted = line.reserved.mebibytes, line.mebibytes
    style = "bold red" if line.exceeded else "cyan"
    if granted is None:
        row.append(f"{gib(held)}, no limit".ljust(cells + 19))
    else:
        full = min(-(-cells * held // granted) if granted else cells * bool(held), cells)
        row.append(PATTERNS[0] * full, style).append(FREE * (cells - full), "bright_black")
        row.append(f" {gib(held).removesuffix(' GiB'):>5} of {gib(granted):<9}")
    row.append(f"{line.reserved.agents:>4}" + ("" if line.agents is None else f" of {line.agents}"))
    if line.exceeded:
        row.append(", more than is granted", "bold red")
    if line.waiting.agents:
        wants = f" for {gib(line.waiting.mebibytes)}" if line.waiting.mebibytes else ""
        row.append(f", {line.waiting.agents} wait{'s' if line.waiting.agents == 1 else ''}{wants}", "yellow")
    return row


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
    if line.exceeded_share:
        row.append(", took more than its share", "red")
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

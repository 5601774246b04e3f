"""What Agents that remember were told of their contexts, in every life of each, by the logs that the node keeps."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aios_bench.faults.scenario import Outcome
from aios_bench.start import SPACE
from aios_localcluster import LocalCluster

LOOK_SECONDS = 15.0
_READ = f'for each in /var/log/pods/{SPACE}_real-*/*/*.log; do [ -f "$each" ] && echo "== $each" && cat "$each"; done; true'
_FILE = re.compile(r"== .*/[^_/]+_(?P<agent>[^_/]+)-(?P<attempt>\d+)_[^/]+/[^/]+/(?P<start>\d+)\.log")
_LINE = re.compile(r"\S+ stdout F (\{.*\})")

Life = tuple[int, int]
"""The attempt, and how often its container was started before."""


@dataclass
class Told:
    """One life: what it found at its beginning, and what it had said by the last look."""

    resumed: int | None = None
    acknowledged: int = 0
    appended: int = 0
    lost: int = 0
    refused: str = ""

    def hear(self, said: dict[str, Any]) -> None:
        self.resumed = said.get("resumed", self.resumed)
        self.acknowledged = max(self.acknowledged, said.get("acknowledged", 0))
        self.appended, self.lost = said.get("appended", self.appended), said.get("lost", self.lost)
        self.refused = self.refused or str(said.get("refused", ""))


@dataclass
class Memories:
    """`run` for as long as Agents come and go; `outcome` at the end."""

    lives: dict[str, dict[Life, Told]] = field(default_factory=dict)

    async def run(self, cluster: LocalCluster) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.look, cluster)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, cluster: LocalCluster) -> None:
        self.read(cluster.node_exec(["sh", "-c", _READ]).splitlines())

    def read(self, lines: Iterable[str]) -> None:
        told = Told()
        for line in lines:
            if file := _FILE.fullmatch(line):
                told = self.lives.setdefault(file["agent"], {})[int(file["attempt"]), int(file["start"])] = Told()
            elif said := _LINE.fullmatch(line):
                told.hear(json.loads(said[1]))

    @property
    def appended(self) -> int:
        return sum(told.appended for lives in self.lives.values() for told in lives.values())

    def outcome(self) -> Outcome:
        """Items that were missed within a life, and those that one had been told of and the next did not find."""
        lost, notes = 0, list[str]()
        for agent, lives in sorted(self.lives.items()):
            in_turn = [told for _, told in sorted(lives.items())]
            gone = sum(_between(in_turn))
            lost += gone + sum(told.lost for told in in_turn)
            notes += [f"{agent} did not find {gone} items that an earlier life of it had been told of"] if gone else []
            notes += [f"{agent} was refused: {told.refused}" for told in in_turn if told.refused][:1]
        return Outcome(context_items_lost=lost, notes=tuple(notes))


def _between(lives: list[Told]) -> Iterator[int]:
    known = 0
    for told in lives:
        if told.resumed is not None:
            yield max(0, known - told.resumed)
        known = max(known, told.acknowledged)

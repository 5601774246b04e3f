"""Which public addresses are inside here: those that the settings name, our own, and those that the operator tells in a file."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from aios_api.addresses import Internal, own_ranges, parse_network

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""Between two looks at the file. The kubelet brings a change of it within a minute or so."""
RANGES_LIMIT: Final = 4096
FILE_BYTES: Final = 1 << 20


class Ranges:
    """What is inside, as it was read last."""

    def __init__(self, path: Path | None, named: Iterable[str], own: Iterable[str]) -> None:
        """`named` are ranges that somebody wrote; ValueError for one that is none. Of `own` those count that are addresses and would be
        public: the API server may be told by a name."""
        self._path = path
        self._named = tuple(named)
        self._own = tuple(each for each in own if parse_network(each) is not None)
        self._text = ""
        self._wrong = ""
        self.internal = self._with(())
        self.look()

    def look(self) -> bool:
        """Whether what is inside has changed. A file that is not there changes nothing; one that can't be read, or of which a line is no
        range, neither, and that is told."""
        if self._path is None:
            return False
        try:
            with self._path.open(encoding="ascii") as file:
                text = file.read(FILE_BYTES)
            if text == self._text:
                return False
            internal = self._with(text.split())
        except FileNotFoundError:
            return False  # nobody has written it yet
        except (OSError, ValueError) as error:
            if str(error) != self._wrong:
                log.error("%s can't be taken, and what was read before stays in force: %s", self._path, error)
            self._wrong = str(error)
            return False
        changed = internal != self.internal
        self.internal, self._text, self._wrong = internal, text, ""
        return changed

    async def run(self, changed: Callable[[Internal], None]) -> None:
        """Calls `changed` after each change, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.look():
                log.info("%d public ranges are the cluster's own", len(self._text.split()))
                changed(self.internal)

    def _with(self, told: Iterable[str]) -> Internal:
        networks = []
        for text in (*told, *self._own):
            network = parse_network(text)
            if network is None:
                raise ValueError(f"{text!r} must be an address or an address range")
            networks.append(network)
        return Internal.with_cluster(self._named, own_ranges(networks, RANGES_LIMIT))

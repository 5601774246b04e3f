"""What the API server says exists, as last heard: a sink for `aios_kube.reflector.Reflector` that wakes whoever waits for a change."""

import asyncio
from typing import Any

Object = dict[str, Any]


class Mirror:
    """Objects of one selection by uid. An older version of an object never replaces a newer one."""

    def __init__(self) -> None:
        self._objects: dict[str, Object] = {}
        self._changed = asyncio.Event()
        self.heard = False
        """Whether a list was heard since this program started: only then does an absent object mean that there is none."""

    def replace(self, objects: list[Object]) -> None:
        self._objects = {obj["metadata"]["uid"]: obj for obj in objects}
        self.heard = True
        self._wake()

    def upsert(self, obj: Object) -> None:
        """Also for the answer to a write of ours, which the watch brings later."""
        known = self._objects.get(obj["metadata"]["uid"])
        if known is None or _version(known) <= _version(obj):
            self._objects[obj["metadata"]["uid"]] = obj
            self._wake()

    def remove(self, obj: Object) -> None:
        self._objects.pop(obj["metadata"]["uid"], None)
        self._wake()

    def get(self, uid: str) -> Object | None:
        return self._objects.get(uid)

    def all(self) -> list[Object]:
        return list(self._objects.values())

    def next_change(self) -> asyncio.Event:
        """Set by the next change from now on. Take it before looking, wait for it afterwards: then nothing is missed."""
        return self._changed

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])

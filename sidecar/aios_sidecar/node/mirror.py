"""What the API server says exists, as last heard: a sink for `aios_kube.reflector.Reflector` that wakes whoever waits for a change."""

import asyncio
from collections import OrderedDict
from typing import Any

Object = dict[str, Any]
REMEMBERED = 1000
"""Objects that are gone. What is said late of one comes a request or an event later, not a thousand."""


class Mirror:
    """Objects of one selection by uid. An older version of an object never replaces a newer one, and what was removed does not come back
    by what is said late: an event that was under way, or the answer to a write."""

    def __init__(self) -> None:
        self._objects: dict[str, Object] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        """By uid, the version in which it was removed; one that matches the selection again has a later one."""
        self._changed = asyncio.Event()
        self.heard = False
        """Whether a list was heard since this program started: only then does an absent object mean that there is none."""

    def replace(self, objects: list[Object]) -> None:
        self._objects = {obj["metadata"]["uid"]: obj for obj in objects}
        self.heard = True
        self._wake()

    def upsert(self, obj: Object) -> None:
        """Also for the answer to a write of ours, which the watch brings later."""
        uid, version = obj["metadata"]["uid"], _version(obj)
        known = self._objects.get(uid)
        if version > self._gone.get(uid, 0) if known is None else version >= _version(known):
            self._objects[uid] = obj
            self._wake()

    def remove(self, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        self._objects.pop(uid, None)
        self._gone.pop(uid, None)
        self._gone[uid] = _version(obj)
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
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

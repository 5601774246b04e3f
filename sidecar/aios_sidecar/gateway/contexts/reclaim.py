"""Contexts of agents that are gone: who is to be erased then is kept beside the context, and who is gone the node agent says."""

import logging
from collections.abc import Callable
from typing import TypeVar

from aios_sidecar.context.errors import ContextError
from aios_sidecar.context.sqlite.store import SqliteStore
from aios_sidecar.context.store import AgentKey
from aios_sidecar.contracts.agents import AgentIdentity
from aios_sidecar.contracts.link import ErasedContext
from aios_sidecar.gateway.contexts.desk import VISITOR, Desk

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reclaimer:
    """What can't be done now is logged, and done when it is asked for again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def order(self, identity: AgentIdentity, erase: bool) -> None:
        """Beside the agent's context stands whether it is to be erased once the agent is gone."""
        key = AgentKey(identity.namespace, identity.name, identity.uid)
        await self._try(lambda store: store.reclaim(key, erase=erase), "can't be marked")

    async def marked(self) -> list[AgentKey]:
        """Whose contexts are to be erased once they are gone; none while that can't be told."""
        return await self._try(lambda store: store.reclaimable(), "can't be told") or []

    async def erase(self, uid: str) -> ErasedContext | None:
        """Nothing of the agent is here any more. None: it is, since it could not be removed."""
        self._desk.forget(uid)
        erased = await self._try(lambda store: _take_away(store, uid), "can't be erased yet")
        self._desk.forget(uid)
        return erased

    async def _try(self, work: Callable[[SqliteStore], T], failed: str) -> T | None:
        try:
            return await self._desk.run(lambda: work(self._desk.files()))
        except ContextError as error:
            log.warning("a context of an agent that is gone, or will be, %s: %s", failed, error)
            return None


def _take_away(store: SqliteStore, uid: str) -> ErasedContext:
    key = next((each for each in store.reclaimable() if each.uid == uid), None)
    if key is None:
        return ErasedContext(uid=uid)  # erased before, or not to be erased any more
    items = None
    try:
        items = store.existing(key, VISITOR).describe().items if store.holds(key) else 0
    except ContextError as error:
        log.warning("what is in the context of %s/%s can't be counted: %s", key.namespace, key.name, error)
    store.rest(key)
    files = store.take_away(key)
    log.info("%s/%s is gone: its context is erased, %s items in %d files", key.namespace, key.name, items, files)
    return ErasedContext(uid=uid, items=items, files=files)

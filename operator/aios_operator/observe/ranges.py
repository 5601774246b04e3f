"""What is read again and again of the cluster's addresses: the ranges of Services, and what gateways are told at present."""

from __future__ import annotations

import asyncio
import logging

from aios_api import names
from aios_kube import ClusterClient, resources
from aios_kube.errors import ApiError, NotFound
from aios_operator.observe.store import Store

log = logging.getLogger(__name__)


async def read(client: ClusterClient, store: Store, namespace: str) -> None:
    """The store knows both. Raises `ApiError` when one can't be read."""
    try:
        services = frozenset(cidr for raw in (await client.list(resources.SERVICE_CIDRS)).items for cidr in raw["spec"]["cidrs"])
    except NotFound:  # an API server from before there were such objects
        services = frozenset()
    try:
        found = await client.get(resources.CONFIG_MAPS, names.CLUSTER_RANGES, namespace)
    except NotFound:
        found = {}
    published = (found.get("data") or {}).get(names.CLUSTER_RANGES_KEY, "")
    store.set_ranges(services, tuple(published.split()))


async def refresh(client: ClusterClient, store: Store, namespace: str, interval_seconds: float) -> None:
    """Keeps the store's knowledge fresh, for ever. A failed read leaves the last one in force."""
    while True:
        await asyncio.sleep(interval_seconds)
        try:
            await read(client, store, namespace)
        except ApiError as error:
            log.warning("what address ranges are the cluster's own could not be read, and is read again later: %s", error)

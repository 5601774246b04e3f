"""What is read again and again of the cluster's addresses: the ranges of Services, and what gateways are told at present."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from aios_api import names
from aios_kube import ClusterClient, resources
from aios_kube.errors import ApiError, NotFound

log = logging.getLogger(__name__)


@dataclass
class Ranges:
    """What was read or written last."""

    services: frozenset[str] = frozenset()
    published: tuple[str, ...] = ()
    """What gateways are told."""
    dirty: bool = True
    """They may have to be told otherwise. The loop looks at it each second."""


async def read(client: ClusterClient, ranges: Ranges, namespace: str) -> None:
    """`ranges` are as they are now. Raises `ApiError` when one can't be read."""
    try:
        services = frozenset(cidr for raw in (await client.list(resources.SERVICE_CIDRS)).items for cidr in raw["spec"]["cidrs"])
    except NotFound:  # an API server from before there were such objects
        services = frozenset()
    try:
        found = await client.get(resources.CONFIG_MAPS, names.CLUSTER_RANGES, namespace)
    except NotFound:
        found = {}
    published = (found.get("data") or {}).get(names.CLUSTER_RANGES_KEY, "")
    found_now = services, tuple(published.split())
    ranges.dirty = ranges.dirty or found_now != (ranges.services, ranges.published)
    ranges.services, ranges.published = found_now


async def refresh(client: ClusterClient, ranges: Ranges, namespace: str, interval_seconds: float) -> None:
    """Keeps `ranges` fresh, for ever. A failed read leaves the last one in force."""
    while True:
        await asyncio.sleep(interval_seconds)
        try:
            await read(client, ranges, namespace)
        except ApiError as error:
            log.warning("what address ranges are the cluster's own could not be read, and is read again later: %s", error)

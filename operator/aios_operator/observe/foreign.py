"""What pods that are not ours request on each node: from a paged list, of which only sums are kept.

A watch of all pods would cost the memory of all pods. kube-scheduler has the last word on a node's CPU and memory anyway; this only
keeps us from choosing nodes that it would refuse.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from aios_api import names
from aios_kube import ClusterClient, Selection, resources
from aios_kube.errors import ApiError
from aios_operator.decide.requests import of_pod_or_one
from aios_operator.decide.views import Requests
from aios_operator.observe.store import Store

log = logging.getLogger(__name__)

FOREIGN = Selection(labels=f"!{names.LABEL_AGENT}", fields="spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed")
"""Bound pods that have not ended and are not an Agent's."""

PAGE = 50
"""Pods in memory at once. A pod of 7 KB is about ten times as much when it is parsed: 20,000 of them raise the operator's memory by 4 MiB
with pages of 50, by 10 with 100, and by 50 with the 500 that do for lists which are kept (`aiosctl bench foreign`)."""


async def count(client: ClusterClient) -> dict[str, Requests]:
    """The requests of foreign pods by node. Holds one page of pods at a time."""
    sums: defaultdict[str, Requests] = defaultdict(Requests)
    async for page in client.pages(resources.PODS, FOREIGN, page_size=PAGE):
        for pod in page.items:
            sums[pod["spec"]["nodeName"]] += of_pod_or_one(pod["spec"])
        await asyncio.sleep(0)  # a page is tens of milliseconds of arithmetic: let others run between two
    return dict(sums)


async def refresh(client: ClusterClient, store: Store, interval_seconds: float) -> None:
    """Keeps the store's sums fresh, for ever. A failed count leaves the last one in force."""
    while True:
        await asyncio.sleep(interval_seconds)
        try:
            store.set_foreign(await count(client))
        except ApiError as error:
            log.warning("counting the requests of other pods failed and is repeated later: %s", error)

"""Which public addresses are the cluster's own: gateways let agents reach them only where a ToolBinding names them, as private ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aios_api.addresses import Network, own_ranges, parse_network
from aios_operator.decide.views import NodeView

log = logging.getLogger(__name__)

RANGES_LIMIT = 1024
"""More of them are taken together: a gateway looks at each for every address that it judges."""


def cluster_ranges(nodes: Iterable[NodeView], services: Iterable[str]) -> tuple[str, ...]:
    """Addresses of nodes, and ranges of their pods and of Services. Empty where all are private, as in nearly every cluster."""
    found: set[Network] = set()
    for text in {*services, *(each for node in nodes for each in node.networks)}:
        network = parse_network(text)
        if network is None:
            log.warning("%r, which a Node or a ServiceCIDR has, is no address and no range, and is left out", text)
        else:
            found.add(network)
    each_apart = own_ranges(found, len(found))
    told = own_ranges(each_apart, RANGES_LIMIT)
    if told != each_apart:
        log.warning(
            "of %d public ranges of the cluster neighbours are taken together: %d are told, and hold more", len(each_apart), len(told)
        )
    return tuple(str(each) for each in told)

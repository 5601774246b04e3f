"""A program of a release that speaks another contract between node agent and gateway, as one of the two does in the midst of an update."""

from __future__ import annotations

import os

from aios_sidecar.contracts import link as contract
from aios_sidecar.gateway import link as gateway
from aios_sidecar.node import link as node

TOLD = {"AIOS_OTHER_RELEASE": "yes"}
"""In the environment of such a program."""


def as_told() -> None:
    """This program is of the release that the environment says."""
    if not TOLD.items() <= os.environ.items():
        return
    version = contract.HANDOVER_VERSION + 1
    for module in (contract, gateway, node):
        setattr(module, "HANDOVER_VERSION", version)  # noqa: B010 - it is a constant
    contract.Hello.model_fields["contract"].default = version
    contract.Hello.model_rebuild(force=True)

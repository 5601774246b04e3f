"""`aios-node`: the node agent with the GPU inventory of this node."""

import asyncio
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from aios_kube.client import connect
from aios_sidecar.node.agent import NodeAgent
from aios_sidecar.node.settings import InvalidSettings, NodeSettings, from_environment
from aios_sidecar.vram.inventory import NvmlInventory

log = logging.getLogger(__name__)


def main() -> None:
    """Runs until SIGTERM or SIGINT. Settings that can't be used end it with status 2 and the sentence that says which."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = from_environment()
    except InvalidSettings as error:
        print(f"aios-node: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    asyncio.run(_run(settings))


async def _run(settings: NodeSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    kubeconfig = os.environ.get("KUBECONFIG")
    client = await connect(Path(kubeconfig) if kubeconfig else None, user_agent="aios-node")
    inventory = NvmlInventory()
    try:
        await NodeAgent(settings, client, inventory, lambda: datetime.now(UTC)).run(stop)
    finally:
        await inventory.close()
        await client.close()
    log.info("ended; agents on this node go on")


if __name__ == "__main__":
    main()
